"""The shards that pass between the workers: samples as JSON in Arrow files, their images by
reference, facts in the schema.

A shard is one file that appears whole or not at all; what its making counted stands in the file
itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
# json.dumps would make one for every sample
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ShardRow(NamedTuple):
    """A sample on its way: the number of its source, the sample as JSON, and whether each of its
    images was decoded.
    """

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
    *,
    signatures: Sequence[Signature | None] | None = None,
) -> None:
    """Write a shard. With `signatures`, one for each row, None where the step does not concern the
    row.

    Raises:
        StorageError: the disk refused.
    """
    import pyarrow as pa

    # Half a surrogate pair has no UTF-8 form; in the JSON it may stand as its escape, in an id it
    # may not.
    columns: dict[str, Any] = {
        "id": pa.array([_storable(row.id) for row in rows], pa.string()),
        "source_index": pa.array([row.source_index for row in rows], pa.int32()),
        "text": pa.array([_storable(row.text) for row in rows], pa.string()),
        "is_valid": pa.array([row.is_valid for row in rows], pa.bool_()),
    }
    if signatures is not None:
        columns["has_signature"] = pa.array([s is not None for s in signatures], pa.bool_())
        names = dict.fromkeys(name for s in signatures if s is not None for name in s)
        for name in names:
            columns[SIGNATURE_PREFIX + name] = pa.array(
                [None if s is None else s.get(name) for s in signatures]
            )
    table = pa.table(columns).replace_schema_metadata(
        {METADATA_KEY: json.dumps(metadata, ensure_ascii=True).encode()}
    )
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
        table = (
            pa.ipc.open_file(source).read_all().select(["id", "source_index", "text", "is_valid"])
        )
        return [
            ShardRow(*values)
            for values in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ]


def read_metadata(path: Path) -> dict[str, Any]:
    """What the making of a shard counted."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return json.loads((pa.ipc.open_file(source).schema.metadata or {})[METADATA_KEY])


def read_signatures(path: Path) -> pa.Table:
    """The columns `id`, `source_index`, `has_signature` and those of the signature, under their own names."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().drop_columns(["text", "is_valid"])
    return table.replace_schema_metadata(None).rename_columns(
        [name.removeprefix(SIGNATURE_PREFIX) for name in table.column_names]
    )


class ImageSpill:
    """Where images that have no place on a disk are put: a parquet file beside the shard, written
    block by block.

    `keep(sample)` returns the sample with references in place of its bytes. The file appears when
    `commit` is called.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored_images: dict[Image, Image] = {}
        self._batch: list[bytes] = []
        self._buffered_bytes = self._rows = 0
        self._atomic: Any = None
        self._writer: Any = None

    def store(self, sample: Sample) -> Sample:
        if all(image.data is None for image in sample.images):
            return sample
        return replace(
            sample,
            images=tuple(
                image if image.data is None else self._store_image(image, image.data)
                for image in sample.images
            ),
        )

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
            self._atomic = atomic_file(self._path)
            schema = pa.schema([pa.field("image", pa.binary())])
            self._writer = pq.ParquetWriter(
                self._atomic.__enter__(), schema, compression="none", use_dictionary=False
            )
        self._writer.write_table(pa.table({"image": pa.array(self._batch, pa.binary())}))
        self._batch, self._buffered_bytes = [], 0
        # The keys of what was found hold the bytes themselves: a repeat is looked for inside a
        # block only.
        self._stored_images = {}

    def commit(self) -> None:
        """Let the file appear; without an image there is none."""
        if self._batch:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            self._atomic.__exit__(None, None, None)
            self._writer = None

    def discard(self, error: BaseException) -> None:
        """Remove what was written."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            finally:
                self._atomic.__exit__(type(error), error, error.__traceback__)
