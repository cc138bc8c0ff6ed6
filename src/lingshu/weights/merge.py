"""Merging models: folders are checked, then streamed block by block into one or several results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.weights.base import (
    BLOCK_SIZE,
    COMPUTE_DTYPES,
    TORCH_DTYPES,
    MergeMethod,
    MergeWeights,
    TensorBlock,
    endpoint_model,
    single_thread,
)
from lingshu.weights.compatibility import DtypePolicy, check_all_compatible
from lingshu.weights.folder import FLOAT_DTYPES, ModelFolder, open_model_folder
from lingshu.weights.safetensors_io import (
    ELEMENT_BYTES,
    BackgroundThreads,
    Buffer,
    BufferRing,
    SafetensorsWriter,
    TensorLocation,
    TensorReader,
)

MODEL_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BufferView = tuple[Buffer, memoryview]  # a buffer and the part of it that holds bytes of a tensor


@dataclass(frozen=True)
class MergeSources:
    """Compatible models in their order, and the base for methods that need one."""

    models: tuple[ModelFolder, ...]
    base: ModelFolder | None
    notes: tuple[str, ...]

    @property
    def first(self) -> ModelFolder:
        return self.models[0]

    @property
    def all_folders(self) -> tuple[ModelFolder, ...]:
        return self.models if self.base is None else (*self.models, self.base)


class MergeTarget(NamedTuple):
    """An existing folder for a result, and the weights of that result."""

    folder: Path
    weights: MergeWeights


class StreamStats(NamedTuple):
    """The sha256 of the sources' files; bytes and sha256 of each target's files; counts."""

    source_hashes: dict[str, str]
    written_files: list[dict[str, dict[str, object]]]
    counts: dict[str, int]


def open_sources(
    models: Sequence[Path],
    method: MergeMethod,
    *,
    base: Path | None = None,
    dtype: DtypePolicy = "first",
) -> MergeSources:
    """Open the folders and check that they can be merged by `method`.

    Raises:
        ConfigError: too few or too many models, a base that is missing or not needed.
        ArtifactError, InputError: a folder cannot be used, or is not compatible with the first.
    """
    max_models = min(method.max_models or len(MODEL_LABELS), len(MODEL_LABELS))
    if not 2 <= len(models) <= max_models:
        limit = f"two to {max_models}" if method.max_models else "two or more"
        raise ConfigError(f"{len(models)} models are given; this method merges {limit}.")
    folders = [open_model_folder(path, MODEL_LABELS[index]) for index, path in enumerate(models)]
    adapters = [folder for folder in folders if folder.is_adapter]
    if adapters and len(adapters) < len(folders):
        problem = f"{adapters[0]} is a LoRA adapter and another is a model"
        raise InputError(f"{problem}; merge the adapter into its base first.")
    if method.needs_base and base is None and not adapters:
        remedy = "name the model that they were fine-tuned from with --base"
        raise ConfigError(f"this method merges what models added to a base; {remedy}.")
    if base is not None and (not method.needs_base or adapters):
        problem = f"a base ({base}) is given, which this merge does not use"
        raise ConfigError(f"{problem}; leave --base out.")
    if adapters:
        return MergeSources(tuple(folders), None, ())
    if base is not None:
        folders.append(open_model_folder(base, "base"))
    aligned, notes = check_all_compatible(folders, dtype=dtype)
    base_folder = aligned.pop() if base is not None else None
    return MergeSources(tuple(aligned), base_folder, tuple(notes))


def stream_merge(
    sources: MergeSources,
    targets: Sequence[MergeTarget],
    method: MergeMethod,
    *,
    seed: int = 0,
    compute_hashes: bool = True,
) -> StreamStats:
    """Write the merged weights of every target, in the files of the first model, in one pass.

    A method with a `prepare` reads a tensor again for each of its passes.

    Raises:
        ConfigError: weights that the method cannot use.
        ArtifactError: a non-finite value in a source, or by overflow in a result; the tensor is
            named.
        InputError: integer tensors that differ.
        StorageError: the disk refused.
    """
    first = sources.first
    for target in targets:
        target.weights.check(method, len(sources.models), list(first.tensors))
    with ExitStack() as stack, single_thread():
        threads = stack.enter_context(BackgroundThreads())
        readers = []
        for folder in sources.all_folders:
            reader = TensorReader(folder.path, folder.files, threads, compute_hashes=compute_hashes)
            stack.callback(reader.close)
            readers.append(reader)
        merger = _BlockMerger(sources, readers, method, seed)
        written_files: list[dict[str, dict[str, object]]] = [{} for _ in targets]
        for file in first.files:
            tensors = {name: at for name, at in first.tensors.items() if at.file == file}
            with ExitStack() as files:
                writers = []
                for path in (target.folder / file for target in targets):
                    writer = SafetensorsWriter(
                        path, tensors, threads, compute_hashes=compute_hashes
                    )
                    files.callback(writer.close)
                    writers.append(writer)
                for name, location in tensors.items():
                    merger.merge_tensor(name, location, targets, writers)
                for writer, file_info in zip(writers, written_files, strict=True):
                    file_info[file] = {"bytes": writer.size, "sha256": writer.finish()}
        merger.drain()
        hashes: dict[str, str] = {}
        for folder, reader in zip(sources.all_folders, readers, strict=True):
            hashes |= folder.check_hashes(reader.hashes())
    n_values = sum(prod(location.shape) for location in first.tensors.values())
    counts = {"tensors": len(first.tensors), "values": n_values, "n_copied": merger.n_copied}
    return StreamStats(hashes, written_files, counts)


class _BlockMerger:
    """The buffers of a merge, and the merge of one tensor after another."""

    def __init__(
        self, sources: MergeSources, readers: Sequence[TensorReader], method: MergeMethod, seed: int
    ) -> None:
        self.sources, self.readers, self.method, self.seed = sources, readers, method, seed
        self.locations = [folder.tensors for folder in sources.all_folders]
        dtypes = {at.dtype for tensors in self.locations for at in tensors.values()}
        block_bytes = BLOCK_SIZE * max((ELEMENT_BYTES[dtype] for dtype in dtypes), default=1)
        self.inputs = [BufferRing(block_bytes) for _ in readers]
        self.outputs = BufferRing(block_bytes)
        first_dtypes = {at.dtype for at in self.locations[0].values()}
        self.compute_buffers = {
            dtype: [torch.empty(BLOCK_SIZE, dtype=dtype) for _ in readers]
            for dtype in {COMPUTE_DTYPES[dtype] for dtype in first_dtypes & FLOAT_DTYPES}
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
        self.n_copied += sum(model is not None for model in endpoints)
        prepared = None
        if self.method.prepare is not None and None in endpoints:
            prepared = self.method.prepare(lambda: self._upcast_blocks(name, location))
        merge_pair = self._pair_function(name)
        for start, stored_views in self._read_blocks(name, location):
            block = None
            for writer, model_weights, model in zip(writers, weights, endpoints, strict=True):
                if merge_pair is not None and model is None:
                    merged = self._merge_pair(location, stored_views, model_weights, merge_pair)
                    if merged is not None:
                        writer.add(*merged)
                        continue
                # Upcasting also checks the values; a copy needs nothing else.
                block = block or self._upcast_block(name, location, start, stored_views, prepared)
                if model is not None and self.locations[model][name].dtype == location.dtype:
                    writer.add(*stored_views[model])
                    continue
                block_of_target = replace(block, weights=model_weights)
                merged_values = (
                    self.method.merge(block_of_target) if model is None else block.models[model]
                )
                writer.add(*self._store_block(location, block_of_target, merged_values))

    def _pair_function(
        self, name: str
    ) -> Callable[[Tensor, Tensor, Sequence[float], Tensor], None] | None:
        """The method's function on two stored tensors, if there are two of the same 16 bits."""
        dtypes = {tensors[name].dtype for tensors in self.locations}
        is_pair = len(self.locations) == 2 and dtypes in ({"BF16"}, {"F16"})
        return self.method.merge_pair if is_pair else None

    def _merge_pair(
        self,
        location: TensorLocation,
        stored_views: Sequence[BufferView],
        weights: Sequence[float],
        merge_pair: Callable[[Tensor, Tensor, Sequence[float], Tensor], None],
    ) -> BufferView | None:
        """The merged block; None if a value is not finite, so that the slow path decides."""
        size, dtype = len(stored_views[0][1]), TORCH_DTYPES[location.dtype]
        buffer = self.outputs.acquire()
        out, first, second = (
            torch.frombuffer(used.bytes, dtype=dtype, count=size // 2)
            for used in (buffer, stored_views[0][0], stored_views[1][0])
        )
        merge_pair(first, second, weights, out)
        return (buffer, memoryview(buffer.bytes)[:size]) if _finite(out) else None

    def _store_block(
        self, location: TensorLocation, block: TensorBlock, merged: Tensor
    ) -> BufferView:
        """Merged values in the type of the first model."""
        buffer, count = self.outputs.acquire(), len(merged)
        stored = torch.frombuffer(buffer.bytes, dtype=TORCH_DTYPES[location.dtype], count=count)
        stored.copy_(merged)
        if not _finite(stored):
            problem = f"the merge with weights {block.weights} is too large for {location.dtype}"
            raise ArtifactError(f"{block.name}: {problem}; choose smaller weights.")
        return buffer, memoryview(buffer.bytes)[: count * ELEMENT_BYTES[location.dtype]]

    def _read_blocks(
        self, name: str, location: TensorLocation
    ) -> Iterator[tuple[int, list[BufferView]]]:
        """A tensor block by block: the index of the first element, and the bytes of each source."""
        total = prod(location.shape)
        for start in range(0, total, BLOCK_SIZE):
            count, stored_views = min(BLOCK_SIZE, total - start), []
            for source in range(len(self.readers)):
                size = ELEMENT_BYTES[self.locations[source][name].dtype]
                stored_views.append(self._read(source, name, start * size, count * size))
            yield start, stored_views

    def _read(self, source: int, name: str, start: int, size: int) -> BufferView:
        buffer = self.inputs[source].acquire()
        location = self.locations[source][name]
        return buffer, self.readers[source].read(location, start, buffer, size)

    def _upcast_blocks(self, name: str, location: TensorLocation) -> Iterator[TensorBlock]:
        for start, stored_views in self._read_blocks(name, location):
            yield self._upcast_block(name, location, start, stored_views)

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
                problem = f"holds {float(upcast[position])} at element {start + position}"
                folder = self.sources.all_folders[source]
                raise ArtifactError(f"{folder}: tensor {name!r} {problem}; the model is broken.")
            tensors.append(upcast)
        n_models = len(self.sources.models)
        base = tensors[n_models] if len(tensors) > n_models else None
        return TensorBlock(name, start, tuple(tensors[:n_models]), base, (), self.seed, prepared)

    def _copy_equal(
        self, name: str, location: TensorLocation, writers: Sequence[SafetensorsWriter]
    ) -> None:
        """Copy an integer tensor; it must be the same in every source."""
        for start in range(0, location.size, BLOCK_SIZE):
            size = min(BLOCK_SIZE, location.size - start)
            views = [self._read(source, name, start, size) for source in range(len(self.readers))]
            for folder, (_, view) in zip(self.sources.all_folders, views, strict=True):
                if view != views[0][1]:
                    problem = f"{folder}: {name} ({location.dtype}) differs from that of A"
                    raise InputError(f"{problem}; only floating-point tensors can be merged.")
            for writer in writers:
                writer.add(*views[0])


def _finite(values: Tensor) -> bool:
    # A sum shows at a fraction of the cost whether a closer look is needed.
    return isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
