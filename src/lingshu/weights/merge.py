"""Merging models: the folders are checked, then streamed block by block into one result or several
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.weights.base import (
    BLOCK_SIZE,
    MergeMethod,
    MergeWeights,
    TensorBlock,
    endpoint_model,
)
from lingshu.weights.compatibility import DtypePolicy, check_all_compatible
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder, TensorLocation, open_model_folder
from lingshu.weights.safetensors_header import ELEMENT_BYTES
from lingshu.weights.safetensors_io import (
    BackgroundThreads,
    Buffer,
    BufferRing,
    SafetensorsWriter,
    TensorReader,
)

TORCH_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# Arithmetic goes one step wider than storage (weights/base.py).
COMPUTE_DTYPES = {
    "BF16": torch.float32,
    "F16": torch.float32,
    "F32": torch.float64,
    "F64": torch.float64,
}
MODEL_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class MergeSources:
    """Models that were found to agree, in their order, and the base of those methods that need one."""

    models: tuple[ModelFolder, ...]
    base: ModelFolder | None
    notes: tuple[str, ...]

    @property
    def first(self) -> ModelFolder:
        return self.models[0]

    @property
    def all_folders(self) -> tuple[ModelFolder, ...]:
        return self.models if self.base is None else (*self.models, self.base)


BufferView = tuple[Buffer, memoryview]  # a buffer and the part of it that holds bytes of a tensor


class MergeTarget(NamedTuple):
    """A folder that exists and is to hold a result, and the weights of that result."""

    folder: Path
    weights: MergeWeights


class StreamStats(NamedTuple):
    """What was read and written: sha256 of the sources' files, bytes and sha256 of each target's
    files, and counts.
    """

    source_hashes: dict[str, str]
    written_files: list[dict[str, dict[str, object]]]
    counts: dict[str, int]


def open_sources(
    models: Sequence[Path],
    method: MergeMethod,
    *,
    base: Path | None = None,
    dtype: DtypePolicy = "same",
) -> MergeSources:
    """Open the folders and check that they can be merged by `method`.

    Raises:
        ConfigError: too few or too many models, a base that is missing or not needed.
        ArtefactError, InputError: a folder cannot be used, or differs from the first in what must
            be equal.
    """
    if not 2 <= len(models) <= min(method.max_models or len(MODEL_LABELS), len(MODEL_LABELS)):
        limit = f", at most {method.max_models}" if method.max_models else ""
        raise ConfigError(f"{len(models)} models are given; this method merges two or more{limit}.")
    folders = [open_model_folder(path, MODEL_LABELS[index]) for index, path in enumerate(models)]
    adapter_flags = {folder.is_adapter for folder in folders}
    if len(adapter_flags) > 1:
        adapter = next(folder for folder in folders if folder.is_adapter)
        raise InputError(
            f"{adapter} is a LoRA adapter and another is a whole model; merge the adapter into its"
            " base first."
        )
    if method.needs_base and base is None and not folders[0].is_adapter:
        raise ConfigError(
            "this method merges what models added to a base; name the model that they were tuned"
            " from with --base."
        )
    if base is not None and (not method.needs_base or folders[0].is_adapter):
        raise ConfigError(
            f"a base ({base}) is given, which this merge has no use for; leave --base out."
        )
    if folders[0].is_adapter:
        return MergeSources(tuple(folders), None, ())
    all_folders = [*folders, open_model_folder(base, "base")] if base is not None else folders
    aligned, notes = check_all_compatible(all_folders, dtype=dtype)
    return MergeSources(
        tuple(aligned[: len(folders)]), aligned[-1] if base is not None else None, tuple(notes)
    )


def stream_merge(
    sources: MergeSources,
    targets: Sequence[MergeTarget],
    method: MergeMethod,
    *,
    seed: int = 0,
    compute_hashes: bool = True,
) -> StreamStats:
    """Write the merged weights of every target, in the files of the first model, from one reading
    of the models.

    A method with a `survey` reads a tensor once more for each pass that it asks for. `hashing`
    False leaves out the sha256 of sources and results.

    Raises:
        ConfigError: weights that the method cannot work with.
        ArtefactError: a value that is no number, in a source or by overflow in a result; the tensor
            is named.
        InputError: tensors of whole numbers that differ.
        StorageError: the disk refused.
    """
    names = list(sources.first.tensors)
    for target in targets:
        target.weights.check(method, len(sources.models), names)
    with ExitStack() as stack, _single_thread():
        lanes = stack.enter_context(BackgroundThreads())
        readers = [
            TensorReader(folder, lanes, compute_hashes=compute_hashes)
            for folder in sources.all_folders
        ]
        for reader in readers:
            stack.callback(reader.close)
        merger = _BlockMerger(sources, readers, method, seed)
        written_files: list[dict[str, dict[str, object]]] = [{} for _ in targets]
        for file in sources.first.files:
            tensors = {
                name: location
                for name, location in sources.first.tensors.items()
                if location.file == file
            }
            header = {
                name: (location.dtype, location.shape, location.size)
                for name, location in tensors.items()
            }
            with ExitStack() as files:
                writers = [
                    SafetensorsWriter(
                        target.folder / file, header, lanes, compute_hashes=compute_hashes
                    )
                    for target in targets
                ]
                for writer in writers:
                    files.callback(writer.close)
                for name, location in tensors.items():
                    merger.merge_tensor(name, location, targets, writers)
                for writer, file_info in zip(writers, written_files, strict=True):
                    file_info[file] = {"bytes": writer.size, "sha256": writer.finish()}
        merger.drain()
        hashes = {name: value for reader in readers for name, value in reader.hashes().items()}
        values = sum(prod(location.shape) for location in sources.first.tensors.values())
        return StreamStats(
            hashes,
            written_files,
            {"tensors": len(names), "values": values, "n_copied": merger.n_copied},
        )


@contextmanager
def _single_thread() -> Iterator[None]:
    """Arithmetic on one thread: the disk is what takes time, and sums then do not depend on the
    number of cores.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class _BlockMerger:
    """The buffers of a merge, and what is done with one tensor after the other."""

    def __init__(
        self, sources: MergeSources, readers: Sequence[TensorReader], method: MergeMethod, seed: int
    ) -> None:
        self.sources, self.readers, self.method, self.seed = sources, readers, method, seed
        self.locations = [folder.tensors for folder in sources.all_folders]
        block_bytes = BLOCK_SIZE * max(
            (
                ELEMENT_BYTES[location.dtype]
                for tensors in self.locations
                for location in tensors.values()
            ),
            default=1,
        )
        self.inputs = [BufferRing(block_bytes) for _ in readers]
        self.outputs = BufferRing(block_bytes)
        widths = {
            COMPUTE_DTYPES[location.dtype]
            for location in self.locations[0].values()
            if location.dtype in FLOAT_DTYPES
        }
        self.compute_buffers = {
            dtype: [torch.empty(BLOCK_SIZE, dtype=dtype) for _ in readers] for dtype in widths
        }
        self.n_copied = 0

    def drain(self) -> None:
        for ring in (*self.inputs, self.outputs):
            ring.drain()

    def merge_tensor(
        self,
        name: str,
        location: TensorLocation,
        targets: Sequence[MergeTarget],
        writers: Sequence[SafetensorsWriter],
    ) -> None:
        if location.dtype not in FLOAT_DTYPES:
            self._copy_equal(name, location, writers)
            return
        weights = [target.weights.for_tensor(name) for target in targets]
        endpoints = [
            endpoint_model(model_weights) if self.method.copy_endpoints else None
            for model_weights in weights
        ]
        self.n_copied += sum(model_weights is not None for model_weights in endpoints)
        prepared = None
        if self.method.prepare is not None and None in endpoints:
            prepared = self.method.prepare(
                lambda: (
                    self._upcast_block(name, location, at, stored_views)
                    for at, stored_views in self._read_blocks(name, location)
                )
            )
        merge_pair = self._pair_function(name)
        for start, stored_views in self._read_blocks(name, location):
            block = None
            for writer, model_weights, model in zip(writers, weights, endpoints, strict=True):
                if merge_pair is not None and model is None:
                    merged = self._merge_pair(location, stored_views, model_weights, merge_pair)
                    if merged is not None:
                        writer.add(*merged)
                        continue
                # Widened, the values are also looked at; of a copy nothing else is needed.
                block = block or self._upcast_block(name, location, start, stored_views, prepared)
                if model is not None and self.locations[model][name].dtype == location.dtype:
                    writer.add(*stored_views[model])
                else:
                    at = replace(block, weights=model_weights)
                    writer.add(
                        *self._store_block(
                            name,
                            location,
                            at,
                            block.models[model] if model is not None else self.method.merge(at),
                        )
                    )

    def _pair_function(
        self, name: str
    ) -> Callable[[Tensor, Tensor, Sequence[float], Tensor], None] | None:
        """The method's function on two tensors as they are stored, where these are two of the same
        16 bits.
        """
        dtypes = {tensors[name].dtype for tensors in self.locations}
        return (
            self.method.merge_pair
            if len(self.locations) == 2 and dtypes in ({"BF16"}, {"F16"})
            else None
        )

    def _merge_pair(
        self,
        location: TensorLocation,
        stored_views: Sequence[BufferView],
        weights: Sequence[float],
        merge_pair: Callable[[Tensor, Tensor, Sequence[float], Tensor], None],
    ) -> BufferView | None:
        """The merged block; None where a value of it is no number, so that the slower way may say
        why or do better.
        """
        size, dtype = len(stored_views[0][1]), TORCH_DTYPES[location.dtype]
        buffer = self.outputs.acquire()
        out = torch.frombuffer(buffer.bytes, dtype=dtype, count=size // 2)
        first, second = (
            torch.frombuffer(buffer_in.bytes, dtype=dtype, count=size // 2)
            for buffer_in, _ in stored_views
        )
        merge_pair(first, second, weights, out)
        return (buffer, memoryview(buffer.bytes)[:size]) if _finite(out) else None

    def _store_block(
        self, name: str, location: TensorLocation, block: TensorBlock, result: Tensor
    ) -> BufferView:
        """A result in the type of the first model."""
        buffer, size = self.outputs.acquire(), len(result) * ELEMENT_BYTES[location.dtype]
        stored = torch.frombuffer(
            buffer.bytes, dtype=TORCH_DTYPES[location.dtype], count=len(result)
        )
        stored.copy_(result)
        if not _finite(stored):
            raise ArtifactError(
                f"{name}: the merge with weights {block.weights} is too large for {location.dtype};"
                " choose smaller weights."
            )
        return buffer, memoryview(buffer.bytes)[:size]

    def _read_blocks(
        self, name: str, location: TensorLocation
    ) -> Iterator[tuple[int, list[BufferView]]]:
        """A tensor block by block: the first element's number, and the bytes of each source."""
        total = prod(location.shape)
        for start in range(0, total, BLOCK_SIZE):
            count, stored_views = min(BLOCK_SIZE, total - start), []
            for source, reader in enumerate(self.readers):
                stored = self.locations[source][name]
                size = ELEMENT_BYTES[stored.dtype]
                buffer = self.inputs[source].acquire()
                stored_views.append(
                    (buffer, reader.read(stored, start * size, buffer, count * size))
                )
            yield start, stored_views

    def _upcast_block(
        self,
        name: str,
        location: TensorLocation,
        start: int,
        stored_views: Sequence[BufferView],
        prepared: object = None,
    ) -> TensorBlock:
        """The bytes of a block as numbers, all of which are finite."""
        tensors = []
        for source, (buffer, view) in enumerate(stored_views):
            dtype = self.locations[source][name].dtype
            count = len(view) // ELEMENT_BYTES[dtype]
            upcast = self.compute_buffers[COMPUTE_DTYPES[location.dtype]][source][:count]
            upcast.copy_(torch.frombuffer(buffer.bytes, dtype=TORCH_DTYPES[dtype], count=count))
            if not _finite(upcast):
                position = int(torch.nonzero(~torch.isfinite(upcast))[0])
                raise ArtifactError(
                    f"{self.sources.all_folders[source]}: tensor {name!r} holds {float(upcast[position])} at"
                    f" element {start + position}; a model with such a value is broken and cannot be"
                    " merged."
                )
            tensors.append(upcast)
        models = len(self.sources.models)
        base = tensors[models] if len(tensors) > models else None
        return TensorBlock(name, start, tuple(tensors[:models]), base, (), self.seed, prepared)

    def _copy_equal(
        self, name: str, location: TensorLocation, writers: Sequence[SafetensorsWriter]
    ) -> None:
        """Copy a tensor that holds no floating-point numbers; it must be the same in every source."""
        for start in range(0, location.size, BLOCK_SIZE):
            size = min(BLOCK_SIZE, location.size - start)
            views = []
            for source, reader in enumerate(self.readers):
                buffer = self.inputs[source].acquire()
                views.append(
                    (buffer, reader.read(self.locations[source][name], start, buffer, size))
                )
                if views[source][1] != views[0][1]:
                    folder = self.sources.all_folders[source]
                    raise InputError(
                        f"{folder}: {name} ({location.dtype}) differs from that of A; only"
                        " floating-point tensors can be merged."
                    )
            for writer in writers:
                writer.add(*views[0])


def _finite(values: Tensor) -> bool:
    # A sum shows at a fraction of the cost whether a closer look is needed.
    return isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
