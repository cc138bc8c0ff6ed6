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

from lingshu.core.errors import ArtefactError, nearest
from lingshu.models.family import Family, Tower, family_of
from lingshu.models.load import HUB_ID, check_folder
from lingshu.models.spec import PARTS, FamilyName, Part, TinyModel
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
class Known:
    """A released architecture; `verified` is False where its sizes were not seen in a public file."""

    family: FamilyName
    config: dict[str, Any]
    verified: bool


QWEN_7B = Known(
    "qwen2_5_vl",
    {
        "text_config": {**_QWEN_TEXT, **_TEXT_7B},
        "vision_config": {**_QWEN_VISION, "intermediate_size": 3420, "out_hidden_size": 3584},
    },
    verified=True,
)
QWEN_32B = Known(
    "qwen2_5_vl",
    {
        "text_config": {**_QWEN_TEXT, **_TEXT_32B},
        "vision_config": {**_QWEN_VISION, "intermediate_size": 3456, "out_hidden_size": 5120},
    },
    verified=False,
)
INTERN_8B = Known(
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
KNOWN: dict[str, Known] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": QWEN_7B,
    "Qwen/Qwen2.5-VL-32B-Instruct": QWEN_32B,
    "OpenGVLab/InternVL3-8B-hf": INTERN_8B,
    "lingshu-medical-mllm/Lingshu-7B": QWEN_7B,
    "lingshu-medical-mllm/Lingshu-32B": QWEN_32B,
    "lingshu-medical-mllm/Lingshu-I-8B": INTERN_8B,
}


@dataclass(frozen=True)
class Shapes:
    """Parameter counts by part, and the sizes that memory depends on. `verified`: see Known.

    `linear_sides` sums inputs and outputs of the linear layers by part, the output head left out:
    an adapter of rank r has r times as many parameters. `multiplied` counts the weights that each
    token (or patch) is multiplied with by part: no embedding tables, and `head` for itself.
    `attention` is the summed width of a language layer's query heads, `blocks` the parameters of
    each vision block and language layer in order, `rest` those outside of them.
    """

    family: FamilyName
    parameters: dict[Part, int]
    linear_sides: dict[Part, int]
    multiplied: dict[Part, int]
    head: int
    hidden: int
    layers: int
    attention: int
    vocabulary: int
    tower: Tower
    blocks: tuple[int, ...]
    verified: bool

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def rest(self) -> int:
        return self.total - sum(self.blocks)


class _Vocabulary:
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


def shapes(model: str | TinyModel) -> Shapes:
    """Parameter counts of a model from its real configuration, built on the meta device in seconds
    and megabytes.

    Raises:
        ArtefactError: neither a tiny model, a checkpoint folder nor a released model whose sizes
            are on file.
    """
    family, built = on_meta(model)
    verified = KNOWN[model].verified if isinstance(model, str) and model in KNOWN else True
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in built.named_parameters():
        counts[family.part_of(name)] += parameter.numel()
    sides: dict[Part, int] = dict.fromkeys(PARTS, 0)
    multiplied: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, module in built.named_modules():
        if isinstance(
            module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d
        ) and not name.startswith("lm_head"):
            multiplied[family.part_of(name + ".")] += module.weight.numel()
            if isinstance(module, torch.nn.Linear):
                sides[family.part_of(name + ".")] += module.in_features + module.out_features
    text = built.config.text_config
    attention = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    return Shapes(
        family=family.name,
        parameters=counts,
        linear_sides=sides,
        multiplied=multiplied,
        head=built.lm_head.weight.numel(),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        attention=attention,
        vocabulary=text.vocab_size,
        tower=family.tower(built.config),
        blocks=tuple(
            sum(p.numel() for p in block.parameters())
            for path in family.blocks
            for block in built.get_submodule(path)
        ),
        verified=verified,
    )


def on_meta(model: str | TinyModel) -> tuple[Family, Any]:
    """A model's family and its stock model class on the meta device: every name and shape, no
    values.

    Raises:
        ArtefactError: neither a tiny model, a checkpoint folder nor a released model whose sizes
            are on file.
    """
    import transformers

    if isinstance(model, TinyModel):
        family = family_of(model.family)
        config = tiny_config(family, model, _Vocabulary(model.vocabulary))
    elif model in KNOWN:
        family = family_of(KNOWN[model].family)
        config = getattr(transformers, family.model_class).config_class(**KNOWN[model].config)
    else:
        if HUB_ID.fullmatch(model) and not Path(model).is_dir():
            raise ArtefactError(f"the sizes of {model!r} are not on file; {nearest(model, KNOWN)}")
        family, _ = check_folder(Path(model))
        config = transformers.AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return family, getattr(transformers, family.model_class)._from_config(config)
