"""From sources to the first shards: rows read in order, what the source knows filled in, images
without a place put into files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ConfigError
from lingshu.core.types import Drop, Image, Sample
from lingshu.curate.config import CurateConfig, Source
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import READ_STEP, get_reader, reader_options
from lingshu.curate.spill import ImageSpill, ShardRow, dump_sample, write_rows
from lingshu.curate.worker import DroppedRow
from lingshu.ops.licenses import is_permissive

# A shard of large images in memory is cut before it has all its rows.
SHARD_BYTES = 256 << 20


class InputShard(NamedTuple):
    """A shard as it was read; `key` is the digest of its rows and of what is known of their files
    (size, time of change).
    """

    path: Path
    rows: int
    key: str


def available_sources(config: CurateConfig) -> list[Source]:
    """The sources that have a path.

    Raises:
        ConfigError: one that is not optional has none, or none has one.
    """
    available = []
    for source in config.sources:
        if source.path is not None:
            available.append(source)
        elif not source.optional:
            raise ConfigError(
                f"source {source.name!r} has no path; give sources.{source.name}.path=FOLDER."
            )
    if not available:
        names = ", ".join(f"sources.{source.name}.path=FOLDER" for source in config.sources)
        raise ConfigError(f"no source has a path; give at least one of: {names}.")
    return available


def read_shards(
    config: CurateConfig,
    folder: Path,
    counts: StepCounts,
    on_drop: Callable[[DroppedRow], None],
    *,
    key: bytes,
    limit: int | None = None,
) -> Iterator[InputShard]:
    """Read every source in order and yield its shards as they are written. A shard holds rows of
    one source only.

    `key` is the secret that patient and study ids are hashed under.

    Raises:
        InputError: a source cannot be read at all.
        StorageError: the disk refused.
    """
    names = [source.name for source in config.sources]
    for source in available_sources(config):
        source_index = names.index(source.name)
        rows = get_reader(source)(Path(source.path or ""), **reader_options(source, key))
        splitter = _ShardSplitter(folder, source_index)
        try:
            for item in rows if limit is None else islice(rows, limit):
                counts.record_in(READ_STEP, source.name)
                accepted = _with_source_defaults(item, source, config.license)
                if isinstance(accepted, Drop):
                    counts.record_drop(READ_STEP, source.name, accepted.reason)
                    on_drop(
                        DroppedRow(
                            READ_STEP, source.name, accepted.id, accepted.reason, accepted.detail
                        )
                    )
                    continue
                counts.record_out(READ_STEP, source.name)
                splitter.add(accepted)
                if splitter.rows >= config.shard_rows or splitter.buffered_bytes >= SHARD_BYTES:
                    yield splitter.flush()
            if splitter.rows:
                yield splitter.flush()
        except BaseException as error:
            splitter.discard(error)
            raise


def _with_source_defaults(item: Sample | Drop, source: Source, license: str) -> Sample | Drop:
    """The sample with what its source knows of it, under an id that no other source has; or why it
    is left out.
    """
    name = f"{source.name}/{item.id}"
    if isinstance(item, Drop):
        return replace(item, id=name)
    meta = item.meta
    meta = replace(
        meta,
        source=meta.source or source.name,
        license=meta.license or source.license,
        # A row that says nothing of its access counts as private; the source may know better.
        access=source.access if source.access and meta.access == "private" else meta.access,
        agreement=meta.agreement or source.agreement,
        kind=meta.kind or source.kind,
        modality=meta.modality or source.modality,
        language=meta.language or source.language,
        deidentified=source.deidentified if meta.deidentified is None else meta.deidentified,
    )
    if license == "permissive" and not (meta.license and is_permissive(meta.license)):
        return Drop(name, "license", f"{meta.license or 'unknown'} is not permissive")
    return replace(item, id=name, meta=meta)


class _ShardSplitter:
    """Collects the rows of a source and cuts them into shards."""

    def __init__(self, folder: Path, source_index: int) -> None:
        self._folder, self._source_index = folder, source_index
        self._shard_index = 0
        self._stat_cache: dict[str, str] = {}
        self._start_shard()

    def _start_shard(self) -> None:
        stem = self._folder / f"{self._source_index:03d}-{self._shard_index:06d}"
        self._path = stem.with_suffix(".arrow")
        self._spill = ImageSpill(stem.with_suffix(".images.parquet"))
        self._hash = hashlib.sha256()
        self._rows: list[ShardRow] = []
        self.buffered_bytes = 0

    @property
    def rows(self) -> int:
        return len(self._rows)

    def add(self, sample: Sample) -> None:
        for image in sample.images:
            if image.data is not None:
                self.buffered_bytes += len(image.data)
                self._hash.update(hashlib.sha256(image.data).digest())
            else:
                self._hash.update(self._file_stat(image).encode())
        text = dump_sample(self._spill.store(sample))
        data = text.encode("utf-8", "backslashreplace")
        self._hash.update(b"%d " % len(data) + data)
        self._rows.append(ShardRow(sample.id, self._source_index, text, False))

    def _file_stat(self, image: Image) -> str:
        """Size and time of change of an image's file: what is behind a path may change between two
        runs.
        """
        path = str(image.path)
        if path not in self._stat_cache:
            if len(self._stat_cache) > 4096:
                self._stat_cache.clear()
            try:
                stat = os.stat(path)  # noqa: PTH116 - building a Path costs more than asking
                self._stat_cache[path] = f"{stat.st_size} {stat.st_mtime_ns}"
            except (OSError, ValueError):
                self._stat_cache[path] = "missing"
        return self._stat_cache[path]

    def discard(self, error: BaseException) -> None:
        self._spill.discard(error)

    def flush(self) -> InputShard:
        self._spill.commit()
        write_rows(self._path, self._rows, {})
        shard = InputShard(self._path, len(self._rows), self._hash.hexdigest())
        self._shard_index += 1
        self._start_shard()
        return shard
