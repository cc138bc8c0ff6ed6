"""From sources to the first shards: rows with their source's facts, images in memory as files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lingshu.core.errors import ConfigError
from lingshu.core.types import Drop, Image, Sample
from lingshu.curate.config import CurateConfig, Source
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import READ_STEP, get_reader, reader_options
from lingshu.curate.spill import ImageSpill, ShardRow, dump_sample, write_rows
from lingshu.curate.worker import DroppedRow, Shard
from lingshu.ops.licenses import is_permissive

# A shard of large in-memory images ends before it has all its rows.
SHARD_BYTES = 256 << 20


def available_sources(config: CurateConfig) -> list[Source]:
    """The sources that have a path.

    Raises:
        ConfigError: one that is not optional has none, or none has one.
    """
    for source in config.sources:
        if source.path is None and not source.optional:
            problem = f"source {source.name!r} has no path"
            raise ConfigError(f"{problem}; give sources.{source.name}.path=FOLDER.")
    available = [source for source in config.sources if source.path is not None]
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
    hash_key: bytes,
    limit: int | None = None,
) -> Iterator[Shard]:
    """Read every source in order and yield its shards; a shard holds rows of one source only.

    `hash_key` is the secret under which patient and study ids are hashed.

    Raises:
        InputError: a source cannot be read at all.
        StorageError: the disk refused.
    """
    names = [source.name for source in config.sources]
    for source in available_sources(config):
        rows = get_reader(source)(Path(source.path or ""), **reader_options(source, hash_key))
        splitter = _ShardSplitter(folder, names.index(source.name))
        try:
            for row in islice(rows, limit):
                counts.add(READ_STEP, source.name, "in")
                sample = _with_source_defaults(row, source, config.license)
                if isinstance(sample, Drop):
                    counts.drop(READ_STEP, source.name, sample.reason)
                    on_drop(DroppedRow.of(sample, source.name, READ_STEP))
                    continue
                counts.add(READ_STEP, source.name, "out")
                splitter.add(sample)
                if len(splitter.rows) >= config.shard_rows or splitter.n_bytes >= SHARD_BYTES:
                    yield splitter.flush()
            if splitter.rows:
                yield splitter.flush()
        except BaseException as error:
            splitter.spill.discard(error)
            raise


def _with_source_defaults(row: Sample | Drop, source: Source, license: str) -> Sample | Drop:
    """The sample with a unique id and the defaults of its source, or why it is left out."""
    name = f"{source.name}/{row.id}"
    if isinstance(row, Drop):
        return replace(row, id=name)
    meta = row.meta
    meta = replace(
        meta,
        source=meta.source or source.name,
        license=meta.license or source.license,
        # A row that states no access counts as private; the source may know better.
        access=source.access if source.access and meta.access == "private" else meta.access,
        agreement=meta.agreement or source.agreement,
        kind=meta.kind or source.kind,
        modality=meta.modality or source.modality,
        language=meta.language or source.language,
        deidentified=source.deidentified if meta.deidentified is None else meta.deidentified,
    )
    if license == "permissive" and not (meta.license and is_permissive(meta.license)):
        return Drop(name, "license", f"{meta.license or 'unknown'} is not permissive")
    return replace(row, id=name, meta=meta)


class _ShardSplitter:
    """Collects the rows of a source and splits them into shards."""

    def __init__(self, folder: Path, source_index: int) -> None:
        self._folder, self._source_index = folder, source_index
        self._shard_index = -1
        self._stat_cache: dict[str, str] = {}
        self._start_shard()

    def _start_shard(self) -> None:
        self._shard_index += 1
        stem = self._folder / f"{self._source_index:03d}-{self._shard_index:06d}"
        self._path = stem.with_suffix(".arrow")
        self.spill = ImageSpill(stem.with_suffix(".images.parquet"))
        self._hash = hashlib.sha256()
        self.rows: list[ShardRow] = []
        self.n_bytes = 0

    def add(self, sample: Sample) -> None:
        for image in sample.images:
            if image.data is not None:
                self.n_bytes += len(image.data)
                self._hash.update(hashlib.sha256(image.data).digest())
            else:
                self._hash.update(self._file_stat(image).encode())
        text = dump_sample(self.spill.store(sample))
        data = text.encode("utf-8", "backslashreplace")
        self._hash.update(b"%d " % len(data) + data)
        self.rows.append(ShardRow(sample.id, self._source_index, text, False))

    def _file_stat(self, image: Image) -> str:
        """Size and modification time of an image's file, which may change between two runs."""
        path = str(image.path)
        if path not in self._stat_cache:
            if len(self._stat_cache) > 4096:
                self._stat_cache.clear()
            try:
                stat = os.stat(path)  # noqa: PTH116 - building a Path costs more than the call
                self._stat_cache[path] = f"{stat.st_size} {stat.st_mtime_ns}"
            except (OSError, ValueError):
                self._stat_cache[path] = "missing"
        return self._stat_cache[path]

    def flush(self) -> Shard:
        self.spill.commit()
        write_rows(self._path, self.rows, {})
        shard = Shard(self._path, len(self.rows), self._hash.hexdigest())
        self._start_shard()
        return shard
