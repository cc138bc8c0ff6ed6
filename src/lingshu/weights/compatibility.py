"""What must be equal before models are merged: tensors, configuration, tokenizer, chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import ArtifactError, InputError
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder
from lingshu.weights.safetensors_io import ELEMENT_BYTES, TensorLocation

DtypePolicy = Literal["same", "first"]
MAX_SHOWN = 5  # differences that a message lists; the others are counted
# Keys that name a model or record how it was written, and do not affect what it computes. Types are
# compared tensor by tensor.
IGNORED_CONFIG_KEYS = frozenset(
    ["_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"]
)
IGNORED_TOKENIZER_KEYS = IGNORED_CONFIG_KEYS | {
    *("chat_template", "processor_class", "tokenizer_file", "tokenizer_class"),
    *("backend", "is_local"),
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


def check_all_compatible(
    folders: Sequence[ModelFolder], *, dtype: DtypePolicy
) -> tuple[list[ModelFolder], list[str]]:
    """Every folder with the tensors of the first by name, and notes on harmless differences.

    A model that stores a tied output head and one that omits it are compatible: the head of the
    latter is its embedding.

    Raises:
        InputError: something that must be equal is not, or a tensor has a type that cannot be
            merged; the first few differences are listed, the others counted.
    """
    first, notes = folders[0], []
    compatible = [first]
    for other in folders[1:]:
        compatible.append(_check_compatible(first, other, dtype))
        notes += _notes(first, other)
    for name, location in first.tensors.items():
        if location.dtype.startswith("F8") or location.dtype not in ELEMENT_BYTES:
            problem = f"{name} is stored as {location.dtype}, which cannot be averaged"
            raise InputError(f"{first}: {problem}; merge the 16-bit models instead.")
    return compatible, notes


def _check_compatible(first: ModelFolder, other: ModelFolder, dtype: DtypePolicy) -> ModelFolder:
    tensors = _with_tied_heads(first, other)
    differences = [
        *_config_differences(first.config, other.config),
        *_tensor_differences(first, tensors, dtype),
        *_tokenizer_differences(first.path, other.path),
        *_template_difference(first.path, other.path),
    ]
    if differences:
        more = f"; and {len(differences) - MAX_SHOWN} more" if len(differences) > MAX_SHOWN else ""
        raise InputError(
            f"{other} cannot be merged with {first}: {'; '.join(differences[:MAX_SHOWN])}{more}. "
            "Only models of one architecture with one tokenizer can be merged."
        )
    return replace(other, tensors=tensors)


def _with_tied_heads(first: ModelFolder, other: ModelFolder) -> dict[str, TensorLocation]:
    tensors = dict(other.tensors)
    for name in first.tensors.keys() ^ tensors.keys():
        embedding = _tied_embedding(other, name)
        if embedding is None:
            continue
        if name not in tensors:
            tensors[name] = embedding
        elif _tied_embedding(first, name) and _equal(other.path, tensors[name], embedding):
            del tensors[name]
    return tensors


def _tied_embedding(folder: ModelFolder, name: str) -> TensorLocation | None:
    """The tensor that a tied output head shares; None for other tensors and models."""
    text_config = folder.config.get("text_config")
    default = isinstance(text_config, dict) and text_config.get("tie_word_embeddings")
    if not folder.config.get("tie_word_embeddings", default) or not name.endswith("lm_head.weight"):
        return None
    embeddings = [
        location
        for tensor, location in folder.tensors.items()
        if tensor.endswith("embed_tokens.weight")
    ]
    return embeddings[0] if len(embeddings) == 1 else None


def _equal(path: Path, first: TensorLocation, second: TensorLocation) -> bool:
    if first.size != second.size or first.dtype != second.dtype:
        return False
    with (path / first.file).open("rb") as left, (path / second.file).open("rb") as right:
        left.seek(first.offset)
        right.seek(second.offset)
        sizes = (min(1 << 19, first.size - start) for start in range(0, first.size, 1 << 19))
        return all(left.read(size) == right.read(size) for size in sizes)


def _tensor_differences(
    first: ModelFolder, others: Mapping[str, TensorLocation], dtype: DtypePolicy
) -> Iterator[str]:
    hint = " (--dtype first stores it so)" if dtype == "same" else ""
    for name, expected in first.tensors.items():
        actual = others.get(name)
        if actual is None:
            yield f"{name} is missing"
            continue
        is_castable = dtype == "first" and {expected.dtype, actual.dtype} <= FLOAT_DTYPES
        if expected.shape != actual.shape:
            yield f"{name} has shape {list(actual.shape)}, not {list(expected.shape)}"
        elif expected.dtype != actual.dtype and not is_castable:
            yield f"{name} is {actual.dtype}, not {expected.dtype}{hint}"
    yield from (f"{name} is only in this model" for name in others if name not in first.tensors)


def _config_differences(first: object, other: object, path: str = "config") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted((first.keys() | other.keys()) - IGNORED_CONFIG_KEYS):
            yield from _config_differences(first.get(key), other.get(key), f"{path}.{key}")
    elif first != other:
        yield f"{path} is {_abbreviated(other)}, not {_abbreviated(first)}"


def _abbreviated(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tokenizer_differences(first: Path, other: Path) -> Iterator[str]:
    """Tokenizer files that both have and that differ."""
    for name in TOKENIZER_FILES:
        left, right = first / name, other / name
        if left.is_file() and right.is_file() and left.read_bytes() != right.read_bytes():
            is_same_json = left.suffix == ".json" and _read_json(left) == _read_json(right)
            if not is_same_json:
                yield f"{name} differs"
    left, right = (_read_json(folder / "tokenizer_config.json") or {} for folder in (first, other))
    for key in sorted((left.keys() & right.keys()) - IGNORED_TOKENIZER_KEYS):
        if left[key] != right[key]:
            yield f"tokenizer_config.json: {key} differs"


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}); copy it again.") from error


def _chat_template(folder: Path) -> str | None:
    """The chat template of a folder, from the first of three files that holds it."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        config = _read_json(folder / name)
        if isinstance(config, dict) and isinstance(config.get("chat_template"), str):
            return config["chat_template"]
    return None


def _template_difference(first: Path, other: Path) -> Iterator[str]:
    left, right = _chat_template(first), _chat_template(other)
    if left is not None and right is not None and left.strip() != right.strip():
        yield "the chat template differs"


def _notes(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    for name in PROCESSOR_FILES:
        left, right = _read_json(first.path / name), _read_json(other.path / name)
        if left is not None and right is not None and left != right:
            yield f"{name} of {other.label} differs from that of {first.label}, which is used"
    missing = [
        folder.label
        for folder in (first, other)
        if not any((folder.path / name).is_file() for name in TOKENIZER_FILES)
    ]
    if missing:
        verb = "have" if len(missing) == 2 else "has"
        yield f"no tokenizer was compared: {' and '.join(missing)} {verb} no tokenizer files"
