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
from lingshu.core.nouns import Drop, Image, Sample
from lingshu.curate.config import CurateConfig, Source
from lingshu.curate.ledger import Ledger
from lingshu.curate.plan import READ, read_options, reader
from lingshu.curate.rows import Row, Spill, dump_sample, write_rows
from lingshu.curate.work import Lost
from lingshu.ops.licences import is_permissive

# A shard of large images in memory is cut before it has all its rows.
SHARD_BYTES = 256 << 20


class InputShard(NamedTuple):
    """A shard as it was read; `key` is the digest of its rows and of what is known of their files
    (size, time of change).
    """

    path: Path
    rows: int
    key: str


def ready(config: CurateConfig) -> list[Source]:
    """The sources that have a path.

    Raises:
        ConfigError: one that is not optional has none, or none has one.
    """
    found = []
    for source in config.sources:
        if source.path is not None:
            found.append(source)
        elif not source.optional:
            raise ConfigError(
                f"source {source.name!r} has no path; give sources.{source.name}.path=FOLDER."
            )
    if not found:
        names = ", ".join(f"sources.{source.name}.path=FOLDER" for source in config.sources)
        raise ConfigError(f"no source has a path; give at least one of: {names}.")
    return found


def read_shards(
    config: CurateConfig,
    folder: Path,
    ledger: Ledger,
    lose: Callable[[Lost], None],
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
    for source in ready(config):
        origin = names.index(source.name)
        rows = reader(source)(Path(source.path or ""), **read_options(source, key))
        cutter = _Cutter(folder, origin)
        try:
            for item in rows if limit is None else islice(rows, limit):
                ledger.enter(READ, source.name)
                found = _accept(item, source, config.licence)
                if isinstance(found, Drop):
                    ledger.drop(READ, source.name, found.reason)
                    lose(Lost(READ, source.name, found.id, found.reason, found.detail))
                    continue
                ledger.leave(READ, source.name)
                cutter.add(found)
                if cutter.rows >= config.shard_rows or cutter.held >= SHARD_BYTES:
                    yield cutter.cut()
            if cutter.rows:
                yield cutter.cut()
        except BaseException as error:
            cutter.abandon(error)
            raise


def _accept(item: Sample | Drop, source: Source, licence: str) -> Sample | Drop:
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
        licence=meta.licence or source.licence,
        # A row that says nothing of its access counts as private; the source may know better.
        access=source.access if source.access and meta.access == "private" else meta.access,
        agreement=meta.agreement or source.agreement,
        kind=meta.kind or source.kind,
        modality=meta.modality or source.modality,
        language=meta.language or source.language,
        deidentified=source.deidentified if meta.deidentified is None else meta.deidentified,
    )
    if licence == "permissive" and not (meta.licence and is_permissive(meta.licence)):
        return Drop(name, "licence", f"{meta.licence or 'unknown'} is not permissive")
    return replace(item, id=name, meta=meta)


class _Cutter:
    """Collects the rows of a source and cuts them into shards."""

    def __init__(self, folder: Path, origin: int) -> None:
        self._folder, self._origin = folder, origin
        self._number = 0
        self._facts: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        stem = self._folder / f"{self._origin:03d}-{self._number:06d}"
        self._path = stem.with_suffix(".arrow")
        self._spill = Spill(stem.with_suffix(".images.parquet"))
        self._hash = hashlib.sha256()
        self._rows: list[Row] = []
        self.held = 0

    @property
    def rows(self) -> int:
        return len(self._rows)

    def add(self, sample: Sample) -> None:
        for image in sample.images:
            if image.data is not None:
                self.held += len(image.data)
                self._hash.update(hashlib.sha256(image.data).digest())
            else:
                self._hash.update(self._file_facts(image).encode())
        text = dump_sample(self._spill.keep(sample))
        data = text.encode("utf-8", "backslashreplace")
        self._hash.update(b"%d " % len(data) + data)
        self._rows.append(Row(sample.id, self._origin, text, False))

    def _file_facts(self, image: Image) -> str:
        """Size and time of change of an image's file: what is behind a path may change between two
        runs.
        """
        path = str(image.path)
        if path not in self._facts:
            if len(self._facts) > 4096:
                self._facts.clear()
            try:
                found = os.stat(path)  # noqa: PTH116 - building a Path costs more than asking
                self._facts[path] = f"{found.st_size} {found.st_mtime_ns}"
            except (OSError, ValueError):
                self._facts[path] = "missing"
        return self._facts[path]

    def abandon(self, error: BaseException) -> None:
        self._spill.abandon(error)

    def cut(self) -> InputShard:
        self._spill.commit()
        write_rows(self._path, self._rows, {})
        shard = InputShard(self._path, len(self._rows), self._hash.hexdigest())
        self._number += 1
        self._begin()
        return shard
