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

from lingshu.core.errors import ArtefactError, ConfigError, InputError
from lingshu.weights.agree import DtypePolicy, all_agreed
from lingshu.weights.folder import FLOATS, Folder, Place, open_folder
from lingshu.weights.headers import ELEMENT_BYTES
from lingshu.weights.method import BLOCK, Block, Method, Weighting, end
from lingshu.weights.stream import Buffer, Lanes, Reader, Ring, Writer

STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
# Arithmetic goes one step wider than storage (weights/method.py).
WIDE = {"BF16": torch.float32, "F16": torch.float32, "F32": torch.float64, "F64": torch.float64}
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Sources:
    """Models that were found to agree, in their order, and the base of those methods that need one."""

    models: tuple[Folder, ...]
    base: Folder | None
    notes: tuple[str, ...]

    @property
    def first(self) -> Folder:
        return self.models[0]

    @property
    def all(self) -> tuple[Folder, ...]:
        return self.models if self.base is None else (*self.models, self.base)


Raw = tuple[Buffer, memoryview]  # a buffer and the part of it that holds bytes of a tensor


class Target(NamedTuple):
    """A folder that exists and is to hold a result, and the weights of that result."""

    folder: Path
    weights: Weighting


class Streamed(NamedTuple):
    """What was read and written: sha256 of the sources' files, bytes and sha256 of each target's
    files, and counts.
    """

    sources: dict[str, str]
    written: list[dict[str, dict[str, object]]]
    counts: dict[str, int]


def open_sources(
    models: Sequence[Path], method: Method, *, base: Path | None = None, dtype: DtypePolicy = "same"
) -> Sources:
    """Open the folders and check that they can be merged by `method`.

    Raises:
        ConfigError: too few or too many models, a base that is missing or not needed.
        ArtefactError, InputError: a folder cannot be used, or differs from the first in what must
            be equal.
    """
    if not 2 <= len(models) <= min(method.most or len(LABELS), len(LABELS)):
        most = f", at most {method.most}" if method.most else ""
        raise ConfigError(f"{len(models)} models are given; this method merges two or more{most}.")
    folders = [open_folder(path, LABELS[number]) for number, path in enumerate(models)]
    kinds = {folder.adapter for folder in folders}
    if len(kinds) > 1:
        adapter = next(folder for folder in folders if folder.adapter)
        raise InputError(
            f"{adapter} is a LoRA adapter and another is a whole model; merge the adapter into its"
            " base first."
        )
    if method.base and base is None and not folders[0].adapter:
        raise ConfigError(
            "this method merges what models added to a base; name the model that they were tuned"
            " from with --base."
        )
    if base is not None and (not method.base or folders[0].adapter):
        raise ConfigError(
            f"a base ({base}) is given, which this merge has no use for; leave --base out."
        )
    if folders[0].adapter:
        return Sources(tuple(folders), None, ())
    whole = [*folders, open_folder(base, "base")] if base is not None else folders
    checked, notes = all_agreed(whole, dtype=dtype)
    return Sources(
        tuple(checked[: len(folders)]), checked[-1] if base is not None else None, tuple(notes)
    )


def stream(
    sources: Sources,
    targets: Sequence[Target],
    method: Method,
    *,
    seed: int = 0,
    hashing: bool = True,
) -> Streamed:
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
    with ExitStack() as stack, _one_thread():
        lanes = stack.enter_context(Lanes())
        readers = [Reader(folder, lanes, hashing=hashing) for folder in sources.all]
        for reader in readers:
            stack.callback(reader.close)
        work = _Work(sources, readers, method, seed)
        written: list[dict[str, dict[str, object]]] = [{} for _ in targets]
        for file in sources.first.files:
            inside = {
                name: place for name, place in sources.first.tensors.items() if place.file == file
            }
            header = {
                name: (place.dtype, place.shape, place.size) for name, place in inside.items()
            }
            with ExitStack() as files:
                writers = [
                    Writer(target.folder / file, header, lanes, hashing=hashing)
                    for target in targets
                ]
                for writer in writers:
                    files.callback(writer.close)
                for name, place in inside.items():
                    work.tensor(name, place, targets, writers)
                for writer, facts in zip(writers, written, strict=True):
                    facts[file] = {"bytes": writer.size, "sha256": writer.finish()}
        work.drain()
        hashes = {name: value for reader in readers for name, value in reader.hashes().items()}
        values = sum(prod(place.shape) for place in sources.first.tensors.values())
        return Streamed(
            hashes, written, {"tensors": len(names), "values": values, "copied": work.copied}
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Arithmetic on one thread: the disk is what takes time, and sums then do not depend on the
    number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Work:
    """The buffers of a merge, and what is done with one tensor after the other."""

    def __init__(
        self, sources: Sources, readers: Sequence[Reader], method: Method, seed: int
    ) -> None:
        self.sources, self.readers, self.method, self.seed = sources, readers, method, seed
        self.places = [folder.tensors for folder in sources.all]
        largest = BLOCK * max(
            (ELEMENT_BYTES[place.dtype] for tensors in self.places for place in tensors.values()),
            default=1,
        )
        self.inputs = [Ring(largest) for _ in readers]
        self.outputs = Ring(largest)
        widths = {WIDE[place.dtype] for place in self.places[0].values() if place.dtype in FLOATS}
        self.wide = {dtype: [torch.empty(BLOCK, dtype=dtype) for _ in readers] for dtype in widths}
        self.copied = 0

    def drain(self) -> None:
        for ring in (*self.inputs, self.outputs):
            ring.drain()

    def tensor(
        self, name: str, place: Place, targets: Sequence[Target], writers: Sequence[Writer]
    ) -> None:
        if place.dtype not in FLOATS:
            self._equal(name, place, writers)
            return
        weights = [target.weights.of(name) for target in targets]
        ends = [end(each) if self.method.ends else None for each in weights]
        self.copied += sum(each is not None for each in ends)
        facts = None
        if self.method.survey is not None and None in ends:
            facts = self.method.survey(
                lambda: (self._widened(name, place, at, raw) for at, raw in self._raw(name, place))
            )
        pair = self._pair(name)
        for start, raw in self._raw(name, place):
            block = None
            for writer, each, model in zip(writers, weights, ends, strict=True):
                if pair is not None and model is None:
                    merged = self._paired(place, raw, each, pair)
                    if merged is not None:
                        writer.add(*merged)
                        continue
                # Widened, the values are also looked at; of a copy nothing else is needed.
                block = block or self._widened(name, place, start, raw, facts)
                if model is not None and self.places[model][name].dtype == place.dtype:
                    writer.add(*raw[model])
                else:
                    at = replace(block, weights=each)
                    writer.add(
                        *self._stored(
                            name,
                            place,
                            at,
                            block.models[model] if model is not None else self.method.merge(at),
                        )
                    )

    def _pair(self, name: str) -> Callable[[Tensor, Tensor, Sequence[float], Tensor], None] | None:
        """The method's function on two tensors as they are stored, where these are two of the same
        16 bits.
        """
        found = {tensors[name].dtype for tensors in self.places}
        return self.method.pair if len(self.places) == 2 and found in ({"BF16"}, {"F16"}) else None

    def _paired(
        self,
        place: Place,
        raw: Sequence[Raw],
        weights: Sequence[float],
        pair: Callable[[Tensor, Tensor, Sequence[float], Tensor], None],
    ) -> Raw | None:
        """The merged block; None where a value of it is no number, so that the slower way may say
        why or do better.
        """
        size, dtype = len(raw[0][1]), STORED[place.dtype]
        buffer = self.outputs.take()
        out = torch.frombuffer(buffer.bytes, dtype=dtype, count=size // 2)
        first, second = (
            torch.frombuffer(read.bytes, dtype=dtype, count=size // 2) for read, _ in raw
        )
        pair(first, second, weights, out)
        return (buffer, memoryview(buffer.bytes)[:size]) if _finite(out) else None

    def _stored(self, name: str, place: Place, block: Block, result: Tensor) -> Raw:
        """A result in the type of the first model."""
        buffer, size = self.outputs.take(), len(result) * ELEMENT_BYTES[place.dtype]
        stored = torch.frombuffer(buffer.bytes, dtype=STORED[place.dtype], count=len(result))
        stored.copy_(result)
        if not _finite(stored):
            raise ArtefactError(
                f"{name}: the merge with weights {block.weights} is too large for {place.dtype};"
                " choose smaller weights."
            )
        return buffer, memoryview(buffer.bytes)[:size]

    def _raw(self, name: str, place: Place) -> Iterator[tuple[int, list[Raw]]]:
        """A tensor block by block: the first element's number, and the bytes of each source."""
        total = prod(place.shape)
        for start in range(0, total, BLOCK):
            count, raw = min(BLOCK, total - start), []
            for source, reader in enumerate(self.readers):
                stored = self.places[source][name]
                size = ELEMENT_BYTES[stored.dtype]
                buffer = self.inputs[source].take()
                raw.append((buffer, reader.read(stored, start * size, buffer, count * size)))
            yield start, raw

    def _widened(
        self, name: str, place: Place, start: int, raw: Sequence[Raw], facts: object = None
    ) -> Block:
        """The bytes of a block as numbers, all of which are finite."""
        numbers = []
        for source, (buffer, view) in enumerate(raw):
            dtype = self.places[source][name].dtype
            count = len(view) // ELEMENT_BYTES[dtype]
            number = self.wide[WIDE[place.dtype]][source][:count]
            number.copy_(torch.frombuffer(buffer.bytes, dtype=STORED[dtype], count=count))
            if not _finite(number):
                at = int(torch.nonzero(~torch.isfinite(number))[0])
                raise ArtefactError(
                    f"{self.sources.all[source]}: tensor {name!r} holds {float(number[at])} at"
                    f" element {start + at}; a model with such a value is broken and cannot be"
                    " merged."
                )
            numbers.append(number)
        models = len(self.sources.models)
        base = numbers[models] if len(numbers) > models else None
        return Block(name, start, tuple(numbers[:models]), base, (), self.seed, facts)

    def _equal(self, name: str, place: Place, writers: Sequence[Writer]) -> None:
        """Copy a tensor that holds no floating-point numbers; it must be the same in every source."""
        for start in range(0, place.size, BLOCK):
            size = min(BLOCK, place.size - start)
            found = []
            for source, reader in enumerate(self.readers):
                buffer = self.inputs[source].take()
                found.append((buffer, reader.read(self.places[source][name], start, buffer, size)))
                if found[source][1] != found[0][1]:
                    folder = self.sources.all[source]
                    raise InputError(
                        f"{folder}: {name} ({place.dtype}) differs from that of A; only"
                        " floating-point tensors can be merged."
                    )
            for writer in writers:
                writer.add(*found[0])


def _finite(values: Tensor) -> bool:
    # A sum shows at a fraction of the cost whether a closer look is needed.
    return isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
