"""One unit of work: a shard through the steps of a pass, as a worker process does it.

The same code serves every backend.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.core.errors import BadImage, ConfigError, MissingExtra, StorageError, fault, one_line
from lingshu.core.memory import give_back
from lingshu.core.nouns import Drop, Image, Sample
from lingshu.core.steps import MapStep, SampleFunction, Signature, TableStep
from lingshu.curate.config import StepUse
from lingshu.curate.ledger import Ledger
from lingshu.curate.plan import Pass, build
from lingshu.curate.rows import Row, Spill, dump_sample, load_sample, read_rows, write_rows
from lingshu.imaging.pictures import Pictures
from lingshu.imaging.read import ShardReader, unnamed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lingshu.core.steps import Header

Encoded = bytes  # inside the class the name `bytes` is a method
CACHE_MB = 24
PLACE = struct.Struct("<ii")  # a row and a step
# rows that are parsed one after another: the processor's caches hold the parser then, not the
# pixels of a picture
PARSED = 64
# rows of each outcome of a step that a shard remembers for the page that explains the run
SHOWN = 2
# What no other sample of the run would be spared: the run must stop and say so.
FATAL = (ImportError, MissingExtra, ConfigError, StorageError)


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a shard, without those `out`; `notes` are added to the `extra` of a
    row's meta, by row.
    """

    path: str
    start: int
    stop: int
    out: frozenset[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a worker is asked: the rows, the steps, and where the result goes.

    `dead` names rows of the job that killed their workers, with the step they did it in; they
    become drops.
    """

    key: str
    output: str
    pieces: tuple[Piece, ...]
    sources: tuple[str, ...]
    steps: Pass | None = None  # None: the job writes a part of the dataset
    image_format: str = "keep"
    dead: Mapping[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def journal(self) -> Path:
        return Path(self.output + ".at")


class Lost(NamedTuple):
    """A dropped row, as the list of drops shows it."""

    step: str
    source: str
    id: str
    reason: str
    detail: str


class Watched:
    """The images of a row, and which of them were decoded."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self.decoded: set[Image] = set()

    def header(self, image: Image) -> Header:
        return self._pictures.header(image)

    def bytes(self, image: Image) -> Encoded:
        return self._pictures.bytes(image)

    def gray(self, image: Image) -> NDArray[np.uint8]:
        pixels = self._pictures.gray(image)
        self.decoded.add(image)
        return pixels

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        pixels = self._pictures.rgb(image)
        self.decoded.add(image)
        return pixels


class Journal:
    """Which row and step are at work, in a mapped file while the work goes on: what a killed worker
    leaves behind.

    No sync: the page cache outlives the process.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # its page is claimed here, where a full disk is an error
            os.write(handle, PLACE.pack(-1, -1))
            self._map = mmap.mmap(handle, PLACE.size)
        finally:
            os.close(handle)

    def at(self, row: int, step: int) -> None:
        self._map[:] = PLACE.pack(row, step)

    def close(self) -> None:
        self._map.close()


def read_journal(path: Path) -> tuple[int, int] | None:
    """The row and the step that a worker was at when it died; None before its first."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    row, step = PLACE.unpack(data) if len(data) == PLACE.size else (-1, -1)
    return None if row < 0 else (row, step)


class Performer:
    """Does jobs one after another in one process; keeps the opened steps and the images it read
    last.
    """

    def __init__(self) -> None:
        self.pictures = Pictures(
            shards=ShardReader(cache_mb=CACHE_MB, open_files=16), cache_mb=CACHE_MB
        )
        self._opened: dict[str, list[SampleFunction]] = {}

    def perform(self, job: Job) -> None:
        """Write the job's output, whole or not at all.

        Raises:
            StorageError: the disk refused.
            LingshuError: a step cannot be opened.
        """
        import cv2

        cv2.setNumThreads(1)  # there is a process for every core
        journal = Journal(job.journal)
        try:
            if job.steps is None:
                from lingshu.curate.parts import write_part

                write_part(job, self.pictures, journal)
            else:
                _ShardPass(
                    job, job.steps, self._functions(job), Watched(self.pictures), journal
                ).run()
        finally:
            journal.close()
            job.journal.unlink(missing_ok=True)
            # The next job has other images, and may do other things with them.
            self.pictures.close()
            give_back()

    def _functions(self, job: Job) -> list[SampleFunction]:
        assert job.steps is not None
        # One pass at a time: the steps of an earlier one are let go.
        name = repr(job.steps)
        if name not in self._opened:
            self._opened = {name: [_open(use) for use in job.steps.maps]}
        return self._opened[name]


def _open(use: StepUse) -> SampleFunction:
    step = build(use)
    assert isinstance(step, MapStep)
    return step.open()


def rows_of(job: Job) -> Iterator[tuple[int, Row, Sample]]:
    """The rows of a job that stay, with their numbers in it, and their samples with what a decision
    noted of them.
    """
    base = 0
    for piece in job.pieces:
        rows = read_rows(Path(piece.path))
        staying = [place for place in range(piece.start, piece.stop) if place not in piece.out]
        for start in range(0, len(staying), PARSED):
            block = staying[start : start + PARSED]
            yield from [
                (base + place - piece.start, *_noted(rows[place], piece.notes.get(place)))
                for place in block
            ]
        base += piece.stop - piece.start


def _noted(row: Row, notes: Mapping[str, str] | None) -> tuple[Row, Sample]:
    sample = load_sample(row.text)
    if not notes:
        return row, sample
    sample = replace(sample, meta=replace(sample.meta, extra={**sample.meta.extra, **notes}))
    return row._replace(text=dump_sample(sample)), sample


class _ShardPass:
    """A shard on its way through the map steps of a pass, to the signature of its table step."""

    def __init__(
        self,
        job: Job,
        steps: Pass,
        functions: list[SampleFunction],
        pixels: Watched,
        journal: Journal,
    ) -> None:
        self.job, self.steps, self.functions, self.pixels, self.journal = (
            job,
            steps,
            functions,
            pixels,
            journal,
        )
        table = build(steps.table) if steps.table else None
        self.sign = table.sign if isinstance(table, TableStep) else None
        self.ledger = Ledger()
        self.lost: list[Lost] = []
        self.shown: dict[tuple[str, str], list[tuple[str, str, Sample, tuple[Sample, ...]]]] = {}
        self.spill = Spill(Path(job.output + ".images.parquet"))

    def run(self) -> None:
        rows: list[Row] = []
        signatures: list[Signature | None] = []
        try:
            for number, row, sample in rows_of(self.job):
                for made, signature in self._row(number, row, sample):
                    rows.append(made)
                    signatures.append(signature)
            shown = [
                {
                    "step": step,
                    "outcome": outcome,
                    "before": self._dump(before),
                    "after": [self._dump(sample) for sample in after],
                }
                for entries in self.shown.values()
                for step, outcome, before, after in entries
            ]
            self.spill.commit()
            facts = {
                "rows": len(rows),
                "ledger": self.ledger.plain(),
                "lost": self.lost,
                "shown": shown,
            }
            write_rows(
                Path(self.job.output),
                rows,
                facts,
                signatures=None if self.sign is None else signatures,
            )
        except BaseException as error:
            self.spill.abandon(error)
            raise

    def _dump(self, sample: Sample) -> str:
        return dump_sample(self.spill.keep(sample))

    def _row(self, number: int, row: Row, first: Sample) -> list[tuple[Row, Signature | None]]:
        source = self.job.sources[row.origin]
        self.pixels.decoded.clear()
        if row.sound:
            self.pixels.decoded.update(first.images)
        live: Sequence[Sample] = (first,)
        dead = self.job.dead.get(number)
        for index, use in enumerate(self.steps.maps):
            if use.sources and source not in use.sources:
                continue
            self.journal.at(number, index)
            if dead is not None and index >= dead:
                live = self._die(use.name, source, live)
            live = [
                made
                for sample in live
                for made in self._step(use, self.functions[index], sample, source)
            ]
        found: list[tuple[Row, Signature | None]] = []
        table = self.steps.table
        signs = table is not None and (not table.sources or source in table.sources)
        if signs:
            self.journal.at(number, len(self.steps.maps))
            if dead is not None and table:
                live = self._die(table.name, source, live)
        for made in live:
            signature = None
            if signs and table and self.sign:
                signature = self._sign(table, made, source)
                if signature is None:
                    continue
            sound = bool(made.images) and all(image in self.pixels.decoded for image in made.images)
            # A sample that no step changed keeps its text as it was.
            text = row.text if made is first else self._dump(made)
            found.append((Row(made.id, row.origin, text, sound), signature))
        return found

    def _step(
        self, use: StepUse, function: SampleFunction, sample: Sample, source: str
    ) -> Sequence[Sample]:
        self.ledger.enter(use.name, source)
        try:
            result = function(sample, self.pixels)
            made = (result,) if isinstance(result, Sample | Drop) else tuple(result)
            if not made or not all(isinstance(item, Sample) for item in made if item is not result):
                raise TypeError(f"{use.op} returned no sample and no drop")
        except FATAL:
            raise
        except Exception as error:
            made = (_failed(sample, error),)
        if isinstance(made[0], Drop):
            self._lose(use.name, source, sample, made[0])
            return ()
        self.ledger.add(use.name, source, len(made) - 1)
        self.ledger.leave(use.name, source, len(made))
        unchanged = len(made) == 1 and (made[0] is sample or made[0] == sample)
        self._show(
            use.name,
            "kept" if unchanged else "changed" if len(made) == 1 else "split",
            sample,
            made,  # type: ignore[arg-type]
        )
        return (sample,) if unchanged else made  # type: ignore[return-value]

    def _sign(self, use: StepUse, sample: Sample, source: str) -> Signature | None:
        self.ledger.enter(use.name, source)
        assert self.sign is not None
        try:
            return self.sign(sample, self.pixels)
        except FATAL:
            raise
        except Exception as error:
            self._lose(use.name, source, sample, _failed(sample, error))
            return None

    def _die(self, step: str, source: str, live: Sequence[Sample]) -> list[Sample]:
        for sample in live:
            self.ledger.enter(step, source)
            self._lose(
                step,
                source,
                sample,
                Drop(
                    sample.id,
                    "worker_died",
                    "the process that worked on it was killed, again and again",
                ),
            )
        return []

    def _lose(self, step: str, source: str, sample: Sample, drop: Drop) -> None:
        self.ledger.drop(step, source, drop.reason)
        self.lost.append(Lost(step, source, sample.id, drop.reason, drop.detail))
        self._show(step, f"dropped: {drop.reason}", sample, ())

    def _show(self, step: str, outcome: str, before: Sample, after: tuple[Sample, ...]) -> None:
        kept = self.shown.setdefault((step, outcome), [])
        if len(kept) < SHOWN:
            kept.append((step, outcome, before, after[:SHOWN]))


def _failed(sample: Sample, error: Exception) -> Drop:
    """A step's exception as a drop.

    An error may quote what it choked on: of rows that are not open, its words stay out.
    """
    if isinstance(error, BadImage):
        return Drop(sample.id, "bad_image", unnamed(error, sample.images))
    detail = fault(error)
    if sample.meta.access != "open":
        message = one_line(error)[:200]
        detail = (
            detail.replace(message, "(words withheld: the row is not open)") if message else detail
        )
    return Drop(sample.id, "error", detail)


def told(facts: Mapping[str, Any]) -> list[Lost]:
    """The drops that the facts of a shard list."""
    return [Lost(*values) for values in facts["lost"]]
