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

from lingshu.core.errors import (
    ConfigError,
    ImageError,
    MissingExtraError,
    StorageError,
    describe_error,
    one_line,
)
from lingshu.core.memory import release_freed_memory
from lingshu.core.step_types import MapStep, SampleFunction, Signature, TableStep
from lingshu.core.types import Drop, Image, Sample
from lingshu.curate.config import StepConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import Pass, build_step
from lingshu.curate.spill import (
    ImageSpill,
    ShardRow,
    dump_sample,
    load_sample,
    read_rows,
    write_rows,
)
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import ShardReader, error_without_paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lingshu.core.step_types import ImageHeader

ImageBytes = bytes  # inside the class the name `bytes` is a method
CACHE_MB = 24
MARKER_STRUCT = struct.Struct("<ii")  # a row and a step
# rows that are parsed one after another: the processor's caches hold the parser then, not the
# pixels of a picture
PARSE_BATCH = 64
# rows of each outcome of a step that a shard remembers for the page that explains the run
MAX_EXAMPLES = 2
# What no other sample of the run would be spared: the run must stop and say so.
FATAL_ERRORS = (ImportError, MissingExtraError, ConfigError, StorageError)


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` of a shard, without those `out`; `notes` are added to the `extra` of a
    row's meta, by row.
    """

    path: str
    start: int
    stop: int
    dropped_rows: frozenset[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a worker is asked: the rows, the steps, and where the result goes.

    `dead` names rows of the job that killed their workers, with the step they did it in; they
    become drops.
    """

    key: str
    output: str
    row_ranges: tuple[RowRange, ...]
    sources: tuple[str, ...]
    steps: Pass | None = None  # None: the job writes a part of the dataset
    image_format: str = "keep"
    crashed_rows: Mapping[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(row_range.stop - row_range.start for row_range in self.row_ranges)

    @property
    def marker_path(self) -> Path:
        return Path(self.output + ".at")


class DroppedRow(NamedTuple):
    """A dropped row, as the list of drops shows it."""

    step: str
    source: str
    id: str
    reason: str
    detail: str


class TrackedPixels:
    """The images of a row, and which of them were decoded."""

    def __init__(self, image_cache: ImageCache) -> None:
        self._image_cache = image_cache
        self.decoded: set[Image] = set()

    def header(self, image: Image) -> ImageHeader:
        return self._image_cache.header(image)

    def bytes(self, image: Image) -> ImageBytes:
        return self._image_cache.bytes(image)

    def gray(self, image: Image) -> NDArray[np.uint8]:
        pixels = self._image_cache.gray(image)
        self.decoded.add(image)
        return pixels

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        pixels = self._image_cache.rgb(image)
        self.decoded.add(image)
        return pixels


class ProgressMarker:
    """Which row and step are at work, in a mapped file while the work goes on: what a killed worker
    leaves behind.

    No sync: the page cache outlives the process.
    """

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # its page is claimed here, where a full disk is an error
            os.write(fd, MARKER_STRUCT.pack(-1, -1))
            self._map = mmap.mmap(fd, MARKER_STRUCT.size)
        finally:
            os.close(fd)

    def update(self, row: int, step: int) -> None:
        self._map[:] = MARKER_STRUCT.pack(row, step)

    def close(self) -> None:
        self._map.close()


def read_marker(path: Path) -> tuple[int, int] | None:
    """The row and the step that a worker was at when it died; None before its first."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    row, step = MARKER_STRUCT.unpack(data) if len(data) == MARKER_STRUCT.size else (-1, -1)
    return None if row < 0 else (row, step)


class Worker:
    """Does jobs one after another in one process; keeps the opened steps and the images it read
    last.
    """

    def __init__(self) -> None:
        self.image_cache = ImageCache(
            shards=ShardReader(cache_mb=CACHE_MB, max_open_files=16), cache_mb=CACHE_MB
        )
        self._open_functions: dict[str, list[SampleFunction]] = {}

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
                from lingshu.curate.shard_parts import write_part

                write_part(job, self.image_cache, marker)
            else:
                _ShardPass(
                    job, job.steps, self._functions(job), TrackedPixels(self.image_cache), marker
                ).run()
        finally:
            marker.close()
            job.marker_path.unlink(missing_ok=True)
            # The next job has other images, and may do other things with them.
            self.image_cache.close()
            release_freed_memory()

    def _functions(self, job: Job) -> list[SampleFunction]:
        assert job.steps is not None
        # One pass at a time: the steps of an earlier one are let go.
        name = repr(job.steps)
        if name not in self._open_functions:
            self._open_functions = {
                name: [_open(step_config) for step_config in job.steps.map_steps]
            }
        return self._open_functions[name]


def _open(step_config: StepConfig) -> SampleFunction:
    step = build_step(step_config)
    assert isinstance(step, MapStep)
    return step.open()


def iter_rows(job: Job) -> Iterator[tuple[int, ShardRow, Sample]]:
    """The rows of a job that stay, with their numbers in it, and their samples with what a decision
    noted of them.
    """
    offset = 0
    for row_range in job.row_ranges:
        rows = read_rows(Path(row_range.path))
        kept_rows = [
            row_index
            for row_index in range(row_range.start, row_range.stop)
            if row_index not in row_range.dropped_rows
        ]
        for start in range(0, len(kept_rows), PARSE_BATCH):
            batch = kept_rows[start : start + PARSE_BATCH]
            yield from [
                (
                    offset + row_index - row_range.start,
                    *_apply_notes(rows[row_index], row_range.notes.get(row_index)),
                )
                for row_index in batch
            ]
        offset += row_range.stop - row_range.start


def _apply_notes(row: ShardRow, notes: Mapping[str, str] | None) -> tuple[ShardRow, Sample]:
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
        pixels: TrackedPixels,
        marker: ProgressMarker,
    ) -> None:
        self.job, self.steps, self.functions, self.pixels, self.marker = (
            job,
            steps,
            functions,
            pixels,
            marker,
        )
        table = build_step(steps.table_step) if steps.table_step else None
        self.sign = table.compute_signature if isinstance(table, TableStep) else None
        self.counts = StepCounts()
        self.drops: list[DroppedRow] = []
        self.examples: dict[tuple[str, str], list[tuple[str, str, Sample, tuple[Sample, ...]]]] = {}
        self.spill = ImageSpill(Path(job.output + ".images.parquet"))

    def run(self) -> None:
        rows: list[ShardRow] = []
        signatures: list[Signature | None] = []
        try:
            for row_index, row, sample in iter_rows(self.job):
                for output_row, signature in self._process_row(row_index, row, sample):
                    rows.append(output_row)
                    signatures.append(signature)
            example_rows = [
                {
                    "step": step,
                    "outcome": outcome,
                    "before": self._dump_sample(before),
                    "after": [self._dump_sample(sample) for sample in after],
                }
                for entries in self.examples.values()
                for step, outcome, before, after in entries
            ]
            self.spill.commit()
            metadata = {
                "rows": len(rows),
                "counts": self.counts.as_dict(),
                "drops": self.drops,
                "examples": example_rows,
            }
            write_rows(
                Path(self.job.output),
                rows,
                metadata,
                signatures=None if self.sign is None else signatures,
            )
        except BaseException as error:
            self.spill.discard(error)
            raise

    def _dump_sample(self, sample: Sample) -> str:
        return dump_sample(self.spill.store(sample))

    def _process_row(
        self, row_index: int, row: ShardRow, original: Sample
    ) -> list[tuple[ShardRow, Signature | None]]:
        source = self.job.sources[row.source_index]
        self.pixels.decoded.clear()
        if row.is_valid:
            self.pixels.decoded.update(original.images)
        samples: Sequence[Sample] = (original,)
        crashed_step = self.job.crashed_rows.get(row_index)
        for index, step_config in enumerate(self.steps.map_steps):
            if step_config.sources and source not in step_config.sources:
                continue
            self.marker.update(row_index, index)
            if crashed_step is not None and index >= crashed_step:
                samples = self._drop_crashed(step_config.name, source, samples)
            samples = [
                output
                for sample in samples
                for output in self._apply_step(step_config, self.functions[index], sample, source)
            ]
        results: list[tuple[ShardRow, Signature | None]] = []
        table = self.steps.table_step
        needs_signature = table is not None and (not table.sources or source in table.sources)
        if needs_signature:
            self.marker.update(row_index, len(self.steps.map_steps))
            if crashed_step is not None and table:
                samples = self._drop_crashed(table.name, source, samples)
        for output in samples:
            signature = None
            if needs_signature and table and self.sign:
                signature = self._compute_signature(table, output, source)
                if signature is None:
                    continue
            is_valid = bool(output.images) and all(
                image in self.pixels.decoded for image in output.images
            )
            # A sample that no step changed keeps its text as it was.
            text = row.text if output is original else self._dump_sample(output)
            results.append((ShardRow(output.id, row.source_index, text, is_valid), signature))
        return results

    def _apply_step(
        self, step_config: StepConfig, function: SampleFunction, sample: Sample, source: str
    ) -> Sequence[Sample]:
        self.counts.record_in(step_config.name, source)
        try:
            result = function(sample, self.pixels)
            outputs = (result,) if isinstance(result, Sample | Drop) else tuple(result)
            if not outputs or not all(
                isinstance(item, Sample) for item in outputs if item is not result
            ):
                raise TypeError(f"{step_config.op} returned no sample and no drop")
        except FATAL_ERRORS:
            raise
        except Exception as error:
            outputs = (_error_to_drop(sample, error),)
        if isinstance(outputs[0], Drop):
            self._record_drop(step_config.name, source, sample, outputs[0])
            return ()
        self.counts.record_added(step_config.name, source, len(outputs) - 1)
        self.counts.record_out(step_config.name, source, len(outputs))
        is_unchanged = len(outputs) == 1 and (outputs[0] is sample or outputs[0] == sample)
        self._add_example(
            step_config.name,
            "kept" if is_unchanged else "changed" if len(outputs) == 1 else "split",
            sample,
            outputs,  # type: ignore[arg-type]
        )
        return (sample,) if is_unchanged else outputs  # type: ignore[return-value]

    def _compute_signature(
        self, step_config: StepConfig, sample: Sample, source: str
    ) -> Signature | None:
        self.counts.record_in(step_config.name, source)
        assert self.sign is not None
        try:
            return self.sign(sample, self.pixels)
        except FATAL_ERRORS:
            raise
        except Exception as error:
            self._record_drop(step_config.name, source, sample, _error_to_drop(sample, error))
            return None

    def _drop_crashed(self, step: str, source: str, samples: Sequence[Sample]) -> list[Sample]:
        for sample in samples:
            self.counts.record_in(step, source)
            self._record_drop(
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

    def _record_drop(self, step: str, source: str, sample: Sample, drop: Drop) -> None:
        self.counts.record_drop(step, source, drop.reason)
        self.drops.append(DroppedRow(step, source, sample.id, drop.reason, drop.detail))
        self._add_example(step, f"dropped: {drop.reason}", sample, ())

    def _add_example(
        self, step: str, outcome: str, before: Sample, after: tuple[Sample, ...]
    ) -> None:
        entries = self.examples.setdefault((step, outcome), [])
        if len(entries) < MAX_EXAMPLES:
            entries.append((step, outcome, before, after[:MAX_EXAMPLES]))


def _error_to_drop(sample: Sample, error: Exception) -> Drop:
    """A step's exception as a drop.

    An error may quote what it choked on: of rows that are not open, its words stay out.
    """
    if isinstance(error, ImageError):
        return Drop(sample.id, "bad_image", error_without_paths(error, sample.images))
    detail = describe_error(error)
    if sample.meta.access != "open":
        message = one_line(error)[:200]
        detail = (
            detail.replace(message, "(words withheld: the row is not open)") if message else detail
        )
    return Drop(sample.id, "error", detail)


def parse_drops(metadata: Mapping[str, Any]) -> list[DroppedRow]:
    """The drops that the facts of a shard list."""
    return [DroppedRow(*values) for values in metadata["drops"]]
