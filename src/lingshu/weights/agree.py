"""What must be equal before models are merged: tensors, configuration, tokenizer, chat template;
each difference is listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import ArtefactError, InputError
from lingshu.weights.folder import FLOATS, Folder, Place
from lingshu.weights.headers import ELEMENT_BYTES

DtypePolicy = Literal["same", "first"]
SHOWN = 5  # differences that a message lists; the others are counted
# Keys that name a model or tell how it was written, and say nothing about what it computes. The
# types of tensors are compared where they count: in the tensors.
NAMES = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
}
TOKENIZER_NAMES = NAMES | {
    "chat_template",
    "processor_class",
    "tokenizer_file",
    "tokenizer_class",
    "backend",
    "is_local",
}
TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
PROCESSOR = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


def agreed(first: Folder, other: Folder, *, dtype: DtypePolicy) -> tuple[Folder, list[str]]:
    """`other` with the tensors of `first` by name, and notes on what differs and does not matter to
    the result.

    A model that stores a tied output head and one that leaves it out agree: the head of the latter
    is its embedding.

    Raises:
        InputError: something that must be equal is not; the first few differences are listed, the
            others counted.
    """
    tensors = _with_tied_heads(first, other)
    found = [
        *_config_differences(first.config, other.config),
        *_tensor_differences(first, tensors, dtype),
    ]
    found += [
        *_tokenizer_differences(first.path, other.path),
        *_template_difference(first.path, other.path),
    ]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{other} cannot be merged with {first}: {'; '.join(found[:SHOWN])}{more}. "
            "Only models of one architecture with one tokenizer can be merged."
        )
    return replace(other, tensors=tensors), list(_notes(first, other))


def _with_tied_heads(first: Folder, other: Folder) -> dict[str, Place]:
    tensors = dict(other.tensors)
    for name in first.tensors.keys() - tensors.keys():
        embedding = _tied(other, name)
        if embedding is not None:
            tensors[name] = embedding
    for name in tensors.keys() - first.tensors.keys():
        embedding = _tied(other, name)
        if (
            embedding is not None
            and _tied(first, name) is not None
            and _equal(other.path, tensors[name], embedding)
        ):
            del tensors[name]
    return tensors


def _tied(folder: Folder, name: str) -> Place | None:
    """Where the values of a tied output head lie in a folder; None for other tensors and models."""
    config = folder.config
    text = config.get("text_config")
    tied = bool(
        config.get(
            "tie_word_embeddings",
            text.get("tie_word_embeddings") if isinstance(text, dict) else False,
        )
    )
    found = [
        place for other, place in folder.tensors.items() if other.endswith("embed_tokens.weight")
    ]
    return found[0] if tied and name.endswith("lm_head.weight") and len(found) == 1 else None


def _equal(path: Path, one: Place, other: Place) -> bool:
    if one.size != other.size or one.dtype != other.dtype:
        return False
    with (path / one.file).open("rb") as left, (path / other.file).open("rb") as right:
        left.seek(one.offset)
        right.seek(other.offset)
        step = 1 << 19
        return all(
            left.read(min(step, one.size - at)) == right.read(min(step, one.size - at))
            for at in range(0, one.size, step)
        )


def _tensor_differences(
    first: Folder, others: Mapping[str, Place], dtype: DtypePolicy
) -> Iterator[str]:
    for name, one in first.tensors.items():
        if name not in others:
            continue
        other = others[name]
        if one.shape != other.shape:
            yield f"{name} has shape {list(other.shape)}, not {list(one.shape)}"
        elif one.dtype != other.dtype and (
            dtype == "same" or not {one.dtype, other.dtype} <= FLOATS
        ):
            yield (
                f"{name} is {other.dtype}, not"
                f" {one.dtype}{' (--dtype first stores it so)' if dtype == 'same' else ''}"
            )
    yield from (f"{name} is missing" for name in first.tensors if name not in others)
    yield from (f"{name} is in it alone" for name in others if name not in first.tensors)


def _config_differences(first: object, other: object, place: str = "config") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted(first.keys() | other.keys()):
            if key not in NAMES:
                yield from _config_differences(first.get(key), other.get(key), f"{place}.{key}")
    elif first != other:
        yield f"{place} is {_short(other)}, not {_short(first)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tokenizer_differences(first: Path, other: Path) -> Iterator[str]:
    """Files of the tokenizer that both have and that say different things; a folder without them
    has nothing to compare.
    """
    for name in TOKENIZER:
        one, two = first / name, other / name
        if (
            one.is_file()
            and two.is_file()
            and one.read_bytes() != two.read_bytes()
            and not _same_json(one, two)
        ):
            yield f"{name} differs"
    settings = [_json(folder / "tokenizer_config.json") for folder in (first, other)]
    if all(each is not None for each in settings):
        one, two = (
            {key: value for key, value in (each or {}).items() if key not in TOKENIZER_NAMES}
            for each in settings
        )
        yield from (
            f"tokenizer_config.json: {key} differs"
            for key in sorted(one.keys() & two.keys())
            if one[key] != two[key]
        )


def _same_json(one: Path, two: Path) -> bool:
    return one.suffix == ".json" and _json(one) == _json(two)


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{path} cannot be read as JSON ({error}); copy it again.") from error


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, in whichever of its three places it stands; None where there
    is none.
    """
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _json(folder / name)
        if isinstance(found, dict) and isinstance(found.get("chat_template"), str):
            return found["chat_template"]
    return None


def _template_difference(first: Path, other: Path) -> Iterator[str]:
    one, two = chat_template(first), chat_template(other)
    if one is not None and two is not None and one.strip() != two.strip():
        yield "the chat template differs"


def _notes(first: Folder, other: Folder) -> Iterator[str]:
    for name in PROCESSOR:
        one, two = _json(first.path / name), _json(other.path / name)
        if one is not None and two is not None and one != two:
            yield f"{name} of {other.label} differs from that of {first.label}, which was taken"
    have = [any((folder.path / name).is_file() for name in TOKENIZER) for folder in (first, other)]
    if not all(have):
        lacking = " and ".join(
            folder.label for folder, has in zip((first, other), have, strict=True) if not has
        )
        yield (
            f"no tokenizer was compared: {lacking} {'have' if not any(have) else 'has'} no"
            " tokenizer files"
        )


def all_agreed(folders: Sequence[Folder], *, dtype: DtypePolicy) -> tuple[list[Folder], list[str]]:
    """Every folder with the tensors of the first by name, and the notes on all of them; raises as
    `agreed`.

    Raises:
        InputError: also where a tensor has a type that cannot be merged.
    """
    first, notes = folders[0], []
    checked = [first]
    for other in folders[1:]:
        aligned, said = agreed(first, other, dtype=dtype)
        checked.append(aligned)
        notes += said
    packed = next(
        (
            name
            for name, place in first.tensors.items()
            if place.dtype.startswith("F8") or place.dtype not in ELEMENT_BYTES
        ),
        None,
    )
    if packed is not None:
        raise InputError(
            f"{first}: {packed} is stored as {first.tensors[packed].dtype}, which cannot be"
            " averaged; merge the 16-bit models instead."
        )
    return checked, notes
