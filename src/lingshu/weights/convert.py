"""Stored tensors written again: under other names, in another type, in shards of a bounded size.

Tensors are read from safetensors or from pinned pickles and written block by block, so that the
memory does not depend on the size of a model.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ArtifactError, ConfigError, one_line
from lingshu.core.files import read_json, sha256_file, write_json
from lingshu.weights.base import BLOCK_SIZE, TORCH_DTYPES, single_thread
from lingshu.weights.checkpoint_files import INDEX_FILE
from lingshu.weights.folder import ModelFolder
from lingshu.weights.safetensors_io import (
    ELEMENT_BYTES,
    BackgroundThreads,
    Buffer,
    BufferRing,
    SafetensorsWriter,
    TensorLocation,
    TensorReader,
)

TargetDtype = Literal["same", "bfloat16", "float16", "float32"]
_TARGET_NAMES: Mapping[TargetDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
MAX_SHARD_BYTES = 5_000_000_000  # as transformers splits its own checkpoints
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
PICKLE_INDEX = "pytorch_model.bin.index.json"
_DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()} | {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StoredTensor(NamedTuple):
    """Type (by its safetensors name) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to write: the elements of `source` in `ranges` (first element, count), in order."""

    name: str
    shape: tuple[int, ...]
    source: str
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def full(cls, name: str, source: str, stored: StoredTensor) -> TensorPlan:
        """All of a stored tensor under another name."""
        return cls(name, stored.shape, source, ((0, prod(stored.shape)),))

    @classmethod
    def rows(
        cls, name: str, source: str, stored: StoredTensor, rows: Sequence[tuple[int, int]]
    ) -> TensorPlan:
        """Some rows (first row, count) of a stored tensor, along its first dimension."""
        width = prod(stored.shape[1:])
        shape = (sum(count for _, count in rows), *stored.shape[1:])
        return cls(name, shape, source, tuple((first * width, n * width) for first, n in rows))


class TensorSource(ABC):
    """The tensors of a checkpoint by name, in the order of its files."""

    tensors: Mapping[str, StoredTensor]

    @abstractmethod
    def blocks(self, name: str, start: int, count: int) -> Iterator[tuple[Buffer, memoryview]]:
        """Elements `start` to `start + count` of a tensor, in blocks of at most BLOCK_SIZE."""

    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """The sha256 of each file, once everything was read.

        Raises:
            ArtifactError: a file does not match the folder's manifest, or changed meanwhile.
        """

    @abstractmethod
    def close(self) -> None: ...


class SafetensorsSource(TensorSource):
    """The tensors of a model folder; its files are hashed while they are read."""

    def __init__(self, folder: ModelFolder, threads: BackgroundThreads) -> None:
        self._folder = folder
        self._reader = TensorReader(folder.path, folder.files, threads, compute_hashes=True)
        self._ring = BufferRing(BLOCK_SIZE * 8)
        self.tensors = {
            name: StoredTensor(location.dtype, location.shape)
            for name, location in folder.tensors.items()
        }

    def blocks(self, name: str, start: int, count: int) -> Iterator[tuple[Buffer, memoryview]]:
        location = self._folder.tensors[name]
        size = ELEMENT_BYTES[location.dtype]
        for first in range(start, start + count, BLOCK_SIZE):
            n = min(BLOCK_SIZE, start + count - first)
            buffer = self._ring.acquire()
            yield buffer, self._reader.read(location, first * size, buffer, n * size)

    def hashes(self) -> dict[str, str]:
        digests = self._reader.hashes()
        self._folder.check_hashes(digests)
        return digests

    def close(self) -> None:
        self._ring.drain()
        self._reader.close()


class PickleSource(TensorSource):
    """The tensors of pickled files, each of which the user pinned by its sha256.

    Loaded with `weights_only`, which builds tensors and runs no code of the file. Values stay in
    the file (mapped) where torch wrote it since version 1.6; older files are read whole.
    """

    def __init__(self, folder: Path, files: Sequence[str], pins: Mapping[str, str]) -> None:
        self._folder, self._pins = folder, {name: pins[name].lower() for name in files}
        self._stats = {name: self._check(name) for name in files}
        self._ring = BufferRing(BLOCK_SIZE * 8)
        self._loaded: dict[str, Tensor] = {}
        for name in files:
            for tensor, value in _load_pickle(folder / name).items():
                if tensor in self._loaded:
                    problem = f"{folder / name} holds tensor {tensor!r}, which another file has"
                    raise ArtifactError(f"{problem}; keep the files of one checkpoint.")
                self._loaded[tensor] = value
        self.tensors = {
            name: StoredTensor(_DTYPE_NAMES.get(value.dtype, str(value.dtype)), tuple(value.shape))
            for name, value in self._loaded.items()
        }

    def _check(self, name: str) -> tuple[int, int, int]:
        path = self._folder / name
        digest, pinned = sha256_file(path), self._pins[name]
        if digest != pinned:
            problem = f"{path} has sha256 {digest}, --sha256 says {pinned}"
            raise ArtifactError(f"{problem}; it is not the file that you pinned.")
        stat = path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def blocks(self, name: str, start: int, count: int) -> Iterator[tuple[Buffer, memoryview]]:
        flat = self._loaded[name].contiguous().reshape(-1)
        for first in range(start, start + count, BLOCK_SIZE):
            values = flat[first : min(first + BLOCK_SIZE, start + count)]
            buffer, size = self._ring.acquire(), values.numel() * values.element_size()
            copied = torch.frombuffer(buffer.bytes, dtype=values.dtype, count=values.numel())
            copied.copy_(values)
            yield buffer, memoryview(buffer.bytes)[:size]

    def hashes(self) -> dict[str, str]:
        for name, expected in self._stats.items():
            stat = (self._folder / name).stat()
            if (stat.st_ino, stat.st_size, stat.st_mtime_ns) != expected:
                raise ArtifactError(f"{self._folder / name} changed while it was read; try again.")
        return dict(self._pins)

    def close(self) -> None:
        self._ring.drain()
        self._loaded.clear()


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of torch before 1.6 cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        problem = f"{path} holds more than tensors, or is damaged ({one_line(error)[:120]})"
        raise ArtifactError(f"{problem}; take the safetensors of this model.") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded:
        raise ArtifactError(f"{path} holds no tensors by name; take the safetensors of this model.")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) not in (Tensor, torch.nn.Parameter):
            problem = f"{path} holds {str(name)[:60]!r}, a {type(value).__name__}, not only tensors"
            raise ArtifactError(f"{problem}; take the safetensors of this model.")
    return {name: value.detach() for name, value in loaded.items()}


def pickled_files(folder: Path) -> tuple[str, ...]:
    """The pickled weights of a folder: what their index names, or every file of their suffixes.

    Raises:
        ArtifactError: the index is damaged, or names a file outside the folder or missing.
    """
    if (folder / PICKLE_INDEX).is_file():
        weight_map = read_json(folder / PICKLE_INDEX).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        for name in names:
            if Path(str(name)).name != name or not (folder / name).is_file():
                problem = f"{folder / PICKLE_INDEX} names {name!r}, which is not in this folder"
                raise ArtifactError(f"{problem}; copy the folder again.")
        return tuple(sorted(names))
    # training_args.bin and optimizer states are of trainers, not of the model.
    return tuple(
        sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix in PICKLE_SUFFIXES and path.name.startswith(("pytorch_model", "model"))
        )
    )


def check_pins(folder: Path, files: Sequence[str], pins: Mapping[str, str]) -> None:
    """Refuse pickled weights that are not pinned one by one.

    Raises:
        ConfigError: a file without a pin, a pin without a file, a pin that is not a sha256.
    """
    for name, pin in pins.items():
        if name not in files:
            raise ConfigError(f"--sha256 {name}: no such file of pickled weights in {folder}.")
        if len(pin) != 64 or not set(pin.lower()) <= set("0123456789abcdef"):
            raise ConfigError(f"--sha256 {name}={pin}: a sha256 has 64 hexadecimal digits.")
    missing = [name for name in files if name not in pins]
    if missing:
        remedy = f"give --sha256 {missing[0]}=DIGEST, with the digest that its publisher states"
        raise ConfigError(f"{folder / missing[0]} is pickled and not pinned; {remedy}.")


class WrittenTensors(NamedTuple):
    """Bytes and sha256 of each file that was written, sha256 of each file that was read, counts."""

    files: dict[str, dict[str, object]]
    source_hashes: dict[str, str]
    counts: dict[str, int]


def write_tensors(
    plans: Sequence[TensorPlan],
    source: TensorSource,
    folder: Path,
    *,
    dtype: TargetDtype = "same",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> WrittenTensors:
    """Write tensors as model.safetensors, or in shards with an index, in the order of `plans`.

    `dtype` is that of floating-point tensors; integers stay as they are. `counts` has the tensors,
    their values, and how many of them `dtype` rounded.

    Raises:
        ArtifactError: a value that is not finite, or too large for `dtype`; the tensor is named.
        StorageError: the disk refused.
    """
    targets = {plan.name: _target(plan, source, dtype) for plan in plans}
    shards = _shards(targets, max_shard_bytes)
    files: dict[str, dict[str, object]] = {}
    n_rounded = 0
    outputs = BufferRing(BLOCK_SIZE * 8)
    by_name = {plan.name: plan for plan in plans}
    with single_thread(), BackgroundThreads() as threads:
        for file, names in shards.items():
            with ExitStack() as opened:
                tensors = {name: targets[name] for name in names}
                writer = SafetensorsWriter(folder / file, tensors, threads, compute_hashes=True)
                opened.callback(writer.close)
                for name in names:
                    plan, target = by_name[name], targets[name].dtype
                    n_rounded += _write_tensor(plan, target, source, writer, outputs)
                files[file] = {"bytes": writer.size, "sha256": writer.finish()}
        outputs.drain()
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        total_size = sum(target.size for target in targets.values())
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        write_json(folder / INDEX_FILE, index)
    n_values = sum(prod(plan.shape) for plan in plans)
    counts = {"tensors": len(plans), "values": n_values, "rounded": n_rounded}
    return WrittenTensors(files, source.hashes(), counts)


def _target(plan: TensorPlan, source: TensorSource, dtype: TargetDtype) -> TensorLocation:
    stored = source.tensors[plan.source]
    if stored.dtype not in ELEMENT_BYTES or stored.dtype.startswith("F8"):
        problem = f"tensor {plan.source!r} is stored as {stored.dtype}"
        raise ArtifactError(f"{problem}, a quantized type; take the 16-bit folder of this model.")
    name = stored.dtype
    if name in TORCH_DTYPES and dtype != "same":
        name = _TARGET_NAMES[dtype]
    return TensorLocation("", 0, prod(plan.shape) * ELEMENT_BYTES[name], name, plan.shape)


def _shards(targets: Mapping[str, TensorLocation], max_bytes: int) -> dict[str, list[str]]:
    """The names of each file, filled in order up to `max_bytes`; one tensor is never split."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, target in targets.items():
        if groups[-1] and size + target.size > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += target.size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    total = len(groups)
    return {
        f"model-{number:05d}-of-{total:05d}.safetensors": names
        for number, names in enumerate(groups, 1)
    }


def read_blocks(
    plan: TensorPlan, source: TensorSource
) -> Iterator[tuple[Buffer, memoryview, Tensor | None]]:
    """The stored bytes of a planned tensor in blocks, with their values where they are floats.

    Raises:
        ArtifactError: a value that is not finite.
    """
    stored = source.tensors[plan.source].dtype
    assert sum(count for _, count in plan.ranges) == prod(plan.shape)
    for start, count in plan.ranges:
        for buffer, view in source.blocks(plan.source, start, count):
            if stored not in TORCH_DTYPES:
                yield buffer, view, None
                continue
            n = len(view) // ELEMENT_BYTES[stored]
            values = torch.frombuffer(buffer.bytes, dtype=TORCH_DTYPES[stored], count=n)
            if not torch.isfinite(values).all():
                problem = f"tensor {plan.source!r} holds values that are not finite"
                raise ArtifactError(f"{problem}; the checkpoint is broken, download it again.")
            yield buffer, view, values


def check_cast(plan: TensorPlan, values: Tensor, cast: Tensor) -> int:
    """How many values were rounded.

    Raises:
        ArtifactError: a value is too large for the type of `cast`.
    """
    if not torch.isfinite(cast).all():
        problem = f"tensor {plan.source!r} holds {float(values.abs().max()):g}"
        name = _DTYPE_NAMES[cast.dtype]
        raise ArtifactError(f"{problem}, too large for {name}; choose bfloat16.")
    return int((cast.to(values.dtype) != values).sum())


def _write_tensor(
    plan: TensorPlan,
    target: str,
    source: TensorSource,
    writer: SafetensorsWriter,
    outputs: BufferRing,
) -> int:
    """Append a tensor; returns how many of its values were rounded."""
    stored, n_rounded = source.tensors[plan.source].dtype, 0
    for buffer, view, values in read_blocks(plan, source):
        if values is None or stored == target:
            writer.add(buffer, view)
            continue
        out, n = outputs.acquire(), values.numel()
        cast = torch.frombuffer(out.bytes, dtype=TORCH_DTYPES[target], count=n)
        cast.copy_(values)
        n_rounded += check_cast(plan, values, cast)
        writer.add(out, memoryview(out.bytes)[: n * ELEMENT_BYTES[target]])
    return n_rounded
