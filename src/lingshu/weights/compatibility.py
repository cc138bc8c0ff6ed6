"""What must be equal before models are merged: tensors, settings, tokenizer, chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import ArtifactError, InputError, library_errors
from lingshu.weights.chat_template import ChatTemplate, prove, stored_templates
from lingshu.weights.checkpoint_files import VOCABULARY_FILES, equal_tensors
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder
from lingshu.weights.safetensors_io import ELEMENT_BYTES, TensorLocation
from lingshu.weights.stock_model import (
    class_names,
    config_ties_head,
    meta_model,
    model_settings,
    quiet_transformers,
    stock_config,
    unwrapped,
)

DtypePolicy = Literal["first", "same"]
MAX_SHOWN = 4  # differences that a message lists; the others are counted
NAMING_KEYS = frozenset(
    ["_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"]
)
TOKENIZER_FILES = (*VOCABULARY_FILES, "special_tokens_map.json", "tokenizer_config.json")
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
# Text on which two tokenizers must agree: words, numbers, spaces, line breaks, scripts, symbols.
TOKENIZER_PROBE = (
    "The heart isn't enlarged; T2-weighted 3.5 x 12 mm,  no effusion.\n\n  Findings:\tnormal\r\n"
    "右肺上叶见结节,直径约12毫米。 CAFÉ naïve e\u0301 \ufb01 Ω≈ß 😀 العربية हिन्दी ไทย <b>\u00a0</b>"
)


def check_all_compatible(
    folders: Sequence[ModelFolder], *, dtype: DtypePolicy
) -> tuple[list[ModelFolder], list[str]]:
    """Every folder with the tensors of the first by name, and notes on harmless differences.

    Settings, tensors and tokenizers count as what transformers reads from the files, however they
    are spelled. A model that stores a tied output head and one that omits it are compatible: the
    head of the latter is its embedding.

    Raises:
        InputError: something that must be equal is not, or a tensor has a type that cannot be
            merged; the first few differences are listed, the others counted.
        ArtifactError: a folder whose configuration or tokenizer cannot be read.
    """
    for folder in folders:
        _check_not_quantized(folder)
    first, notes = folders[0], []
    compatible = [first]
    for other in folders[1:]:
        aligned = _check_compatible(first, other, dtype)
        compatible.append(aligned)
        notes += _notes(first, aligned)
    return compatible, notes


def _check_not_quantized(folder: ModelFolder) -> None:
    remedy = "which cannot be averaged; merge the 16-bit models instead."
    text_config = folder.config.get("text_config")
    for config in (folder.config, text_config if isinstance(text_config, dict) else {}):
        quantization = config.get("quantization_config") or config.get("compression_config")
        if quantization:
            is_named = isinstance(quantization, dict) and "quant_method" in quantization
            method = quantization["quant_method"] if is_named else "an unnamed method"
            raise InputError(f"{folder} is quantized by {method}, {remedy}")
    for name, location in folder.tensors.items():
        if location.dtype.startswith("F8") or location.dtype not in ELEMENT_BYTES:
            raise InputError(f"{folder}: {name} is stored as {location.dtype}, {remedy}")


def _check_compatible(first: ModelFolder, other: ModelFolder, dtype: DtypePolicy) -> ModelFolder:
    types = [folder.config.get("model_type") for folder in (first, other)]
    if types[0] != types[1]:
        problem = f"its model type is {types[1]!r}, that of {first} is {types[0]!r}"
        remedy = "only models of one architecture can be merged"
        raise InputError(f"{other} cannot be merged: {problem}; {remedy}.")
    tensors = _with_tied_heads(first, _with_names_of(first, other))
    token_differences = list(_tokenizer_differences(first, other))
    differences = [
        *_config_differences(first, other),
        *_tensor_differences(first, tensors, dtype),
        *token_differences,
        *_template_differences(first, other),
    ]
    if differences:
        more = f"; and {len(differences) - MAX_SHOWN} more" if len(differences) > MAX_SHOWN else ""
        remedy = "Only models of one architecture with one tokenizer can be merged."
        rows = _embedding_rows(first.tensors), _embedding_rows(tensors)
        if rows[0] != rows[1] and not token_differences:
            remedy = (
                f"Give both {max(filter(None, rows), default=0)} rows of embedding with"
                " resize_token_embeddings of transformers, if nothing else differs."
            )
        raise InputError(
            f"{other} cannot be merged with {first}: {'; '.join(differences[:MAX_SHOWN])}{more}."
            f" {remedy}"
        )
    return replace(other, tensors=tensors)


def _with_names_of(first: ModelFolder, other: ModelFolder) -> ModelFolder:
    """`other` with the names of `first`, where both name the same tensor of the model class."""
    if first.tensors.keys() == other.tensors.keys():
        return other
    names = [{name: unwrapped(name) for name in folder.tensors} for folder in (first, other)]
    rest = set(names[0].values()) ^ set(names[1].values())
    is_unique = all(len(set(table.values())) == len(table) for table in names)
    if not is_unique or not rest <= {"lm_head.weight"}:
        # Not only the outer modules have other names: ask the class, which takes two seconds.
        config = stock_config(first.config, first)
        with library_errors(f"{first}: config.json cannot be used", "download the folder again"):
            model = meta_model(config) if config is not None else None
        if model is not None:
            names = [_class_names(model, folder) for folder in (first, other)]
        elif not is_unique:
            return other
    of_first = {name: stored for stored, name in names[0].items()}
    tensors = {
        of_first.get(names[1][stored], stored): location
        for stored, location in other.tensors.items()
    }
    return replace(other, tensors=tensors)


def _class_names(model: Any, folder: ModelFolder) -> dict[str, str]:
    """The class's name of each stored tensor.

    Raises:
        ArtifactError: two stored tensors are one of the class.
    """
    names, seen = class_names(model, folder.tensors), dict[str, str]()
    for stored, name in names.items():
        if name in seen:
            problem = f"{seen[name]} and {stored} are both {name} of {type(model).__name__}"
            raise ArtifactError(f"{folder}: {problem}; download the folder again.")
        seen[name] = stored
    return names


def _with_tied_heads(first: ModelFolder, other: ModelFolder) -> dict[str, TensorLocation]:
    """The tensors of `other` with a head as `first` has it.

    Raises:
        InputError: the head of `first` is its embedding, that of `other` is another tensor.
    """
    tensors = dict(other.tensors)
    head = _single(first.tensors, "lm_head.weight") or _single(tensors, "lm_head.weight")
    if head is None:
        return tensors
    if head not in tensors and config_ties_head(other.config, other):
        if (embedding := _single(tensors, "embed_tokens.weight")) is not None:
            tensors[head] = tensors[embedding]
    elif head in tensors and config_ties_head(first.config, first):
        if head in first.tensors and not _is_embedding(first, first.tensors, head):
            return tensors
        if not _is_embedding(other, tensors, head):
            problem = f"has an output head ({head}) that differs from its embedding"
            raise InputError(
                f"{other} {problem}, that of {first} is its embedding; name {other.path} first."
            )
        if head not in first.tensors:
            del tensors[head]
    return tensors


def _single(tensors: Mapping[str, TensorLocation], ending: str) -> str | None:
    names = [name for name in tensors if name.endswith(ending)]
    return names[0] if len(names) == 1 else None


def _is_embedding(folder: ModelFolder, tensors: Mapping[str, TensorLocation], head: str) -> bool:
    """Whether the head has the bytes of the embedding."""
    embedding = _single(tensors, "embed_tokens.weight")
    return embedding is not None and equal_tensors(folder.path, tensors[head], tensors[embedding])


def _embedding_rows(tensors: Mapping[str, TensorLocation]) -> int | None:
    name = _single(tensors, "embed_tokens.weight")
    return tensors[name].shape[0] if name is not None and tensors[name].shape else None


def _tensor_differences(
    first: ModelFolder, others: Mapping[str, TensorLocation], dtype: DtypePolicy
) -> Iterator[str]:
    for name, expected in first.tensors.items():
        actual = others.get(name)
        if actual is None:
            yield f"{name} is missing"
            continue
        is_castable = dtype == "first" and {expected.dtype, actual.dtype} <= FLOAT_DTYPES
        if expected.shape != actual.shape:
            yield f"{name} has shape {list(actual.shape)}, not {list(expected.shape)}"
        elif expected.dtype != actual.dtype and not is_castable:
            hint = " (--dtype first stores it so)" if dtype == "same" else ""
            yield f"{name} is {actual.dtype}, not {expected.dtype}{hint}"
    yield from (f"{name} is only in this model" for name in others if name not in first.tensors)


def _config_differences(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    if _unnamed(first.config) != _unnamed(other.config):
        left, right = (model_settings(folder.config, folder) for folder in (first, other))
        yield from _value_differences(left, right, "config")


def _unnamed(value: object) -> object:
    """A configuration without keys that name a model or record how it was written."""
    if isinstance(value, Mapping):
        return {key: _unnamed(item) for key, item in value.items() if key not in NAMING_KEYS}
    return value


def _value_differences(first: object, other: object, path: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted(first.keys() | other.keys()):
            yield from _value_differences(first.get(key), other.get(key), f"{path}.{key}")
    elif first != other:
        yield f"{path} is {_abbreviated(other)}, not {_abbreviated(first)}"


def _abbreviated(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tokenizer_differences(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    """Tokens, ids and cuts that differ, whatever files hold them."""
    if not (_has_tokenizer(first.path) and _has_tokenizer(other.path)):
        return
    if all(_same_file(first.path / name, other.path / name) for name in TOKENIZER_FILES):
        return
    left, right = (_load_tokenizer(folder) for folder in (first, other))
    ids = left.get_vocab(), right.get_vocab()
    changed = [
        name
        for name in sorted(ids[0].keys() | ids[1].keys())
        if ids[0].get(name) != ids[1].get(name)
    ]
    if changed:
        name = changed[0]
        example = f"{name!r} is {ids[1].get(name, 'missing')}, not {ids[0].get(name, 'missing')}"
        yield f"{len(changed)} tokens of the tokenizer have other ids ({example})"
    elif left(TOKENIZER_PROBE)["input_ids"] != right(TOKENIZER_PROBE)["input_ids"]:
        yield "the tokenizer cuts the same text into other tokens"
    elif _merges(left) != _merges(right):
        yield "the tokenizer joins letters to tokens in another order (merges)"
    if left.eos_token_id != right.eos_token_id:
        yield f"the end token is {right.eos_token!r}, not {left.eos_token!r}"


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def _same_file(left: Path, right: Path) -> bool:
    """Whether both are missing, or have the same bytes or the same JSON value but for a template."""
    if left.is_file() != right.is_file():
        return False
    if not left.is_file() or left.read_bytes() == right.read_bytes():
        return True
    values = [_read_json(path) for path in (left, right)] if left.suffix == ".json" else []
    without_template = [
        {key: value for key, value in value.items() if key != "chat_template"}
        for value in values
        if isinstance(value, dict)
    ]
    return len(without_template) == 2 and without_template[0] == without_template[1]


def _load_tokenizer(folder: ModelFolder) -> Any:
    from transformers import AutoTokenizer

    what = f"{folder}: its tokenizer cannot be loaded"
    with library_errors(what, "download the folder again"), quiet_transformers():
        return AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)


def _merges(tokenizer: Any) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"].get("merges") if backend is not None else None


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}); copy it again.") from error


def _template_differences(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    """Dialogues that the two render differently, or a folder with two templates that do."""
    stored = [stored_templates(folder.path) for folder in (first, other)]
    if len({template.text for template in (*stored[0], *stored[1])}) <= 1:
        return
    used: list[tuple[str, ...]] = []
    for folder, templates in zip((first, other), stored, strict=True):
        proofs = [prove(ChatTemplate(at.source, at.text), None) for at in templates if at.text]
        # One that knows no images counts only where no other does, as in the loader.
        good = [proof for proof in proofs if proof.problem is None]
        good = good or [proof for proof in proofs if proof.is_text_only]
        for proof in good[1:]:
            if proof.renders != good[0].renders:
                files = f"{good[0].template.source} and {proof.template.source}"
                yield f"{folder.label} holds two chat templates that differ ({files}; remove one)"
        used += [tuple(map(str, proof.renders)) for proof in good[:1]]
    # Of a template without images only the dialogue of texts, the first, can be compared.
    if len(used) == 2 and any(left != right for left, right in zip(*used, strict=False)):
        yield "the chat template differs: it renders the same dialogue to another text"


def _notes(first: ModelFolder, other: ModelFolder) -> Iterator[str]:
    types = {
        (location.dtype, other.tensors[name].dtype)
        for name, location in first.tensors.items()
        if location.dtype != other.tensors[name].dtype
    }
    for expected, actual in sorted(types):
        yield (
            f"{other.label} has tensors in {actual} that {first.label} has in {expected}, which the"
            " result is stored in"
        )
    for name in PROCESSOR_FILES:
        left, right = _read_json(first.path / name), _read_json(other.path / name)
        if left is not None and right is not None and left != right:
            yield f"{name} of {other.label} differs from that of {first.label}, which is used"
    missing = [folder.label for folder in (first, other) if not _has_tokenizer(folder.path)]
    if missing:
        verb = "have" if len(missing) == 2 else "has"
        yield f"no tokenizer was compared: {' and '.join(missing)} {verb} no tokenizer files"
