"""The files that make a model: which ones count, what is refused, and the digest of their content.

Every command that opens a model starts here. The loaders read the files that are named here and no
others, so nothing alongside them can change a model, and the digest covers all that decides its
answers. Nothing in a folder is ever run: what asks for code is refused or left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError
from lingshu.core.files import (
    MANIFEST,
    FileStat,
    check_manifest,
    digest,
    file_stat,
    read_json,
    sha256_files,
)
from lingshu.weights.safetensors_io import TensorLocation, read_headers

CONFIG, SINGLE_FILE = "config.json", "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"
# JSON objects with settings, which may ask for code.
SETTINGS_FILES = (
    CONFIG,
    GENERATION_CONFIG,
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
)
# The other files that stock tokenizers and processors read.
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
# Keys of settings that name code: of the folder, of another repository, or of a kernel library.
CODE_KEYS = frozenset(("auto_map", "custom_generate", "custom_pipelines"))
IMPLEMENTATION_KEY = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?")
# Keys that would make transformers read other files or compute with other operations.
REDIRECTING_KEYS = frozenset(("transformers_weights", "fusion_config", "kernel_config"))
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Of shards whose index was lost.
_SHARD_NAME = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
COPY_AGAIN = "copy or download the folder again"


@dataclass(frozen=True)
class CheckpointFiles:
    """An opened checkpoint folder; no values are read yet.

    `config` is config.json without what asks for code; `files` are the names of all files that make
    the model, the safetensors files `weights` among them; `tensors` are those of the headers;
    `notes` say what was left out.
    """

    folder: Path
    config: Mapping[str, Any]
    files: tuple[str, ...]
    weights: tuple[str, ...]
    tensors: Mapping[str, TensorLocation]
    stats: Mapping[str, FileStat]
    notes: tuple[str, ...]

    def settings(self, name: str) -> dict[str, Any] | None:
        """One of the settings files without what asks for code; None where the folder has none."""
        if name not in self.files:
            return None
        return without_code_requests(read_json(self.folder / name))[0]

    def digest(self) -> str:
        """The digest of the content of every file that makes the model; equal only for equal bytes.

        Raises:
            ArtifactError: a file changed since it was opened, or does not match the manifest.
        """
        listed = check_manifest(self.folder, hash_files=sha256_files)
        hashes = (
            [listed[name]["sha256"] for name in self.files]
            if listed is not None
            else sha256_files([self.folder / name for name in self.files])
        )
        self.check_unchanged()
        return digest(dict(zip(self.files, hashes, strict=True)))

    def check_unchanged(self) -> None:
        """Raise ArtifactError if a file is not the one that was opened."""
        for name, stat in self.stats.items():
            if file_stat(self.folder / name) != stat:
                problem = f"{self.folder / name} changed while the model was opened"
                raise ArtifactError(f"{problem}; try again when the folder is complete.")


def open_checkpoint(folder: Path) -> CheckpointFiles:
    """Find the files that make the model of a checkpoint folder and read their headers.

    Raises:
        ArtifactError: it is not a complete model folder in safetensors, it asks for code, or it
            holds files that would change the model and are not part of it.
    """
    config = read_config(folder)
    weights = weight_files(folder)
    others = other_files(folder)
    check_no_adapter(folder)
    _check_tokenizer(folder, others)
    files = tuple(sorted({*others, *weights}))
    _check_listed(folder, files, weights)
    stats = {name: file_stat(folder / name) for name in files}
    return CheckpointFiles(
        folder,
        config,
        files,
        weights,
        read_tensor_locations(folder, weights),
        stats,
        tuple(_code_notes(folder, others)),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder, without keys that choose implementations.

    Raises:
        ArtifactError: it is not a model folder, or its configuration asks for code.
    """
    if not folder.is_dir():
        remedy = "give a checkpoint folder, a hub id, or http(s)://host/v1#name"
        raise ArtifactError(f"{folder} is not a folder; {remedy}.")
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder} is {_other_kind(folder)}.")
    config, requests = without_code_requests(read_json(folder / CONFIG))
    architectures = config.get("architectures")
    if config.get("model_type") == "internvl_chat" or (
        isinstance(architectures, list) and "InternVLChatModel" in architectures
    ):
        remedy = "take the folder of the same model whose name ends in -hf, or `lingshu convert` it"
        raise ArtifactError(f"{folder} has the custom-code layout of InternVL; {remedy}.")
    if requests:
        problem = f"asks to run code ({requests[0]} in {CONFIG})"
        remedy = "only stock model classes are loaded; take a copy of the model without it"
        raise ArtifactError(f"{folder} {problem}; {remedy}.")
    return config


def _other_kind(folder: Path) -> str:
    """What a folder without config.json is, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    if ADAPTER_CONFIG in names:
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        return (
            f"an adapter of the base {str(base)!r:.120}, not a model; merge it into its base (peft:"
            " merge_and_unload) and give the merged folder"
        )
    if gguf := next((name for name in names if name.lower().endswith(".gguf")), None):
        return (
            f"a folder of GGUF files ({gguf}); take the safetensors folder of the same model, or"
            " serve the file with llama.cpp and give http://host/v1#name"
        )
    return (
        f"not a model folder ({CONFIG} is missing); give the folder that `lingshu train` names as"
        " its checkpoint"
    )


def without_code_requests(value: Any) -> tuple[Any, list[str]]:
    """A JSON value without the keys that name code or implementations, at every depth, and the
    paths of those that ask for code.

    A plain implementation ("sdpa") is left out without a word: the loader chooses it.
    """
    requests: list[str] = []

    def clean(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [clean(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        kept = {}
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            if key == "_name_or_path":  # a path of the machine that wrote the file
                continue
            if key in CODE_KEYS or key in REDIRECTING_KEYS:
                requests.extend([here] if item else [])
            elif IMPLEMENTATION_KEY.fullmatch(key):
                # A repository of kernels has a slash in its name.
                requests.extend([here] if "/" in str(item) else [])
            else:
                kept[key] = clean(item, here)
        return kept

    try:
        return clean(value, ""), requests
    except RecursionError as error:
        raise ArtifactError(f"a settings file is nested too deeply; {COPY_AGAIN}.") from error


def without_code_keys(value: Any) -> Any:
    """A JSON value without the keys that name code or implementations, at every depth."""
    return without_code_requests(value)[0]


def _code_notes(folder: Path, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name not in SETTINGS_FILES or name == CONFIG:
            continue
        for request in without_code_requests(read_json(folder / name))[1]:
            yield f"{name} asks for code ({request}), which is not run"


def weight_files(folder: Path) -> tuple[str, ...]:
    """The safetensors files of a model folder: those that its index names, or the single file.

    Raises:
        ArtifactError: there are none, one is missing, or it is unclear which ones count.
    """
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if not (folder / INDEX_FILE).is_file():
        if SINGLE_FILE in found:
            return (SINGLE_FILE,)
        return _unindexed_shards(folder, [name for name in found if name != ADAPTER_WEIGHTS])
    names = indexed_files(folder / INDEX_FILE)
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing is not None:
        raise ArtifactError(
            f"{folder / INDEX_FILE} names {missing}, which is missing; {COPY_AGAIN}."
        )
    if SINGLE_FILE in found and SINGLE_FILE not in names:
        problem = f"holds {SINGLE_FILE} and an index of other files, so the model is ambiguous"
        raise ArtifactError(f"{folder} {problem}; remove the one that is not the model.")
    return names


def indexed_files(index: Path) -> tuple[str, ...]:
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ArtifactError(f"{index} has no weight_map of file names; {COPY_AGAIN}.")
    for name in sorted(names):
        # A name in a downloaded index must not lead out of its folder, nor to a pickle.
        if Path(name).name != name or "\\" in name or "\0" in name:
            problem = f"names {name!r:.80}, which is not a file of this folder"
            raise ArtifactError(f"{index} {problem}; {COPY_AGAIN}.")
        if not name.endswith(".safetensors"):
            problem = f"names {name!r:.80}, which is not a safetensors file"
            raise ArtifactError(f"{index} {problem}; take the model in safetensors.")
    return tuple(sorted(set(names)))


def _unindexed_shards(folder: Path, found: Sequence[str]) -> tuple[str, ...]:
    """Every shard of a folder whose index was lost, if all are there, or its only weights."""
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        pickled = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
        gguf = [name for name in names if name.lower().endswith(".gguf")]
        remedy = f"{COPY_AGAIN}."
        if gguf:
            remedy = f"{gguf[0]} is GGUF, which llama.cpp serves: give http://host/v1#name."
        elif pickled:
            remedy = f"{pickled[0]} is pickled and is refused; convert it to safetensors."
        raise ArtifactError(f"{folder} holds no safetensors weights; {remedy}")
    shards = [match for name in found if (match := _SHARD_NAME.fullmatch(name))]
    numbers = {int(match[1]) for match in shards}
    totals = {int(match[2]) for match in shards}
    if shards and totals == {len(numbers)} and numbers == set(range(1, len(numbers) + 1)):
        return tuple(match[0] for match in shards)
    if shards:
        problem = f"holds {len(shards)} shards, such as {shards[0][0]}, and no {INDEX_FILE}"
        raise ArtifactError(f"{folder} {problem}; {COPY_AGAIN}.")
    if len(found) > 1:
        problem = f"holds {len(found)} safetensors files, such as {found[0]}, and no {INDEX_FILE}"
        raise ArtifactError(f"{folder} {problem}, so the model is ambiguous; {COPY_AGAIN}.")
    return tuple(found)


def read_tensor_locations(folder: Path, names: Sequence[str]) -> dict[str, TensorLocation]:
    """The tensors of some safetensors files of a folder, in the order of the files and their bytes.

    Raises:
        ArtifactError: a damaged file, a tensor in two files, or one of the index in none.
    """
    tensors: dict[str, TensorLocation] = {}
    for name in names:
        headers = read_headers(folder / name)
        for tensor in headers.keys() & tensors.keys():
            problem = f"holds tensor {tensor!r} twice, in {tensors[tensor].file} and {name}"
            raise ArtifactError(f"{folder} {problem}; {COPY_AGAIN}.")
        tensors |= headers
    if (folder / INDEX_FILE).is_file() and names != (ADAPTER_WEIGHTS,):
        indexed = read_json(folder / INDEX_FILE).get("weight_map", {})
        missing = [name for name in indexed if name not in tensors]
        if missing:
            problem = f"{len(missing)} tensors that {INDEX_FILE} names, such as {missing[0]!r:.120}"
            raise ArtifactError(f"{folder} lacks {problem}; {COPY_AGAIN}.")
    return tensors


def equal_tensors(folder: Path, first: TensorLocation, second: TensorLocation) -> bool:
    """Whether two tensors of a folder have the same type, shape and bytes."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with (folder / first.file).open("rb") as left, (folder / second.file).open("rb") as right:
        left.seek(first.offset)
        right.seek(second.offset)
        sizes = (min(1 << 20, first.size - start) for start in range(0, first.size, 1 << 20))
        return all(left.read(size) == right.read(size) for size in sizes)


def other_files(folder: Path) -> list[str]:
    """The files alongsides the weights that decide what a model answers."""
    names = (*SETTINGS_FILES, *VOCABULARY_FILES, TEMPLATE_FILE, INDEX_FILE)
    found = [name for name in names if (folder / name).is_file()]
    found += [path.name for path in folder.glob("*.tiktoken") if path.is_file()]
    templates = (folder / TEMPLATE_FOLDER).glob("*.jinja")
    return found + [f"{TEMPLATE_FOLDER}/{path.name}" for path in templates if path.is_file()]


def check_no_adapter(folder: Path) -> None:
    """Raise ArtifactError for an adapter in the folder of a model: it is unclear whether it counts."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if (folder / name).is_file():
            problem = f"holds an adapter ({name}) alongside a whole model, which would change it"
            raise ArtifactError(
                f"{folder} {problem}; move the adapter to a folder of its own, or merge it."
            )


def _check_tokenizer(folder: Path, names: Sequence[str]) -> None:
    is_complete = {"vocab.json", "merges.txt"} <= set(names) or any(
        name in ("tokenizer.json", "vocab.txt") or name.endswith((".model", ".tiktoken"))
        for name in names
    )
    if not is_complete:
        problem = "has no tokenizer (tokenizer.json, or vocab.json with merges.txt, is missing)"
        raise ArtifactError(
            f"{folder} {problem}; copy these files from the model that it was made from."
        )


def _check_listed(folder: Path, files: Sequence[str], weights: Sequence[str]) -> None:
    """Raise ArtifactError if a manifest leaves out a file that the loader would read."""
    if not (folder / MANIFEST).exists():
        return
    listed = read_json(folder / MANIFEST).get("files")
    names = listed if isinstance(listed, dict) else {}
    extra_files = sorted(set(files) - set(names))
    if any(name in weights for name in extra_files):
        raise ArtifactError(
            f"{folder / MANIFEST} does not list the weights, so it proves nothing; {COPY_AGAIN}, or"
            f" remove {MANIFEST}."
        )
    if extra_files:
        problem = f"{folder / extra_files[0]} would change the model and is not in {MANIFEST}"
        raise ArtifactError(f"{problem}; remove it, or remove {MANIFEST} if it is meant.")
