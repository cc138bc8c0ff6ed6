"""LoRA: small trained matrices alongside frozen weights, by peft; saved, then merged.

Hu et al. 2021, arXiv 2106.09685. The model keeps its stock class: peft replaces its linear layers
and puts them back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lingshu.core.errors import ConfigError, MissingExtraError
from lingshu.core.files import atomic_folder, write_manifest
from lingshu.models.base import VisionLanguageFamily
from lingshu.models.processor import Processor
from lingshu.train.config import Lora


def is_adapter(parameter: str) -> bool:
    return "lora_" in parameter  # as peft names them


def inject_adapters(model: Any, family: VisionLanguageFamily, lora: Lora, *, seed: int) -> Any:
    """Add adapters to the linear layers of the parts, in place; returns the peft configuration.

    The outputs are unchanged at first. Adapters are float32, whatever type their layers are in.

    Raises:
        MissingExtraError: peft is not installed.
        ConfigError: a part without linear layers, of which nothing would be trained.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("peft", "peft") from error
    part_of_target = {
        name: family.part_of(name + ".")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("lm_head")
    }
    if missing := [part for part in lora.parts if part not in part_of_target.values()]:
        raise ConfigError(
            f"the {missing[0]} of {family.model_type} has no linear layer, which LoRA needs; leave it"
            " out of lora.parts (with a learning rate it is trained as a whole)."
        )
    targets = [name for name, part in part_of_target.items() if part in lora.parts]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
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


@torch.no_grad()
def merge_adapters(model: Any, dtype: torch.dtype = torch.float32) -> None:
    """Add the adapters to their base weights and remove them, in place: a stock model again.

    The sums are made in float32 and rounded once, to `dtype`.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module.get_base_layer()
            weight = layer.weight.float()
            for adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).float()  # pyright: ignore
            layer.weight.data = weight.to(dtype)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)


def copy_trained(trained: Any, model: Any, processor: Processor, lora: Lora) -> None:
    """Give a model, as it was before a stage, the adapters and weights that were `trained` on a
    quantized copy of it.
    """
    inject_adapters(model, processor.family, lora, seed=0)
    changed = {name: p.data for name, p in trained.named_parameters() if p.requires_grad}
    _, unknown = model.load_state_dict(changed, strict=False)
    assert not unknown
