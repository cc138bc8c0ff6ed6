"""The real configurations of the released models, for planning on a machine that will never hold
their weights.

Sizes are those of public config.json files, and the totals those of the published weights; those of
the 32B are field knowledge and marked so. Nothing is downloaded: models are built on torch's meta
device, which has shapes and no values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lingshu.core.errors import ArtifactError, suggest_name
from lingshu.models.base import VisionLanguageFamily, VisionTowerSpec, family_of
from lingshu.models.checkpoint_tensors import build_meta_model, open_meta_model
from lingshu.models.load import HUB_ID_PATTERN, open_model_files
from lingshu.models.model_spec import PARTS, Part, TinyModel
from lingshu.models.tiny import tiny_config

# {"architectures": {NAME: {"family", "verified", "config"}}, "models": {HUB ID: NAME}}; `verified`
# is false where the sizes were not seen in a public file.
RELEASED_FILE = Path(__file__).with_name("released.json")


@cache
def released_models() -> dict[str, dict[str, Any]]:
    """Hub id -> family, config and `verified` of each released model."""
    released = json.loads(RELEASED_FILE.read_text(encoding="utf-8"))
    return {name: released["architectures"][key] for name, key in released["models"].items()}


@dataclass(frozen=True)
class ModelShapes:
    """Parameter counts by part, and the sizes that cost depends on.

    `linear_dims` sums inputs and outputs of the linear layers by part, without the output head: an
    adapter of rank r has r times as many parameters. `matmul_parameters` counts the weights that
    each token (or patch) is multiplied with by part: no embedding tables, and the output head in
    `lm_head_parameters`. `attention` is the summed width of the query heads of a language layer,
    `blocks` the parameters of each vision block and language layer in order. `verified` is False
    where the sizes were not seen in a public file.
    """

    family: str
    parameters: dict[Part, int]
    linear_dims: dict[Part, int]
    matmul_parameters: dict[Part, int]
    lm_head_parameters: int
    hidden: int
    layers: int
    attention: int
    vocab_size: int
    tower: VisionTowerSpec
    blocks: tuple[int, ...]
    verified: bool

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def outside_blocks(self) -> int:
        return self.total - sum(self.blocks)


class _TokenizerStub:
    """As large as the spec allows, for a tokenizer that is trained when a run starts."""

    bos_token_id, eos_token_id, pad_token_id = None, 1, 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        return sum(token.encode()) % self.size


def load_shapes(model: str | TinyModel) -> ModelShapes:
    """Parameter counts of a model from its real configuration, built on the meta device in seconds
    and megabytes.

    Raises:
        ArtifactError: neither a tiny model, a checkpoint folder nor a released model whose sizes
            are known.
    """
    family, meta_model = build_on_meta(model)
    released = released_models().get(model) if isinstance(model, str) else None
    counts, linear_dims, matmul_parameters = (dict.fromkeys(PARTS, 0) for _ in range(3))
    for name, parameter in meta_model.named_parameters():
        counts[family.part_of(name)] += parameter.numel()
    for name, module in meta_model.named_modules():
        if name.startswith("lm_head"):
            continue
        if isinstance(module, torch.nn.Linear):
            linear_dims[family.part_of(name + ".")] += module.in_features + module.out_features
        for child, parameter in module.named_parameters(recurse=False):
            is_filter = isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)
            is_matrix = parameter.ndim == 2 and not isinstance(module, torch.nn.Embedding)
            if is_matrix or (is_filter and parameter.ndim > 2):
                matmul_parameters[family.part_of(f"{name}.{child}")] += parameter.numel()
    text = meta_model.config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShapes(
        family=family.model_type,
        parameters=counts,
        linear_dims=linear_dims,
        matmul_parameters=matmul_parameters,
        lm_head_parameters=meta_model.lm_head.weight.numel(),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        attention=text.num_attention_heads * head_dim,
        vocab_size=text.vocab_size,
        tower=family.tower(meta_model.config),
        blocks=tuple(
            sum(p.numel() for p in block.parameters())
            for path in family.blocks
            for block in meta_model.get_submodule(path)
        ),
        verified=released is None or released["verified"],
    )


def build_on_meta(model: str | TinyModel) -> tuple[VisionLanguageFamily, Any]:
    """The family of a model and its stock model class on the meta device: every name and shape, no
    values.

    Raises:
        ArtifactError: as load_shapes.
    """
    if isinstance(model, TinyModel):
        family = family_of(model.family)
        config = tiny_config(family, model, _TokenizerStub(model.vocab_size))
    elif released := released_models().get(model):
        family = family_of(released["family"])
        config = family.stock_class.config_class(**released["config"])
    else:
        if HUB_ID_PATTERN.fullmatch(model) and not Path(model).is_dir():
            raise ArtifactError(
                f"the sizes of {model!r} are unknown; {suggest_name(model, released_models())}"
            )
        files, family = open_model_files(Path(model))
        return family, open_meta_model(files, family).model
    return family, build_meta_model(family, config)
