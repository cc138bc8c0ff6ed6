"""The tensors of a model or adapter folder by name, whichever of its files they lie in; nothing of
their values is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import ArtefactError
from lingshu.core.files import MANIFEST, read_json
from lingshu.weights.headers import TensorHeader, read_headers

INDEX = "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FLOATS = {"BF16", "F16", "F32", "F64"}


class Place(NamedTuple):
    """Where a tensor lies: the file's name, the byte it begins at, its length in bytes."""

    file: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Folder:
    """A model folder or, where `adapter`, one of LoRA factors.

    `tensors` are in the order of the files and of the bytes inside them; `known` are sha256 of
    files by the folder's manifest; `label` is what messages and run cards call it: A, B, ... or
    base.
    """

    path: Path
    label: str
    adapter: bool
    config: Mapping[str, Any]
    files: tuple[str, ...]
    tensors: Mapping[str, Place]
    known: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.label} ({self.path})"


def open_folder(path: Path, label: str) -> Folder:
    """Read the headers of a checkpoint or adapter folder.

    Raises:
        ArtefactError: no such folder, no safetensors in it, a damaged header, or a size that its
            manifest denies.
    """
    if not path.is_dir():
        raise ArtefactError(
            f"{path} is no folder; give the folder of a checkpoint, or of a LoRA adapter."
        )
    adapter = (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file()
    if not adapter and not (path / "config.json").is_file():
        raise ArtefactError(
            f"{path} is no model folder (config.json is missing); give the folder of a checkpoint."
        )
    files = (ADAPTER,) if adapter else _weight_files(path)
    tensors: dict[str, Place] = {}
    for name in files:
        headers = read_headers(path / name)
        data = (path / name).stat().st_size - max(
            (header.stop for header in headers.values()), default=0
        )
        for tensor, header in sorted(headers.items(), key=lambda item: item[1].start):
            if tensor in tensors:
                raise ArtefactError(
                    f"{path} holds tensor {tensor!r} twice, in {tensors[tensor].file} and {name};"
                    " copy the folder again."
                )
            tensors[tensor] = _place(name, data, header)
    _check_index(path, adapter, tensors)
    config = read_json(path / (ADAPTER_CONFIG if adapter else "config.json"))
    return Folder(path, label, adapter, config, tuple(files), tensors, _known(path, files))


def _place(file: str, data: int, header: TensorHeader) -> Place:
    return Place(file, data + header.start, header.stop - header.start, header.dtype, header.shape)


def _weight_files(path: Path) -> tuple[str, ...]:
    """The files that the index names, or every safetensors file of a folder without one."""
    if (path / INDEX).is_file():
        places = read_json(path / INDEX).get("weight_map")
        if (
            not isinstance(places, dict)
            or not places
            or not all(isinstance(name, str) for name in places.values())
        ):
            raise ArtefactError(f"{path / INDEX} has no weight_map; copy the folder again.")
        names = sorted(set(places.values()))
        # A name in a downloaded index must not lead out of its folder.
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise ArtefactError(
                f"{path / INDEX} names {outside!r}, which is no file of this folder; copy the"
                " folder again."
            )
        return tuple(names)
    found = tuple(sorted(file.name for file in path.glob("*.safetensors")))
    if not found:
        raise ArtefactError(
            f"{path} holds no safetensors weights; convert them, or copy the folder again."
        )
    return found


def _check_index(path: Path, adapter: bool, tensors: Mapping[str, Place]) -> None:
    if adapter or not (path / INDEX).is_file():
        return
    missing = [name for name in read_json(path / INDEX)["weight_map"] if name not in tensors]
    if missing:
        raise ArtefactError(
            f"{path} lacks {len(missing)} tensors that {INDEX} names, such as {missing[0]!r}; copy"
            " the folder again."
        )


def _known(path: Path, files: tuple[str, ...]) -> dict[str, str]:
    if not (path / MANIFEST).is_file():
        return {}
    listed = read_json(path / MANIFEST).get("files")
    facts = listed if isinstance(listed, dict) else {}
    found: dict[str, str] = {}
    for name in files:
        said = facts.get(name)
        if not isinstance(said, dict) or not {"bytes", "sha256"} <= said.keys():
            continue
        if said["bytes"] != (path / name).stat().st_size:
            raise ArtefactError(
                f"{path / name} has another size than {MANIFEST} says; it is truncated or changed:"
                " copy it again."
            )
        found[name] = str(said["sha256"])
    return found
