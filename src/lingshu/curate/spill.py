"""The shards between workers: samples as JSON in Arrow files, images by reference, and counts.

A shard is one file that appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.core.files import atomic_file
from lingshu.core.messages import sample_from_json, sample_to_json
from lingshu.core.step_types import Signature
from lingshu.core.types import Image, Sample

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"lingshu"
SIGNATURE_PREFIX = "sign."
SPILL_ROWS = 64
SPILL_BYTES = 32 << 20
# json.dumps would build an encoder for every sample.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ShardRow(NamedTuple):
    """A row of a shard; `is_valid`: each of its images was decoded."""

    id: str
    source_index: int
    text: str
    is_valid: bool


def dump_sample(sample: Sample) -> str:
    return _ENCODER.encode(sample_to_json(sample))


def load_sample(text: str) -> Sample:
    return sample_from_json(json.loads(text))


def write_rows(
    path: Path,
    rows: Sequence[ShardRow],
    metadata: Mapping[str, Any],
    signatures: Sequence[Signature | None] | None = None,
) -> None:
    """Write a shard; `signatures` are by row, None where the step does not apply."""
    import pyarrow as pa

    # A lone surrogate has no UTF-8 form; JSON text may hold it as an escape, an id may not.
    columns: dict[str, Any] = {
        "id": pa.array([_storable(row.id) for row in rows], pa.string()),
        "source_index": pa.array([row.source_index for row in rows], pa.int32()),
        "text": pa.array([_storable(row.text) for row in rows], pa.string()),
        "is_valid": pa.array([row.is_valid for row in rows], pa.bool_()),
    }
    if signatures is not None:
        columns["has_signature"] = pa.array([s is not None for s in signatures], pa.bool_())
        for name in dict.fromkeys(name for s in signatures if s is not None for name in s):
            values = [None if s is None else s.get(name) for s in signatures]
            columns[SIGNATURE_PREFIX + name] = pa.array(values)
    schema_metadata = {METADATA_KEY: json.dumps(metadata, ensure_ascii=True).encode()}
    table = pa.table(columns).replace_schema_metadata(schema_metadata)
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_rows(path: Path) -> list[ShardRow]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().select(list(ShardRow._fields))
        columns = [column.to_pylist() for column in table.columns]
    return [ShardRow(*values) for values in zip(*columns, strict=True)]


def read_metadata(path: Path) -> dict[str, Any]:
    """The counts, drops and examples that were stored with a shard."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return json.loads((pa.ipc.open_file(source).schema.metadata or {})[METADATA_KEY])


def read_signatures(path: Path) -> pa.Table:
    """`id`, `source_index`, `has_signature` and the signature's own columns."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().drop_columns(["text", "is_valid"])
    names = [name.removeprefix(SIGNATURE_PREFIX) for name in table.column_names]
    return table.replace_schema_metadata(None).rename_columns(names)


class ImageSpill:
    """Stores images that exist only in memory in a parquet file next to the shard, block by block.

    The file appears when `commit` is called.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored_images: dict[Image, Image] = {}
        self._batch: list[bytes] = []
        self._buffered_bytes = self._rows = 0
        self._open_files = ExitStack()
        self._writer: Any = None

    def store(self, sample: Sample) -> Sample:
        """The sample with references in place of the bytes of its images."""
        if all(image.data is None for image in sample.images):
            return sample
        images = tuple(
            image if image.data is None else self._store_image(image, image.data)
            for image in sample.images
        )
        return replace(sample, images=images)

    def _store_image(self, image: Image, data: bytes) -> Image:
        stored = self._stored_images.get(image)
        if stored is None:
            stored = self._stored_images[image] = Image(path=str(self._path), row=self._rows)
            self._rows += 1
            self._batch.append(data)
            self._buffered_bytes += len(data)
            if len(self._batch) == SPILL_ROWS or self._buffered_bytes >= SPILL_BYTES:
                self._flush()
        return stored

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            path = self._open_files.enter_context(atomic_file(self._path))
            schema = pa.schema([pa.field("image", pa.binary())])
            writer = pq.ParquetWriter(path, schema, compression="none", use_dictionary=False)
            self._writer = self._open_files.enter_context(writer)
        self._writer.write_table(pa.table({"image": pa.array(self._batch, pa.binary())}))
        self._batch, self._buffered_bytes = [], 0
        # The keys hold the image bytes themselves, so repeats are found within a block only.
        self._stored_images = {}

    def commit(self) -> None:
        """Make the file visible; without an image there is none."""
        if self._batch:
            self._flush()
        self._open_files.close()

    def discard(self, error: BaseException) -> None:
        """Remove what was written."""
        self._open_files.__exit__(type(error), error, error.__traceback__)
