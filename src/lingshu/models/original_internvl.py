"""The original layout of InternVL checkpoints, read without their code: names, settings, tokenizer.

OpenGVLab publishes InternVL 2, 2.5, 3 and 3.5 with model code of their own (`internvl_chat`). The
facts below are those of that code (github.com/OpenGVLab/InternVL, internvl_chat/internvl/model,
commit 03285798) and of transformers' published converter (models/internvl/
convert_internvl_weights_to_hf.py, commit 015d3b27).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import ArtifactError
from lingshu.core.files import read_json, write_json
from lingshu.models.base import VisionLanguageFamily
from lingshu.models.model_spec import PixelBudget
from lingshu.models.processor import Processor, build_processor
from lingshu.weights.convert import StoredTensor, TensorPlan

MODEL_TYPE = "internvl_chat"
# The language models whose stock class computes what the original code computes, by the class that
# config.json names: the stock model type.
TEXT_MODEL_TYPES = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
    "InternLM2ForCausalLM": "llama",
}
# Prompt forms that are ChatML, as the family's chat template is.
CHATML_TEMPLATES = {"internvl2_5", "internlm2-chat", "Hermes-2"}
# What the original configuration classes take for keys that config.json leaves out.
VISION_DEFAULTS: Mapping[str, Any] = {
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "qkv_bias": False,
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qk_normalization": True,
    "num_hidden_layers": 48,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "initializer_factor": 0.1,
}
VISION_KEYS = {
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "initializer_factor": "layer_scale_init_value",
}
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
TURN_START, TURN_END, VIDEO_PAD = "<|im_start|>", "<|im_end|>", "<|video_pad|>"

_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_TEXT_LAYER = r"language_model\.model\.layers\.(\d+)\."
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"vision_model\.embeddings\.class_embedding", "model.vision_tower.embeddings.cls_token"),
    (
        r"vision_model\.embeddings\.position_embedding",
        "model.vision_tower.embeddings.position_embeddings",
    ),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        r"model.vision_tower.embeddings.patch_embeddings.projection.\1",
    ),
    (_LAYER + r"attn\.proj\.", r"model.vision_tower.encoder.layer.\1.attention.projection_layer."),
    (_LAYER + r"attn\.([qk])_norm\.", r"model.vision_tower.encoder.layer.\1.attention.\2_norm."),
    (_LAYER + r"norm1\.", r"model.vision_tower.encoder.layer.\1.layernorm_before."),
    (_LAYER + r"norm2\.", r"model.vision_tower.encoder.layer.\1.layernorm_after."),
    (_LAYER + r"ls([12])$", r"model.vision_tower.encoder.layer.\1.lambda_\2"),
    (_LAYER + r"mlp\.", r"model.vision_tower.encoder.layer.\1.mlp."),
    (r"mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"language_model\.model\.tok_embeddings\.", "model.language_model.embed_tokens."),
    (r"language_model\.output\.", "lm_head."),
    (r"language_model\.lm_head\.", "lm_head."),
    (_TEXT_LAYER + r"attention\.wo\.", r"model.language_model.layers.\1.self_attn.o_proj."),
    (_TEXT_LAYER + r"feed_forward\.w1\.", r"model.language_model.layers.\1.mlp.gate_proj."),
    (_TEXT_LAYER + r"feed_forward\.w2\.", r"model.language_model.layers.\1.mlp.down_proj."),
    (_TEXT_LAYER + r"feed_forward\.w3\.", r"model.language_model.layers.\1.mlp.up_proj."),
    (_TEXT_LAYER + r"attention_norm\.", r"model.language_model.layers.\1.input_layernorm."),
    (_TEXT_LAYER + r"ffn_norm\.", r"model.language_model.layers.\1.post_attention_layernorm."),
    (r"language_model\.model\.", "model.language_model."),
)
_VISION_QKV = re.compile(_LAYER + r"attn\.qkv\.(weight|bias)")
_TEXT_QKV = re.compile(_TEXT_LAYER + r"attention\.wqkv\.(weight|bias)")


class OriginalModel(NamedTuple):
    """What replaces the settings of an original checkpoint: configuration, processor, end tokens,
    and what a reader should know."""

    config: Any
    processor: Processor
    generation: dict[str, Any]
    notes: tuple[str, ...]


def rename_tensors(
    tensors: Mapping[str, StoredTensor], text_config: Any
) -> Iterator[TensorPlan | str]:
    """The stock tensors of the original ones, in their order; the name of one that is unknown.

    The vision tower's query, key and value are one tensor, stacked. InternLM2 keeps them in one
    tensor as well, grouped: for each key head its query heads, then key, then value.
    """
    for name, stored in tensors.items():
        if match := _VISION_QKV.fullmatch(name):
            rows = stored.shape[0] // 3
            prefix = f"model.vision_tower.encoder.layer.{match[1]}.attention"
            for index, part in enumerate("qkv"):
                target = f"{prefix}.{part}_proj.{match[2]}"
                yield TensorPlan.rows(target, name, stored, [(index * rows, rows)])
        elif match := _TEXT_QKV.fullmatch(name):
            n_groups = text_config.num_key_value_heads
            n_queries = text_config.num_attention_heads // n_groups
            head = stored.shape[0] // (n_groups * (n_queries + 2))
            prefix = f"model.language_model.layers.{match[1]}.self_attn"
            for part, first, n_heads in (("q", 0, n_queries), ("k", n_queries, 1), ("v", -1, 1)):
                first = first if first >= 0 else n_queries + 1
                rows_of_part = [
                    ((group * (n_queries + 2) + first) * head, n_heads * head)
                    for group in range(n_groups)
                ]
                yield TensorPlan.rows(
                    f"{prefix}.{part}_proj.{match[2]}", name, stored, rows_of_part
                )
        else:
            renamed = _rename(name)
            yield name if renamed is None else TensorPlan.full(renamed, name, stored)


def _rename(name: str) -> str | None:
    for pattern, replacement in _RENAMED:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name, count=1)
    return None


def read_original(
    folder: Path, config: Mapping[str, Any], family: VisionLanguageFamily
) -> OriginalModel:
    """Configuration and processor of an original checkpoint as the stock classes hold them.

    Raises:
        ArtifactError: a setting that the stock classes do not compute, missing tokenizer files, a
            token that the prompts need and the vocabulary lacks.
    """
    text, vision = config.get("llm_config"), config.get("vision_config")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ArtifactError(
            f"{folder / 'config.json'} has no llm_config and vision_config; download it again."
        )
    vision = {**VISION_DEFAULTS, **vision}
    _check_settings(folder, config, text, vision)
    tokenizer, notes = _read_tokenizer(folder, text, family)
    size, patch = vision["image_size"], vision["patch_size"]
    text_class = _stock_config_class(TEXT_MODEL_TYPES[text["architectures"][0]])
    ids = family.token_ids(tokenizer.convert_tokens_to_ids)
    stock = family.stock_class.config_class(
        text_config=_stock_text(text, text_class, tokenizer),
        vision_config={VISION_KEYS.get(key, key): vision[key] for key in VISION_DEFAULTS},
        image_seq_length=round((size // patch) ** 2 * config.get("downsample_ratio", 0.5) ** 2),
        downsample_ratio=config.get("downsample_ratio", 0.5),
        **ids,
    )
    processor = _processor(folder, config, family, tokenizer, size)
    generation = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return OriginalModel(stock, processor, generation, notes)


def _check_settings(
    folder: Path, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]
) -> None:
    """Refuse what the stock classes would compute differently, or not at all."""
    file = folder / "config.json"
    remedy = "take a -hf folder of this model"
    names = text.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in TEXT_MODEL_TYPES:
        supported = ", ".join(sorted(TEXT_MODEL_TYPES))
        raise ArtifactError(
            f"{file}: the language model is {name}, and {supported} are converted; {remedy}."
        )
    size = config.get("force_image_size") or vision["image_size"]
    refused = {
        "select_layer": (config.get("select_layer", -1), -1),
        "ps_version": (config.get("ps_version", "v1"), "v2"),
        "force_image_size": (size, vision["image_size"]),
        "use_backbone_lora": (config.get("use_backbone_lora") or 0, 0),
        "use_llm_lora": (config.get("use_llm_lora") or 0, 0),
        "llm_config.rope_pos_id_version": (text.get("rope_pos_id_version", "default"), "default"),
    }
    if vision["qk_normalization"]:
        # The stock class normalizes queries and keys with this constant, whatever is configured.
        refused["vision_config.layer_norm_eps"] = (vision["layer_norm_eps"], 1e-6)
    for key, (value, expected) in refused.items():
        if value != expected:
            raise ArtifactError(
                f"{file}: {key} is {value!r}, and only {expected!r} can be converted; {remedy}."
            )
    if config.get("template") not in CHATML_TEMPLATES:
        known = ", ".join(sorted(CHATML_TEMPLATES))
        raise ArtifactError(
            f"{file}: its prompts have the form {config.get('template')!r}, and {known} are"
            f" converted; {remedy}."
        )


def _stock_config_class(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def _stock_text(text: Mapping[str, Any], text_class: Any, tokenizer: Any) -> dict[str, Any]:
    """The settings of the language model that its stock class knows, and nothing else."""
    known = {*text_class().to_dict(), "rope_theta", "rope_scaling"} - {"architectures", "dtype"}
    stock = {key: value for key, value in text.items() if key in known and value is not None}
    stock |= {"model_type": text_class.model_type, "use_cache": True}
    if text["architectures"][0] == "InternLM2ForCausalLM":
        stock["attention_bias"] = text.get("bias", True)
    # The original code ends a turn at this token, whatever the language model's own settings say.
    stock |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {key: value for key, value in stock.items() if not key.startswith("_")}


def _read_tokenizer(
    folder: Path, text: Mapping[str, Any], family: VisionLanguageFamily
) -> tuple[Any, tuple[str, ...]]:
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    is_qwen = TEXT_MODEL_TYPES[text["architectures"][0]].startswith("qwen")
    has_fast = (folder / "tokenizer.json").is_file()
    has_slow = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not has_fast and not (is_qwen and has_slow):
        needed = "tokenizer.json, or vocab.json and merges.txt" if is_qwen else "tokenizer.json"
        raise ArtifactError(
            f"{folder} has no {needed}; copy it there from a -hf folder of the same model."
        )
    tokenizer_class = Qwen2Tokenizer if is_qwen else PreTrainedTokenizerFast
    named, notes = dict(family.named_tokens), []
    vocabulary = _load_tokenizer(folder, tokenizer_class, {}).get_vocab()
    for token, expected in _stated_ids(folder).items():
        if vocabulary.get(token) != expected:
            problem = f"gives {token!r} the id {vocabulary.get(token)}, not {expected}"
            raise ArtifactError(f"{folder}: the tokenizer {problem}; copy its files again.")
    # Only images are shown, and the original vocabulary has no token for a video.
    if named.get("video_token") not in vocabulary and VIDEO_PAD in vocabulary:
        notes.append(f"the vocabulary has no {named['video_token']}; {VIDEO_PAD} stands for it.")
        named["video_token"] = VIDEO_PAD
    for token in (*named.values(), TURN_START, TURN_END):
        if token not in vocabulary:
            problem = f"has no token {token!r}, which its prompts need"
            raise ArtifactError(f"{folder}: the tokenizer {problem}; copy its files again.")
    tokenizer = _load_tokenizer(folder, tokenizer_class, named)
    tokenizer.chat_template = family.chat_template
    notes.append("prompts follow the -hf layout: without the system turn of the original code.")
    return tokenizer, tuple(notes)


def _load_tokenizer(folder: Path, tokenizer_class: Any, named: Mapping[str, str]) -> Any:
    """The tokenizer of a folder's vocabulary, with attributes for the tokens that prompts need."""
    settings = {**_settings(folder), "eos_token": TURN_END}
    if named:
        settings["extra_special_tokens"] = dict(named)
    if "added_tokens_decoder" not in settings and not (folder / "tokenizer.json").is_file():
        settings["added_tokens_decoder"] = _added_tokens(folder)
    with tempfile.TemporaryDirectory() as temporary:
        for name in VOCABULARY_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(temporary, name))
        write_json(Path(temporary, "tokenizer_config.json"), settings)
        return tokenizer_class.from_pretrained(temporary, trust_remote_code=False)


def _added_tokens(folder: Path) -> dict[str, Any]:
    """The added tokens of a folder that states them in the older files only."""
    special = {TURN_START, TURN_END}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        stated = read_json(folder / name) if (folder / name).is_file() else {}
        listed = stated.get("additional_special_tokens")
        special |= {token for token in listed or () if isinstance(token, str)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        str(index): {"content": token, "special": token in special, **flags}
        for token, index in _stated_ids(folder).items()
    }


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of the tokenizer, without code and without the text model's chat template."""
    file = folder / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    dropped = ("auto_map", "chat_template", "tokenizer_class", "tokenizer_file")
    dropped += ("additional_special_tokens", "extra_special_tokens", "processor_class")
    return {key: value for key, value in settings.items() if key not in dropped}


def _stated_ids(folder: Path) -> dict[str, int]:
    """The ids of added tokens as the folder's files state them."""
    ids: dict[str, int] = {}
    decoder = _settings(folder).get("added_tokens_decoder")
    for key, token in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and key.isdigit():
            ids[token["content"]] = int(key)
    if (folder / "added_tokens.json").is_file():
        ids |= read_json(folder / "added_tokens.json")
    return ids


def _processor(
    folder: Path, config: Mapping[str, Any], family: VisionLanguageFamily, tokenizer: Any, size: int
) -> Processor:
    """Tiles as the -hf layout writes them: one an image by default, at most max_dynamic_patch."""
    budget = PixelBudget()
    image_processor = family.image_processor(budget, size)
    image_processor.min_patches = config.get("min_dynamic_patch", 1)
    image_processor.max_patches = config.get("max_dynamic_patch", 12)
    file = folder / "preprocessor_config.json"
    stated = read_json(file) if file.is_file() else {}
    for key in ("image_mean", "image_std"):
        if key in stated:
            setattr(image_processor, key, [float(value) for value in stated[key]])
    return build_processor(family, tokenizer, image_processor, budget)
