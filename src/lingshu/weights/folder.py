"""A model or adapter folder: its configuration, and its tensors by name across its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError
from lingshu.core.files import MANIFEST, read_json
from lingshu.weights.safetensors_io import TensorLocation, read_headers

INDEX_FILE = "model.safetensors.index.json"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FLOAT_DTYPES = {"BF16", "F16", "F32", "F64"}


@dataclass(frozen=True)
class ModelFolder:
    """A model folder or, if `is_adapter`, one of LoRA factors.

    `tensors` are in the order of the files and of the bytes inside them; `known_hashes` are the
    sha256 of files by the folder's manifest; `label` is what messages and run cards call it: A, B,
    ... or base.
    """

    path: Path
    label: str
    is_adapter: bool
    config: Mapping[str, Any]
    files: tuple[str, ...]
    tensors: Mapping[str, TensorLocation]
    known_hashes: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.label} ({self.path})"

    def check_hashes(self, hashes: Mapping[str, str]) -> dict[str, str]:
        """The sha256 of its files by label and name, compared with the manifest.

        Raises:
            ArtifactError: a file does not match.
        """
        for name, digest in hashes.items():
            if self.known_hashes.get(name, digest) != digest:
                problem = f"{self.path / name} does not match its sha256 in {MANIFEST}"
                raise ArtifactError(f"{problem}; copy the folder again or rebuild it.")
        return {f"{self.label}/{name}": digest for name, digest in hashes.items()}


def open_model_folder(path: Path, label: str) -> ModelFolder:
    """Read the headers of a checkpoint or adapter folder.

    Raises:
        ArtifactError: no such folder, no safetensors in it, a damaged header, or a size that its
            manifest contradicts.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path} is not a folder; give a checkpoint or a LoRA adapter.")
    is_model, is_adapter = ((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    is_adapter = is_adapter and not is_model
    if not is_adapter and not is_model:
        problem = "is not a model folder (config.json is missing)"
        raise ArtifactError(f"{path} {problem}; give the folder of a checkpoint.")
    files = (ADAPTER_WEIGHTS,) if is_adapter else _weight_files(path)
    tensors: dict[str, TensorLocation] = {}
    for name in files:
        headers = read_headers(path / name)
        for tensor in headers.keys() & tensors.keys():
            problem = f"holds tensor {tensor!r} twice, in {tensors[tensor].file} and {name}"
            raise ArtifactError(f"{path} {problem}; copy the folder again.")
        tensors |= headers
    if not is_adapter:
        _check_index(path, tensors)
    config = read_json(path / (ADAPTER_CONFIG if is_adapter else "config.json"))
    hashes = _manifest_hashes(path, files)
    return ModelFolder(path, label, is_adapter, config, files, tensors, hashes)


def _weight_files(path: Path) -> tuple[str, ...]:
    """The files that the index names, or every safetensors file of a folder without one."""
    index = path / INDEX_FILE
    if not index.is_file():
        found = tuple(sorted(file.name for file in path.glob("*.safetensors")))
        if not found:
            remedy = "convert them, or copy the folder again"
            raise ArtifactError(f"{path} holds no safetensors weights; {remedy}.")
        return found
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ArtifactError(f"{index} has no weight_map; copy the folder again.")
    # A name in a downloaded index must not lead out of its folder.
    outside = next((name for name in sorted(names) if Path(name).name != name), None)
    if outside is not None:
        problem = f"names {outside!r}, which is not a file of this folder"
        raise ArtifactError(f"{index} {problem}; copy the folder again.")
    return tuple(sorted(set(names)))


def _check_index(path: Path, tensors: Mapping[str, TensorLocation]) -> None:
    if not (path / INDEX_FILE).is_file():
        return
    missing = [name for name in read_json(path / INDEX_FILE)["weight_map"] if name not in tensors]
    if missing:
        problem = f"{len(missing)} tensors that {INDEX_FILE} names, such as {missing[0]!r}"
        raise ArtifactError(f"{path} lacks {problem}; copy the folder again.")


def _manifest_hashes(path: Path, files: tuple[str, ...]) -> dict[str, str]:
    if not (path / MANIFEST).is_file():
        return {}
    listed = read_json(path / MANIFEST).get("files")
    entries = listed if isinstance(listed, dict) else {}
    hashes: dict[str, str] = {}
    for name in files:
        entry = entries.get(name)
        if isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys():
            if entry["bytes"] != (path / name).stat().st_size:
                problem = f"is truncated or changed: its size is not that of {MANIFEST}"
                raise ArtifactError(f"{path / name} {problem}; copy it again.")
            hashes[name] = str(entry["sha256"])
    return hashes
