"""Real configurations of the released models, to plan with on a machine that will never hold their
weights.

Sizes of the 7B and of InternVL3-8B are those of their public config.json files; those of the 32B
are field knowledge and marked so. Nothing is downloaded: models are built on torch's meta device,
which has shapes and no values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lingshu.core.errors import ArtifactError, suggest_name
from lingshu.models.base import ModelFamily, VisionTowerSpec, family_of
from lingshu.models.load import HUB_ID_PATTERN, check_model_folder
from lingshu.models.model_spec import PARTS, FamilyName, Part, TinyModel
from lingshu.models.tiny import tiny_config

_QWEN_TEXT: dict[str, Any] = {
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_TEXT_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
}
_TEXT_32B = {
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "intermediate_size": 27648,
}
_INTERN_VISION = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": [448, 448],
}


@dataclass(frozen=True)
class ReleasedModel:
    """A released architecture; `verified` is False where its sizes were not seen in a public file."""

    family: FamilyName
    config: dict[str, Any]
    verified: bool


QWEN_7B = ReleasedModel(
    "qwen2_5_vl",
    {
        "text_config": {**_QWEN_TEXT, **_TEXT_7B},
        "vision_config": {**_QWEN_VISION, "intermediate_size": 3420, "out_hidden_size": 3584},
    },
    verified=True,
)
QWEN_32B = ReleasedModel(
    "qwen2_5_vl",
    {
        "text_config": {**_QWEN_TEXT, **_TEXT_32B},
        "vision_config": {**_QWEN_VISION, "intermediate_size": 3456, "out_hidden_size": 5120},
    },
    verified=False,
)
INTERN_8B = ReleasedModel(
    "internvl",
    {
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151674,
            "tie_word_embeddings": False,
            **_TEXT_7B,
        },
        "vision_config": {"patch_size": [14, 14], **_INTERN_VISION},
        "image_seq_length": 256,
        "tie_word_embeddings": False,
    },
    verified=True,
)
RELEASED_MODELS: dict[str, ReleasedModel] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": QWEN_7B,
    "Qwen/Qwen2.5-VL-32B-Instruct": QWEN_32B,
    "OpenGVLab/InternVL3-8B-hf": INTERN_8B,
    "lingshu-medical-mllm/Lingshu-7B": QWEN_7B,
    "lingshu-medical-mllm/Lingshu-32B": QWEN_32B,
    "lingshu-medical-mllm/Lingshu-I-8B": INTERN_8B,
}


@dataclass(frozen=True)
class ModelShapes:
    """Parameter counts by part, and the sizes that memory depends on. `verified`: see Known.

    `linear_sides` sums inputs and outputs of the linear layers by part, the output head left out:
    an adapter of rank r has r times as many parameters. `multiplied` counts the weights that each
    token (or patch) is multiplied with by part: no embedding tables, and `head` for itself.
    `attention` is the summed width of a language layer's query heads, `blocks` the parameters of
    each vision block and language layer in order, `rest` those outside of them.
    """

    family: FamilyName
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
    """Stands in for a tokenizer that is trained only when the run starts: its size is what the spec
    allows.
    """

    eos_token_id, pad_token_id = 1, 0

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
        ArtefactError: neither a tiny model, a checkpoint folder nor a released model whose sizes
            are on file.
    """
    family, meta_model = build_on_meta(model)
    verified = (
        RELEASED_MODELS[model].verified
        if isinstance(model, str) and model in RELEASED_MODELS
        else True
    )
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in meta_model.named_parameters():
        counts[family.part_of(name)] += parameter.numel()
    linear_dims: dict[Part, int] = dict.fromkeys(PARTS, 0)
    matmul_parameters: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, module in meta_model.named_modules():
        if isinstance(
            module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d
        ) and not name.startswith("lm_head"):
            matmul_parameters[family.part_of(name + ".")] += module.weight.numel()
            if isinstance(module, torch.nn.Linear):
                linear_dims[family.part_of(name + ".")] += module.in_features + module.out_features
    text_config = meta_model.config.text_config
    attention = text_config.num_attention_heads * (
        getattr(text_config, "head_dim", None)
        or text_config.hidden_size // text_config.num_attention_heads
    )
    return ModelShapes(
        family=family.name,
        parameters=counts,
        linear_dims=linear_dims,
        matmul_parameters=matmul_parameters,
        lm_head_parameters=meta_model.lm_head.weight.numel(),
        hidden=text_config.hidden_size,
        layers=text_config.num_hidden_layers,
        attention=attention,
        vocab_size=text_config.vocab_size,
        tower=family.tower(meta_model.config),
        blocks=tuple(
            sum(p.numel() for p in block.parameters())
            for path in family.blocks
            for block in meta_model.get_submodule(path)
        ),
        verified=verified,
    )


def build_on_meta(model: str | TinyModel) -> tuple[ModelFamily, Any]:
    """A model's family and its stock model class on the meta device: every name and shape, no
    values.

    Raises:
        ArtefactError: neither a tiny model, a checkpoint folder nor a released model whose sizes
            are on file.
    """
    import transformers

    if isinstance(model, TinyModel):
        family = family_of(model.family)
        config = tiny_config(family, model, _TokenizerStub(model.vocab_size))
    elif model in RELEASED_MODELS:
        family = family_of(RELEASED_MODELS[model].family)
        config = getattr(transformers, family.model_class).config_class(
            **RELEASED_MODELS[model].config
        )
    else:
        if HUB_ID_PATTERN.fullmatch(model) and not Path(model).is_dir():
            raise ArtifactError(
                f"the sizes of {model!r} are not on file; {suggest_name(model, RELEASED_MODELS)}"
            )
        family, _ = check_model_folder(Path(model))
        config = transformers.AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return family, getattr(transformers, family.model_class)._from_config(config)
