"""A model or adapter folder: its configuration, and its tensors by name across its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError
from lingshu.core.files import MANIFEST, read_json
from lingshu.weights.checkpoint_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_no_adapter,
    read_tensor_locations,
    weight_files,
)
from lingshu.weights.safetensors_io import TensorLocation

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
    if not is_adapter:
        check_no_adapter(path)
    files = (ADAPTER_WEIGHTS,) if is_adapter else weight_files(path)
    tensors = read_tensor_locations(path, files)
    config = read_json(path / (ADAPTER_CONFIG if is_adapter else "config.json"))
    hashes = _manifest_hashes(path, files)
    return ModelFolder(path, label, is_adapter, config, files, tensors, hashes)


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
