"""LoRA: small trained matrices beside frozen weights, through peft; saved as an adapter, then
merged into the model.

Hu et al. 2021, arXiv 2106.09685. The model stays of its stock class: peft puts its layers into it
and takes them out again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lingshu.core.errors import MissingExtraError
from lingshu.core.files import atomic_folder, write_manifest
from lingshu.models.base import ModelFamily
from lingshu.train.config import Lora

ADAPTER_KEY = "lora_"  # what peft puts into the names of adapter parameters


def is_adapter(parameter: str) -> bool:
    return ADAPTER_KEY in parameter


def target_modules(model: Any, family: ModelFamily, lora: Lora) -> list[str]:
    """Names of the linear layers that get an adapter: all of the given parts but the output head."""
    names = []
    for name, module in model.named_modules():
        if (
            isinstance(module, torch.nn.Linear)
            and not name.startswith("lm_head")
            and family.part_of(name + ".") in lora.parts
        ):
            names.append(name)
    return names


def peft_config(model: Any, family: ModelFamily, lora: Lora) -> Any:
    """The adapter's configuration as peft reads it.

    Raises:
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("peft", "peft") from error
    names = target_modules(model, family, lora)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names,
        bias="none",
    )


def inject_adapters(model: Any, family: ModelFamily, lora: Lora, *, seed: int) -> Any:
    """Put adapters into the model, in place, and return their configuration; what the model says is
    unchanged at first.

    Raises:
        MissingExtra: peft is not installed.
    """
    config = peft_config(model, family, lora)
    from peft import inject_adapter_in_model

    torch.manual_seed(seed)
    inject_adapter_in_model(config, model)
    return config


def save_adapter(model: Any, config: Any, base: str, folder: Path) -> None:
    """Write the adapter as peft loads it onto `base`."""
    from peft import get_peft_model_state_dict

    config.base_model_name_or_path = base
    with atomic_folder(folder) as temporary:
        # peft names parameters as its wrapper sees them, one level above the stock model.
        state_dict = get_peft_model_state_dict(model, save_embedding_layers=False)
        weights = {
            f"base_model.model.{name}": tensor.contiguous().cpu()
            for name, tensor in state_dict.items()
        }
        save_file(weights, temporary / "adapter_model.safetensors")
        settings = {**config.to_dict(), "target_modules": sorted(config.target_modules)}
        (temporary / "adapter_config.json").write_text(
            json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8"
        )
        write_manifest(temporary)


def merge_adapters(model: Any) -> None:
    """Add the adapters to the weights they stand beside and take them out, in place: the model is
    of its stock form again.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
