"""The tensors of a model or adapter folder by name, whichever of its files they lie in; nothing of
their values is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import ArtifactError
from lingshu.core.files import MANIFEST, read_json
from lingshu.weights.safetensors_header import TensorHeader, read_headers

INDEX_FILE = "model.safetensors.index.json"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FLOAT_DTYPES = {"BF16", "F16", "F32", "F64"}


class TensorLocation(NamedTuple):
    """Where a tensor lies: the file's name, the byte it begins at, its length in bytes."""

    file: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFolder:
    """A model folder or, where `adapter`, one of LoRA factors.

    `tensors` are in the order of the files and of the bytes inside them; `known` are sha256 of
    files by the folder's manifest; `label` is what messages and run cards call it: A, B, ... or
    base.
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


def open_model_folder(path: Path, label: str) -> ModelFolder:
    """Read the headers of a checkpoint or adapter folder.

    Raises:
        ArtefactError: no such folder, no safetensors in it, a damaged header, or a size that its
            manifest denies.
    """
    if not path.is_dir():
        raise ArtifactError(
            f"{path} is no folder; give the folder of a checkpoint, or of a LoRA adapter."
        )
    is_adapter = (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file()
    if not is_adapter and not (path / "config.json").is_file():
        raise ArtifactError(
            f"{path} is no model folder (config.json is missing); give the folder of a checkpoint."
        )
    files = (ADAPTER_WEIGHTS,) if is_adapter else _weight_files(path)
    tensors: dict[str, TensorLocation] = {}
    for name in files:
        headers = read_headers(path / name)
        data_start = (path / name).stat().st_size - max(
            (header.stop for header in headers.values()), default=0
        )
        for tensor, header in sorted(headers.items(), key=lambda item: item[1].start):
            if tensor in tensors:
                raise ArtifactError(
                    f"{path} holds tensor {tensor!r} twice, in {tensors[tensor].file} and {name};"
                    " copy the folder again."
                )
            tensors[tensor] = _tensor_location(name, data_start, header)
    _check_index(path, is_adapter, tensors)
    config = read_json(path / (ADAPTER_CONFIG if is_adapter else "config.json"))
    return ModelFolder(
        path, label, is_adapter, config, tuple(files), tensors, _manifest_hashes(path, files)
    )


def _tensor_location(file: str, data_start: int, header: TensorHeader) -> TensorLocation:
    return TensorLocation(
        file, data_start + header.start, header.stop - header.start, header.dtype, header.shape
    )


def _weight_files(path: Path) -> tuple[str, ...]:
    """The files that the index names, or every safetensors file of a folder without one."""
    if (path / INDEX_FILE).is_file():
        weight_map = read_json(path / INDEX_FILE).get("weight_map")
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(name, str) for name in weight_map.values())
        ):
            raise ArtifactError(f"{path / INDEX_FILE} has no weight_map; copy the folder again.")
        names = sorted(set(weight_map.values()))
        # A name in a downloaded index must not lead out of its folder.
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise ArtifactError(
                f"{path / INDEX_FILE} names {outside!r}, which is no file of this folder; copy the"
                " folder again."
            )
        return tuple(names)
    found = tuple(sorted(file.name for file in path.glob("*.safetensors")))
    if not found:
        raise ArtifactError(
            f"{path} holds no safetensors weights; convert them, or copy the folder again."
        )
    return found


def _check_index(path: Path, is_adapter: bool, tensors: Mapping[str, TensorLocation]) -> None:
    if is_adapter or not (path / INDEX_FILE).is_file():
        return
    missing = [name for name in read_json(path / INDEX_FILE)["weight_map"] if name not in tensors]
    if missing:
        raise ArtifactError(
            f"{path} lacks {len(missing)} tensors that {INDEX_FILE} names, such as {missing[0]!r}; copy"
            " the folder again."
        )


def _manifest_hashes(path: Path, files: tuple[str, ...]) -> dict[str, str]:
    if not (path / MANIFEST).is_file():
        return {}
    listed = read_json(path / MANIFEST).get("files")
    entries = listed if isinstance(listed, dict) else {}
    hashes: dict[str, str] = {}
    for name in files:
        entry = entries.get(name)
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            continue
        if entry["bytes"] != (path / name).stat().st_size:
            raise ArtifactError(
                f"{path / name} has another size than {MANIFEST} says; it is truncated or changed:"
                " copy it again."
            )
        hashes[name] = str(entry["sha256"])
    return hashes
