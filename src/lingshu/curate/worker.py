"""One unit of work, a shard through a pass or a part of the dataset, and a worker's program."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.core import errors
from lingshu.core.artifacts import ShardWriter, release_freed_memory, retain_freed_memory
from lingshu.core.files import atomic_file, sha256_file, storage_errors, write_json
from lingshu.core.step_types import MapStep, SampleFunction, Signature, TableStep
from lingshu.core.types import Drop, Image, Sample
from lingshu.curate import spill
from lingshu.curate.config import StepConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import WRITE_STEP, Pass, build_step
from lingshu.deidentify.spans import KIND_NOTE, RULE_NOTE, parse_counts
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import ShardReader, encode_png, error_without_paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHE_MB = 24
MARKER_STRUCT = struct.Struct("<ii")  # a row and a step
# Rows parsed in one go: the processor's caches then hold the parser, not an image's pixels.
PARSE_BATCH = 64
# Rows of each outcome of a step that a shard keeps for the explain page.
MAX_EXAMPLES = 2
# Errors that every other sample would hit as well: they stop the run.
FATAL_ERRORS = (ImportError, errors.MissingExtraError, errors.ConfigError, errors.StorageError)
# What receiving raises when the other process has ended, within a message or between two.
DISCONNECTED = (EOFError, OSError)
# Distributions over identifiers, not rows, and the notes that count them.
SCRUBBED = {"identifiers": KIND_NOTE, "identifiers by rule": RULE_NOTE}
FACETS = ("modality", "kind", "language", "source", "license", "access")
# Upper bounds of the bars of a distribution.
SIDE_BOUNDS = (64, 128, 256, 512, 1024, 2048, 4096)
WORD_BOUNDS = (4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class RowRange:
    """Rows of a shard; `notes` (by row) are added to the `extra` of their meta."""

    path: str
    start: int
    stop: int
    dropped_rows: frozenset[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A shard with the last decision about its rows; `key` digests what its content comes from."""

    path: Path
    rows: int
    key: str
    dropped_rows: Set[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def n_left(self) -> int:
        return self.rows - len(self.dropped_rows)

    def row_range(self, start: int, stop: int) -> RowRange:
        dropped = frozenset(row for row in self.dropped_rows if start <= row < stop)
        notes = {row: notes for row, notes in self.notes.items() if start <= row < stop}
        return RowRange(str(self.path), start, stop, dropped, notes)


@dataclass(frozen=True)
class Job:
    """The rows, the steps and the output of one job; without steps it writes a part of the dataset.

    `crashed_rows` maps rows that killed their workers to the step that ran; they become drops.
    """

    key: str
    output: str
    row_ranges: tuple[RowRange, ...]
    sources: tuple[str, ...]
    steps: Pass | None = None
    image_format: str = "keep"
    crashed_rows: Mapping[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(row_range.stop - row_range.start for row_range in self.row_ranges)

    @property
    def marker_path(self) -> Path:
        return Path(self.output + ".at")


class DroppedRow(NamedTuple):
    """A line of drops.jsonl."""

    id: str
    source: str
    step: str
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, drop: Drop, source: str, step: str) -> DroppedRow:
        return cls(drop.id, source, step, drop.reason, drop.detail)


class Example(NamedTuple):
    """What a step did to a row, for the explain page; `before` and `after` are samples as JSON."""

    step: str
    outcome: str
    before: str
    after: Sequence[str]
    detail: str = ""


class TrackedImageCache(ImageCache):
    """An image cache that records which images of the current row were decoded."""

    def __init__(self) -> None:
        super().__init__(
            shards=ShardReader(cache_mb=CACHE_MB, max_open_files=16), cache_mb=CACHE_MB
        )
        self.decoded: set[Image] = set()

    def gray(self, image: Image) -> NDArray[np.uint8]:
        pixels = super().gray(image)
        self.decoded.add(image)
        return pixels

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        pixels = super().rgb(image)
        self.decoded.add(image)
        return pixels


class ProgressMarker:
    """The current row and step in a memory-mapped file, which a killed worker leaves behind.

    No sync is needed: the page cache outlives the process.
    """

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # The page is allocated here, where a full disk is an error and not a signal.
            os.write(fd, MARKER_STRUCT.pack(-1, -1))
            self._map = mmap.mmap(fd, MARKER_STRUCT.size)
        finally:
            os.close(fd)

    def update(self, row: int, step: int) -> None:
        self._map[:] = MARKER_STRUCT.pack(row, step)

    def close(self) -> None:
        self._map.close()


def read_marker(path: Path) -> tuple[int, int] | None:
    """The row and the step at which a worker died; None before its first row."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    row, step = MARKER_STRUCT.unpack(data) if len(data) == MARKER_STRUCT.size else (-1, -1)
    return None if row < 0 else (row, step)


class Worker:
    """Does jobs one after another in one process; keeps the opened steps of the current pass."""

    def __init__(self) -> None:
        self.image_cache = TrackedImageCache()
        self._steps: Pass | None = None
        self._functions: list[SampleFunction] = []

    def run_job(self, job: Job) -> None:
        """Write the job's output, whole or not at all.

        Raises:
            StorageError: the disk refused.
            LingshuError: a step cannot be opened.
        """
        import cv2

        cv2.setNumThreads(1)  # there is a process for every core
        marker = ProgressMarker(job.marker_path)
        try:
            if job.steps is None:
                write_part(job, self.image_cache, marker)
            else:
                if job.steps != self._steps:
                    self._functions = [_open(step) for step in job.steps.map_steps]
                    self._steps = job.steps
                _ShardPass(job, job.steps, self._functions, self.image_cache, marker).run()
        finally:
            marker.close()
            job.marker_path.unlink(missing_ok=True)
            # The next job reads other images, and its steps may use them differently.
            self.image_cache.decoded.clear()
            self.image_cache.close()
            release_freed_memory()


def _open(step: StepConfig) -> SampleFunction:
    built = build_step(step)
    assert isinstance(built, MapStep)
    return built.open()


def iter_rows(job: Job) -> Iterator[tuple[int, spill.ShardRow, Sample]]:
    """The remaining rows of a job: position in the job, row, and its sample."""
    offset = 0
    for part in job.row_ranges:
        rows = spill.read_rows(Path(part.path))
        kept = [i for i in range(part.start, part.stop) if i not in part.dropped_rows]
        for start in range(0, len(kept), PARSE_BATCH):
            yield from [
                (offset + i - part.start, *_apply_notes(rows[i], part.notes.get(i)))
                for i in kept[start : start + PARSE_BATCH]
            ]
        offset += part.stop - part.start


def _apply_notes(
    row: spill.ShardRow, notes: Mapping[str, str] | None
) -> tuple[spill.ShardRow, Sample]:
    sample = spill.load_sample(row.text)
    if not notes:
        return row, sample
    sample = replace(sample, meta=replace(sample.meta, extra={**sample.meta.extra, **notes}))
    return row._replace(text=spill.dump_sample(sample)), sample


class _ShardPass:
    """A shard through the map steps of a pass, up to the signature of its table step."""

    def __init__(
        self,
        job: Job,
        steps: Pass,
        functions: list[SampleFunction],
        image_cache: TrackedImageCache,
        marker: ProgressMarker,
    ) -> None:
        self.job, self.map_steps, self.table_step = job, steps.map_steps, steps.table_step
        self.functions, self.image_cache, self.marker = functions, image_cache, marker
        table = build_step(self.table_step) if self.table_step else None
        self.compute = table.compute_signature if isinstance(table, TableStep) else None
        self.counts = StepCounts()
        self.drops: list[DroppedRow] = []
        self.examples: dict[tuple[str, str], list[tuple[Sample, tuple[Sample, ...]]]] = {}
        self.spill = spill.ImageSpill(Path(job.output + ".images.parquet"))

    def run(self) -> None:
        rows: list[spill.ShardRow] = []
        signatures: list[Signature | None] = []
        try:
            for row_index, row, sample in iter_rows(self.job):
                for output_row, signature in self._process_row(row_index, row, sample):
                    rows.append(output_row)
                    signatures.append(signature)
            examples = [
                Example(
                    step, outcome, self._dump_sample(before), list(map(self._dump_sample, after))
                )
                for (step, outcome), entries in self.examples.items()
                for before, after in entries
            ]
            self.spill.commit()
            metadata = {
                "rows": len(rows),
                "counts": self.counts.as_dict(),
                "drops": self.drops,
                "examples": examples,
            }
            spill.write_rows(
                Path(self.job.output), rows, metadata, signatures if self.compute else None
            )
        except BaseException as error:
            self.spill.discard(error)
            raise

    def _dump_sample(self, sample: Sample) -> str:
        return spill.dump_sample(self.spill.store(sample))

    def _process_row(
        self, row_index: int, row: spill.ShardRow, original: Sample
    ) -> list[tuple[spill.ShardRow, Signature | None]]:
        source = self.job.sources[row.source_index]
        decoded = self.image_cache.decoded
        decoded.clear()
        if row.is_valid:
            decoded.update(original.images)
        samples: Sequence[Sample] = (original,)
        crashed_step = self.job.crashed_rows.get(row_index)
        for index, step in enumerate(self.map_steps):
            if step.sources and source not in step.sources:
                continue
            self.marker.update(row_index, index)
            if crashed_step is not None and index >= crashed_step:
                samples = self._drop_crashed(step.name, source, samples)
            samples = [
                output
                for sample in samples
                for output in self._apply_step(step, self.functions[index], sample, source)
            ]
        table = self.table_step
        if table and table.sources and source not in table.sources:
            table = None
        if table:
            self.marker.update(row_index, len(self.map_steps))
            if crashed_step is not None:
                samples = self._drop_crashed(table.name, source, samples)
        results: list[tuple[spill.ShardRow, Signature | None]] = []
        for output in samples:
            signature = self._signature(table, output, source) if table else None
            if table and signature is None:
                continue
            is_valid = bool(output.images) and all(image in decoded for image in output.images)
            # A sample that no step changed keeps its text as it was.
            text = row.text if output is original else self._dump_sample(output)
            results.append((spill.ShardRow(output.id, row.source_index, text, is_valid), signature))
        return results

    def _apply_step(
        self, step: StepConfig, function: SampleFunction, sample: Sample, source: str
    ) -> Sequence[Sample]:
        self.counts.add(step.name, source, "in")
        try:
            result = function(sample, self.image_cache)
            outputs: Any = (result,) if isinstance(result, Sample | Drop) else tuple(result)
            if not outputs or not all(
                isinstance(output, Sample) for output in outputs if output is not result
            ):
                raise TypeError(f"{step.op} returned neither a sample nor a drop")
        except FATAL_ERRORS:
            raise
        except Exception as error:
            outputs = (_error_to_drop(sample, error),)
        if isinstance(outputs[0], Drop):
            self._record_drop(step.name, source, sample, outputs[0])
            return ()
        self.counts.add(step.name, source, "added", len(outputs) - 1)
        self.counts.add(step.name, source, "out", len(outputs))
        if len(outputs) > 1:
            self._add_example(step.name, "split", sample, outputs)
            return outputs
        is_unchanged = outputs[0] is sample or outputs[0] == sample
        self._add_example(step.name, "kept" if is_unchanged else "changed", sample, outputs)
        return (sample,) if is_unchanged else outputs

    def _signature(self, step: StepConfig, sample: Sample, source: str) -> Signature | None:
        self.counts.add(step.name, source, "in")
        assert self.compute is not None
        try:
            return self.compute(sample, self.image_cache)
        except FATAL_ERRORS:
            raise
        except Exception as error:
            self._record_drop(step.name, source, sample, _error_to_drop(sample, error))
            return None

    def _drop_crashed(self, step: str, source: str, samples: Sequence[Sample]) -> list[Sample]:
        detail = "the process that worked on it was killed repeatedly"
        for sample in samples:
            self.counts.add(step, source, "in")
            self._record_drop(step, source, sample, Drop(sample.id, "worker_died", detail))
        return []

    def _record_drop(self, step: str, source: str, sample: Sample, drop: Drop) -> None:
        self.counts.drop(step, source, drop.reason)
        self.drops.append(DroppedRow(sample.id, source, step, drop.reason, drop.detail))
        self._add_example(step, f"dropped: {drop.reason}", sample, ())

    def _add_example(
        self, step: str, outcome: str, before: Sample, after: tuple[Sample, ...]
    ) -> None:
        entries = self.examples.setdefault((step, outcome), [])
        if len(entries) < MAX_EXAMPLES:
            entries.append((before, after[:MAX_EXAMPLES]))


def _error_to_drop(sample: Sample, error: Exception) -> Drop:
    """An exception as a drop; its message may quote the row, so only open rows show it."""
    if isinstance(error, errors.ImageError):
        return Drop(sample.id, "bad_image", error_without_paths(error, sample.images))
    detail = errors.describe_error(error)
    message = errors.one_line(error)[:200]
    if sample.meta.access != "open" and message:
        detail = detail.replace(message, "(message withheld: the row is not open)")
    return Drop(sample.id, "error", detail)


# --- parts of the dataset


def part_stats_path(part: Path) -> Path:
    """The statistics next to a part; they are written last, so a part that has them is complete."""
    return part.with_suffix(".json")


def write_part(job: Job, images: TrackedImageCache, marker: ProgressMarker) -> None:
    """Write the rows of `job` as a shard of a DATASET; every image was decoded once."""
    path = Path(job.output)
    counts, statistics = StepCounts(), DatasetStatistics()
    drops: list[DroppedRow] = []
    with atomic_file(path) as temporary, storage_errors(path), ShardWriter(temporary) as writer:
        for row_index, row, sample in iter_rows(job):
            marker.update(row_index, 0)
            source = job.sources[row.source_index]
            counts.add(WRITE_STEP, source, "in")
            if row_index in job.crashed_rows:
                encoded: list[bytes] | Drop = Drop(sample.id, "worker_died")
            else:
                encoded = _encode_images(sample, row, job, images)
            if isinstance(encoded, Drop):
                counts.drop(WRITE_STEP, source, encoded.reason)
                drops.append(DroppedRow.of(encoded, source, WRITE_STEP))
                continue
            counts.add(WRITE_STEP, source, "out")
            writer.add(sample, encoded)
            statistics.add(sample, images)
    stats = {
        "counts": counts.as_dict(),
        "drops": drops,
        "rows": statistics.rows,
        "images": statistics.n_images,
        "distributions": statistics.distributions,
        "sha256": sha256_file(path),
    }
    write_json(part_stats_path(path), stats)


def _encode_images(
    sample: Sample, row: spill.ShardRow, job: Job, images: TrackedImageCache
) -> list[bytes] | Drop:
    images.decoded.clear()
    try:
        encoded = [_encode(image, row, job, images) for image in sample.images]
    except errors.ImageError as error:
        return Drop(sample.id, "bad_image", error_without_paths(error, sample.images))
    parts = (part for message in sample.messages for part in message.parts)
    if all(0 <= part < len(encoded) for part in parts if isinstance(part, int)):
        return encoded
    detail = "a message refers to an image that the sample does not have"
    return Drop(sample.id, "bad_messages", detail)


def _encode(image: Image, row: spill.ShardRow, job: Job, images: ImageCache) -> bytes:
    if job.image_format == "png":
        return encode_png(images.rgb(image))
    data = images.bytes(image)
    # A file of another kind, such as DICOM, must not enter a dataset as it is: reading its header
    # refuses it.
    images.header(image)
    if not row.is_valid:
        images.gray(image)
    return data


class DatasetStatistics:
    """Rows, images and distributions of a part; those of several parts can be merged."""

    def __init__(self) -> None:
        self.rows = self.n_images = 0
        names = (*FACETS, "image side", "words", "turns", "images of a row", *SCRUBBED)
        self.distributions: dict[str, Counter[str]] = {name: Counter() for name in names}

    def add(self, sample: Sample, images: ImageCache) -> None:
        self.rows += 1
        self.n_images += len(sample.images)
        values = [(name, sample.meta.facet(name) or "unknown") for name in FACETS]
        for image in sample.images:
            header = images.header(image)
            values.append(("image side", _bucket(max(header.width, header.height), SIDE_BOUNDS)))
        words = sum(_count_words(message.text) for message in sample.messages)
        n_turns = sum(message.role == "assistant" for message in sample.messages)
        values += [
            ("words", _bucket(words, WORD_BOUNDS)),
            ("turns", str(n_turns)),
            ("images of a row", str(len(sample.images))),
        ]
        for name, value in values:
            self.distributions[name][value] += 1
        for name, note in SCRUBBED.items():
            self.distributions[name].update(parse_counts(sample.meta.extra.get(note, "")))

    def merge(self, stats: Mapping[str, Any]) -> None:
        """Add the statistics file of a part."""
        self.rows += stats["rows"]
        self.n_images += stats["images"]
        for name, counts in stats["distributions"].items():
            self.distributions[name].update(counts)


def _count_words(text: str) -> int:
    """Words, counting each character of a script without spaces as one more."""
    words = len(text.split())
    return words if text.isascii() else words + sum("一" <= c <= "鿿" for c in text)


def _bucket(value: int, bounds: tuple[int, ...]) -> str:
    low = 0
    for bound in bounds:
        if value <= bound:
            return f"{low + 1}-{bound}" if low else f"up to {bound}"
        low = bound
    return f"over {low}"


# --- the worker process


class SerializedError(NamedTuple):
    """Why a job cannot be done at all, in a form that any process can read."""

    class_name: str
    message: str
    traceback_text: str

    @classmethod
    def from_exception(cls, error: BaseException) -> SerializedError:
        if isinstance(error, ModuleNotFoundError):
            return cls("ModuleNotFoundError", error.name or errors.one_line(error), "")
        class_name = type(error).__name__ if isinstance(error, errors.LingshuError) else ""
        return cls(class_name, errors.one_line(error), traceback.format_exc())

    def to_exception(self) -> Exception:
        """The exception again; one that is not ours with the worker's traceback."""
        if self.class_name == "ModuleNotFoundError":
            return ModuleNotFoundError(f"No module named {self.message!r}", name=self.message)
        if not self.class_name:
            return RuntimeError(f"{self.message}\n{self.traceback_text}")
        return getattr(errors, self.class_name, errors.InputError)(self.message)


def main() -> None:
    """The program of a worker process: jobs and results go over the connection to its driver.

    A separate program never runs a caller's main module again, and it ends when the connection
    does, whatever happened to the driver.
    """
    # The driver decides what an interrupt means; a worker ends when its driver does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver, worker = Connection(int(sys.argv[1])), Worker()
    # Keep freed memory for the next image and collect cycles less often: together a twentieth of a
    # worker's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    retain_freed_memory(16 << 20)
    while True:
        try:
            job = driver.recv()
        except DISCONNECTED:
            return
        try:
            worker.run_job(job)
            result = None
        except Exception as error:
            result = SerializedError.from_exception(error)
        driver.send(result)
