"""A checkpoint as GGUF files for llama.cpp: the language model, and its vision projector (mmproj).

Names of tensors and keys are those of the `gguf` package (its constants and TensorNameMap). What
llama.cpp computes was read in ggml-org/llama.cpp as llama-cpp-python 0.3.36 contains it:
src/models/qwen2vl.cpp, tools/mtmd/clip.cpp, tools/mtmd/models/qwen2vl.cpp.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from lingshu.core.errors import ArtifactError, MissingExtraError, one_line
from lingshu.core.files import atomic_folder, storage_errors, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.models.convert import (
    CheckpointSettings,
    Conversion,
    foreign_settings,
    open_tensors,
    plan_tensors,
    read_settings,
)
from lingshu.weights.base import single_thread
from lingshu.weights.convert import (
    StoredTensor,
    TensorPlan,
    TensorSource,
    check_cast,
    read_blocks,
)
from lingshu.weights.output import DISCLAIMER

GgufType = Literal["bf16", "f16", "f32", "q8_0"]
TORCH_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
PATCH_EMBEDDING = "v.patch_embd.weight"
QUANT_BLOCK = 32  # elements that q8_0 scales together; a row must be a multiple
WINDOW_SIZE = 112  # pixels; the constant of tools/mtmd/clip.cpp
# The size that llama.cpp allocates for before it sees an image; its own converter writes the same.
IMAGE_SIZE = 560


class GgufExport(NamedTuple):
    """The files that were written, counts of tensors and values, and what a reader should know."""

    model: Path
    projector: Path
    counts: dict[str, int]
    notes: tuple[str, ...]


def export_gguf(conversion: Conversion, out: Path, *, gguf_type: GgufType = "bf16") -> GgufExport:
    """Write a checkpoint to the folder `out` as NAME-TYPE.gguf and mmproj-NAME-TYPE.gguf.

    Matrices are stored as `gguf_type`, vectors and the patch embedding as float32. A matrix whose
    rows q8_0 cannot divide is stored as f16, and counted. Memory does not depend on the model.

    Raises:
        MissingExtraError: the package gguf is not installed.
        ArtifactError: a family or setting that llama.cpp does not compute; otherwise as `convert`.
        StorageError: the disk refused; nothing is left at `out`.
    """
    gguf = _gguf()
    with ExitStack() as stack:
        settings = read_settings(conversion.source)
        with foreign_settings(conversion.source):
            _check_settings(conversion.source, settings)
        source = open_tensors(conversion, out, stack)
        plans, _ = plan_tensors(conversion.source, settings, source)
        text, vision = _name_tensors(gguf, settings.config, plans, source.tensors)
        name = conversion.source.resolve().name
        files = (f"{name}-{gguf_type}.gguf", f"mmproj-{name}-{gguf_type}.gguf")
        counts = {"tensors": len(text) + len(vision), "values": 0, "rounded": 0, "stored_as_f16": 0}
        with atomic_folder(out) as temporary:
            for file, tensors in zip(files, (text, vision), strict=True):
                writer = gguf.GGUFWriter(None, "qwen2vl" if tensors is text else "clip")
                writer.add_name(name)
                add_keys = _add_text_keys if tensors is text else _add_vision_keys
                with foreign_settings(conversion.source):
                    add_keys(gguf, writer, settings, gguf_type)
                written = _Tensors(gguf, writer, source, gguf_type)
                written.write(temporary / file, tensors)
                for key, value in written.counts.items():
                    counts[key] += value
            hashes = {f"source/{file}": value for file, value in source.hashes().items()}
            config = {"source": str(conversion.source), "type": gguf_type, "files": list(files)}
            card = RunCard("convert", config, None, counts, hashes, {"notes": list(settings.notes)})
            (temporary / "README.md").write_text(_model_card(name, files), encoding="utf-8")
            write_run_card(temporary, card)
            write_manifest(temporary)
    return GgufExport(out / files[0], out / files[1], counts, settings.notes)


def _gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtraError.of("gguf", "gguf") from error


def _check_settings(folder: Path, settings: CheckpointSettings) -> None:
    """Refuse what llama.cpp would compute differently, or not at all."""
    if settings.family.model_type != "qwen2_5_vl":
        raise ArtifactError(
            f"{folder} is of the family {settings.family.model_type}; Qwen2.5-VL is exported, use"
            " convert_hf_to_gguf.py of llama.cpp for others."
        )
    text, vision = settings.config.text_config, settings.config.vision_config
    n_full = list(vision.fullatt_block_indexes)
    pattern = n_full[0] + 1 if n_full else 0
    expected = [i for i in range(vision.depth) if pattern and (i + 1) % pattern == 0]
    head, vision_head = (
        text.hidden_size // text.num_attention_heads,
        vision.hidden_size // vision.num_heads,
    )
    rope = text.rope_parameters
    required = {
        "rope_type": (rope.get("rope_type"), "default"),
        "use_sliding_window": (text.use_sliding_window, False),
        "window_size": (vision.window_size, WINDOW_SIZE),
        "temporal_patch_size": (vision.temporal_patch_size, 2),
        "spatial_merge_size": (vision.spatial_merge_size, 2),
        "vision hidden_act": (vision.hidden_act, "silu"),
        "hidden_act": (text.hidden_act, "silu"),
        "fullatt_block_indexes": (n_full, expected),
        "mrope_section": (sum(rope.get("mrope_section", ())), head // 2),
        "remainder of the vision head size by 4": (vision_head % 4, 0),
        # clip.cpp takes two matrices of one width for the swapped ones of an old converter.
        "vision intermediate_size equal to hidden_size": (
            vision.intermediate_size == vision.hidden_size,
            False,
        ),
    }
    processor = settings.processor.image_processor
    for key in ("image_mean", "image_std"):
        values = getattr(processor, key)
        is_number = [isinstance(value, int | float) and abs(value) < 1e6 for value in values]
        required[f"numbers in {key}"] = (sum(is_number), 3)
    for key, (value, supported) in required.items():
        if value != supported:
            problem = (
                f"{folder / 'config.json'}: {key} is {value!r}, llama.cpp computes {supported!r}"
            )
            raise ArtifactError(f"{problem}; serve the checkpoint with lingshu serve.")


def _name_tensors(
    gguf: Any, config: Any, plans: Sequence[TensorPlan], stored: Mapping[str, StoredTensor]
) -> tuple[list[TensorPlan], list[TensorPlan]]:
    """The tensors of the language model and of the projector under their names in GGUF."""
    arch = gguf.MODEL_ARCH
    text_names = gguf.get_tensor_name_map(arch.QWEN2VL, config.text_config.num_hidden_layers)
    # The map numbers the projector's layers (0 and 2) as it numbers blocks.
    vision_names = gguf.get_tensor_name_map(arch.MMPROJ, max(config.vision_config.depth, 3))
    text: list[TensorPlan] = []
    vision: list[TensorPlan] = []
    for plan in plans:
        name = plan.name.replace("model.language_model.", "model.")
        is_vision = name.startswith("model.visual.")
        tensor_names = vision_names if is_vision else text_names
        name = name.replace("model.visual.", "visual.")
        for part_name, part in _split(name, plan, stored[plan.source]):
            new_name = tensor_names.get_name(part_name, try_suffixes=(".weight", ".bias"))
            if part_name.startswith(PATCH_EMBEDDING):
                new_name = part_name
            assert new_name is not None, plan.name
            named = TensorPlan(new_name, part.shape, part.source, part.ranges)
            (vision if is_vision else text).append(named)
    return text, vision


def _split(name: str, plan: TensorPlan, stored: StoredTensor) -> Iterator[tuple[str, TensorPlan]]:
    """llama.cpp has query, key and value apart, and a convolution for each of the two frames."""
    if ".attn.qkv." in name:
        rows = plan.shape[0] // 3
        for index, part in enumerate("qkv"):
            taken = TensorPlan.rows(plan.name, plan.source, stored, [(index * rows, rows)])
            yield name.replace("qkv", part), taken
    elif name == "visual.patch_embed.proj.weight":
        width, channels, frames, height, side = plan.shape
        size = height * side
        for frame in range(frames):
            ranges = tuple(((i * frames + frame) * size, size) for i in range(width * channels))
            shape = (width, channels, height, side)
            part = PATCH_EMBEDDING + (f".{frame}" if frame else "")
            yield part, TensorPlan(part, shape, plan.source, ranges)
    else:
        yield name, plan


def _add_text_keys(
    gguf: Any, writer: Any, settings: CheckpointSettings, gguf_type: GgufType
) -> None:
    text = settings.config.text_config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(_file_type(gguf, gguf_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_rope_freq_base(text.rope_parameters["rope_theta"])
    # Of four: time, height, width, and one that Qwen does not use.
    writer.add_rope_dimension_sections([*text.rope_parameters["mrope_section"], 0])
    _add_tokenizer(gguf, writer, settings.processor.tokenizer, text.vocab_size)


def _file_type(gguf: Any, gguf_type: GgufType) -> int:
    name = "ALL_F32" if gguf_type == "f32" else f"MOSTLY_{gguf_type.upper()}"
    return int(gguf.LlamaFileType[name])


def _add_tokenizer(gguf: Any, writer: Any, tokenizer: Any, n_rows: int) -> None:
    """Vocabulary, merges, special tokens and chat template.

    Raises:
        ArtifactError: a tokenizer that splits text in another way than Qwen's, which llama.cpp
            would split wrongly without a word.
    """
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if not _splits_by(backend["pre_tokenizer"], PRETOKENIZE_REGEX):
        problem = "the tokenizer splits words in another way than Qwen2's"
        raise ArtifactError(f"{problem}, which llama.cpp does not know; use lingshu serve.")
    added = tokenizer.added_tokens_decoder
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for index in range(n_rows):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        if index in added:
            kind = "CONTROL" if added[index].special else "USER_DEFINED"
        else:
            kind = "NORMAL" if index in by_id else "UNUSED"
        types.append(gguf.TokenType[kind])
    merges = backend["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _splits_by(pre_tokenizer: Any, pattern: str) -> bool:
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    return any((step or {}).get("pattern") == {"Regex": pattern} for step in steps)


def _add_vision_keys(
    gguf: Any, writer: Any, settings: CheckpointSettings, gguf_type: GgufType
) -> None:
    vision, processor = settings.config.vision_config, settings.processor
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_file_type(_file_type(gguf, gguf_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN25VL)
    writer.add_vision_projection_dim(settings.config.text_config.hidden_size)
    writer.add_vision_image_size(IMAGE_SIZE)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_spatial_merge_size(vision.spatial_merge_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.depth)
    writer.add_vision_head_count(vision.num_heads)
    writer.add_vision_n_wa_pattern(vision.fullatt_block_indexes[0] + 1)
    writer.add_vision_use_silu(True)
    writer.add_vision_attention_layernorm_eps(1e-6)  # fixed in the stock class
    writer.add_vision_min_pixels(processor.budget.min_pixels)
    writer.add_vision_max_pixels(processor.budget.max_pixels)
    writer.add_vision_image_mean([float(value) for value in processor.image_processor.image_mean])
    writer.add_vision_image_std([float(value) for value in processor.image_processor.image_std])


class _Tensors:
    """The tensors of one GGUF file, written block by block."""

    def __init__(self, gguf: Any, writer: Any, source: TensorSource, gguf_type: GgufType) -> None:
        self.gguf, self.writer, self.source = gguf, writer, source
        self.gguf_type: GgufType = gguf_type
        self.counts = {"values": 0, "rounded": 0, "stored_as_f16": 0}

    def _type_of(self, plan: TensorPlan) -> GgufType:
        # llama.cpp adds and normalizes with float32 vectors, and its convolution takes no others.
        if len(plan.shape) != 2:
            return "f32"
        if self.gguf_type == "q8_0" and plan.shape[1] % QUANT_BLOCK:
            self.counts["stored_as_f16"] += 1
            return "f16"
        return self.gguf_type

    def write(self, path: Path, plans: Sequence[TensorPlan]) -> None:
        quantizations = self.gguf.GGMLQuantizationType
        types: list[GgufType] = [self._type_of(plan) for plan in plans]
        for plan, kind in zip(plans, types, strict=True):
            quantization = quantizations[kind.upper()]
            block, block_bytes = self.gguf.GGML_QUANT_SIZES[quantization]
            n_values = torch.Size(plan.shape).numel()
            size = n_values // block * block_bytes
            self.counts["values"] += n_values
            self.writer.add_tensor_info(plan.name, plan.shape, None, size, quantization)
        with storage_errors(path), single_thread():
            self.writer.write_header_to_file(path)
            try:
                self._write_keys(path)
                (file,) = self.writer.fout
                self.writer.write_padding(file, file.tell())
                for plan, kind in zip(plans, types, strict=True):
                    n_bytes = sum(file.write(block) for block in self._blocks(plan, kind))
                    self.writer.write_padding(file, n_bytes)
            finally:
                self.writer.close()

    def _write_keys(self, path: Path) -> None:
        try:
            self.writer.write_kv_data_to_file()
            self.writer.write_ti_data_to_file()
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            problem = f"a setting of the checkpoint has no place in {path.name}"
            raise ArtifactError(f"{problem} ({one_line(error)}); download it again.") from error

    def _blocks(self, plan: TensorPlan, kind: GgufType) -> Iterator[bytes]:
        for _, _, values in read_blocks(plan, self.source):
            assert values is not None, plan.source
            if kind == "q8_0":
                rows = values.float().reshape(-1, QUANT_BLOCK).numpy()
                quantization = self.gguf.GGMLQuantizationType.Q8_0
                yield self.gguf.quants.quantize(rows, quantization).tobytes()
                continue
            cast = values.to(TORCH_TYPES[kind])
            self.counts["rounded"] += check_cast(plan, values, cast)
            yield cast.view(torch.uint8).numpy().tobytes()


def _model_card(name: str, files: Sequence[str]) -> str:
    usage = f"```sh\nllama-server -m {files[0]} --mmproj {files[1]} --port 8080\n```"
    text = f"{name} as GGUF for llama.cpp: the language model and its vision projector."
    return "\n\n".join([f"# {name} (GGUF)", DISCLAIMER, text, usage]) + "\n"
