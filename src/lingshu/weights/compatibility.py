"""What must be equal before models are merged: tensors, configuration, tokenizer, chat template;
each difference is listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import ArtifactError, InputError
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder, TensorLocation
from lingshu.weights.safetensors_header import ELEMENT_BYTES

DtypePolicy = Literal["same", "first"]
MAX_SHOWN = 5  # differences that a message lists; the others are counted
# Keys that name a model or tell how it was written, and say nothing about what it computes. The
# types of tensors are compared where they count: in the tensors.
IGNORED_CONFIG_KEYS = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
}
IGNORED_TOKENIZER_KEYS = IGNORED_CONFIG_KEYS | {
    "chat_template",
    "processor_class",
    "tokenizer_file",
    "tokenizer_class",
    "backend",
    "is_local",
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


def check_compatible(
    first: ModelFolder, other: ModelFolder, *, dtype: DtypePolicy
) -> tuple[ModelFolder, list[str]]:
    """`other` with the tensors of `first` by name, and notes on what differs and does not matter to
    the result.

    A model that stores a tied output head and one that leaves it out agree: the head of the latter
    is its embedding.

    Raises:
        InputError: something that must be equal is not; the first few differences are listed, the
            others counted.
    """
    tensors = _with_tied_heads(first, other)
    differences = [
        *_config_differences(first.config, other.config),
        *_tensor_differences(first, tensors, dtype),
    ]
    differences += [
        *_tokenizer_differences(first.path, other.path),
        *_template_difference(first.path, other.path),
    ]
    if differences:
        more = f"; and {len(differences) - MAX_SHOWN} more" if len(differences) > MAX_SHOWN else ""
        raise InputError(
            f"{other} cannot be merged with {first}: {'; '.join(differences[:MAX_SHOWN])}{more}. "
            "Only models of one architecture with one tokenizer can be merged."
        )
    return replace(other, tensors=tensors), list(_notes(first, other))


def _with_tied_heads(first: ModelFolder, other: ModelFolder) -> dict[str, TensorLocation]:
    tensors = dict(other.tensors)
    for name in first.tensors.keys() - tensors.keys():
        embedding = _tied_embedding(other, name)
        if embedding is not None:
            tensors[name] = embedding
    for name in tensors.keys() - first.tensors.keys():
        embedding = _tied_embedding(other, name)
        if (
            embedding is not None
            and _tied_embedding(first, name) is not None
            and _equal(other.path, tensors[name], embedding)
        ):
            del tensors[name]
    return tensors


def _tied_embedding(folder: ModelFolder, name: str) -> TensorLocation | None:
    """Where the values of a tied output head lie in a folder; None for other tensors and models."""
    config = folder.config
    text_config = config.get("text_config")
    tied = bool(
        config.get(
            "tie_word_embeddings",
            text_config.get("tie_word_embeddings") if isinstance(text_config, dict) else False,
        )
    )
    embeddings = [
        location
        for tensor_name, location in folder.tensors.items()
        if tensor_name.endswith("embed_tokens.weight")
    ]
    return (
        embeddings[0] if tied and name.endswith("lm_head.weight") and len(embeddings) == 1 else None
    )


def _equal(path: Path, first: TensorLocation, second: TensorLocation) -> bool:
    if first.size != second.size or first.dtype != second.dtype:
        return False
    with (path / first.file).open("rb") as left, (path / second.file).open("rb") as right:
        left.seek(first.offset)
        right.seek(second.offset)
        step = 1 << 19
        return all(
            left.read(min(step, first.size - offset)) == right.read(min(step, first.size - offset))
            for offset in range(0, first.size, step)
        )


def _tensor_differences(
    first: ModelFolder, others: Mapping[str, TensorLocation], dtype: DtypePolicy
) -> Iterator[str]:
    for name, expected in first.tensors.items():
        if name not in others:
            continue
        actual = others[name]
        if expected.shape != actual.shape:
            yield f"{name} has shape {list(actual.shape)}, not {list(expected.shape)}"
        elif expected.dtype != actual.dtype and (
            dtype == "same" or not {expected.dtype, actual.dtype} <= FLOAT_DTYPES
        ):
            yield (
                f"{name} is {actual.dtype}, not"
                f" {expected.dtype}{' (--dtype first stores it so)' if dtype == 'same' else ''}"
            )
    yield from (f"{name} is missing" for name in first.tensors if name not in others)
    yield from (f"{name} is in it alone" for name in others if name not in first.tensors)


def _config_differences(first: object, other: object, path: str = "config") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted(first.keys() | other.keys()):
            if key not in IGNORED_CONFIG_KEYS:
                yield from _config_differences(first.get(key), other.get(key), f"{path}.{key}")
    elif first != other:
        yield f"{path} is {_abbreviated(other)}, not {_abbreviated(first)}"


def _abbreviated(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tokenizer_differences(first: Path, other: Path) -> Iterator[str]:
    """Files of the tokenizer that both have and that say different things; a folder without them
    has nothing to compare.
    """
    for name in TOKENIZER_FILES:
        left, right = first / name, other / name
        if (
            left.is_file()
            and right.is_file()
            and left.read_bytes() != right.read_bytes()
            and not _same_json(left, right)
        ):
            yield f"{name} differs"
    settings = [_read_json(folder / "tokenizer_config.json") for folder in (first, other)]
    if all(config is not None for config in settings):
        left, right = (
            {
                key: value
                for key, value in (config or {}).items()
                if key not in IGNORED_TOKENIZER_KEYS
            }
            for config in settings
        )
        yield from (
            f"tokenizer_config.json: {key} differs"
            for key in sorted(left.keys() & right.keys())
            if left[key] != right[key]
        )


def _same_json(left: Path, right: Path) -> bool:
    return left.suffix == ".json" and _read_json(left) == _read_json(right)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}); copy it again.") from error


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, in whichever of its three places it stands; None where there
    is none.
    """
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        config = _read_json(folder / name)
        if isinstance(config, dict) and isinstance(config.get("chat_template"), str):
            return config["chat_template"]
    return None


def _template_difference(first: Path, other: Path) -> Iterator[str]:
    left, right = chat_template(first), chat_template(other)
    if left is not None and right is not None and left.strip() != right.strip():
        yield "the chat template differs"


def _notes(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    for name in PROCESSOR_FILES:
        left, right = _read_json(first.path / name), _read_json(other.path / name)
        if left is not None and right is not None and left != right:
            yield f"{name} of {other.label} differs from that of {first.label}, which was taken"
    has_tokenizer = [
        any((folder.path / name).is_file() for name in TOKENIZER_FILES) for folder in (first, other)
    ]
    if not all(has_tokenizer):
        missing = " and ".join(
            folder.label
            for folder, present in zip((first, other), has_tokenizer, strict=True)
            if not present
        )
        yield (
            f"no tokenizer was compared: {missing} {'have' if not any(has_tokenizer) else 'has'} no"
            " tokenizer files"
        )


def check_all_compatible(
    folders: Sequence[ModelFolder], *, dtype: DtypePolicy
) -> tuple[list[ModelFolder], list[str]]:
    """Every folder with the tensors of the first by name, and the notes on all of them; raises as
    `agreed`.

    Raises:
        InputError: also where a tensor has a type that cannot be merged.
    """
    first, notes = folders[0], []
    compatible = [first]
    for other in folders[1:]:
        aligned, pair_notes = check_compatible(first, other, dtype=dtype)
        compatible.append(aligned)
        notes += pair_notes
    unsupported = next(
        (
            name
            for name, location in first.tensors.items()
            if location.dtype.startswith("F8") or location.dtype not in ELEMENT_BYTES
        ),
        None,
    )
    if unsupported is not None:
        raise InputError(
            f"{first}: {unsupported} is stored as {first.tensors[unsupported].dtype}, which cannot be"
            " averaged; merge the 16-bit models instead."
        )
    return compatible, notes
