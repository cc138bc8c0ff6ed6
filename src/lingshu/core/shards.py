"""The shards of a DATASET: their columns, samples as rows and back, and a writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.memory import release_freed_memory
from lingshu.core.messages import message_from_json, message_to_json
from lingshu.core.types import Image, Meta, Sample

if TYPE_CHECKING:
    import pyarrow as pa

# Small row groups: reading one image must not decode a complete shard.
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 16 << 20
TEXT_COLUMNS = ("source", "license", "access", "agreement", "modality", "language", "kind", "group")


def dataset_schema() -> pa.Schema:
    """The columns of a shard; the metadata makes `datasets` decode the image column."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, Any] = {
        name: {"dtype": "string", "_type": "Value"}
        for name in ("id", "messages", "gold", "choices", "extra", *TEXT_COLUMNS)
    }
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["image_count"] = {"dtype": "int32", "_type": "Value"}
    features["deidentified"] = {"dtype": "bool", "_type": "Value"}
    columns = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("images", pa.list_(image)),
        pa.field("image_count", pa.int32()),
        pa.field("gold", pa.string()),
        pa.field("choices", pa.string()),
        *(pa.field(name, pa.string()) for name in TEXT_COLUMNS),
        pa.field("deidentified", pa.bool_()),
        pa.field("extra", pa.string()),
    ]
    return pa.schema(
        columns, metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )


def sample_to_row(sample: Sample, images: Sequence[bytes]) -> dict[str, Any]:
    """One shard row; `images` are the encoded files of the sample's images, in their order."""
    meta = sample.meta
    return {
        "id": sample.id,
        "messages": json.dumps([message_to_json(m) for m in sample.messages], ensure_ascii=False),
        "images": [{"bytes": data, "path": None} for data in images],
        "image_count": len(images),
        "gold": None if sample.gold is None else json.dumps(sample.gold, ensure_ascii=False),
        "choices": json.dumps(sample.choices, ensure_ascii=False),
        **{name: getattr(meta, name) for name in TEXT_COLUMNS},
        "deidentified": meta.deidentified,
        "extra": json.dumps(dict(meta.extra), ensure_ascii=False),
    }


def row_to_sample(row: Mapping[str, Any], shard: Path, row_index: int) -> Sample:
    """The sample of row `row_index` of a shard; its images are references into the shard."""
    texts = {name: row[name] for name in TEXT_COLUMNS if row[name] is not None}
    return Sample(
        id=row["id"],
        messages=tuple(message_from_json(m) for m in json.loads(row["messages"])),
        images=tuple(
            Image(path=str(shard), row=row_index, index=i) for i in range(row["image_count"])
        ),
        gold=None if row["gold"] is None else tuple(json.loads(row["gold"])),
        choices=tuple(json.loads(row["choices"])),
        meta=Meta(**texts, deidentified=row["deidentified"], extra=json.loads(row["extra"])),
    )


class ShardWriter:
    """Writes one shard row by row with one row group in memory; equal rows give equal bytes.

    Images are neither compressed nor deduplicated: encoded files gain nothing from it.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        texts = [name for name in dataset_schema().names if name != "images"]
        compression = {name: "snappy" for name in texts} | {
            "images.list.element.bytes": "none",
            "images.list.element.path": "snappy",
        }
        self._writer = pq.ParquetWriter(
            path,
            dataset_schema(),
            use_dictionary=texts,  # pyright: ignore[reportArgumentType]
            compression=compression,  # type: ignore[arg-type]
        )
        self._buffer: list[dict[str, Any]] = []
        self._buffered_bytes = 0

    def add(self, sample: Sample, images: Sequence[bytes]) -> None:
        """Add a sample with the encoded files of its images."""
        self._buffer.append(sample_to_row(sample, images))
        self._buffered_bytes += sum(map(len, images))
        if len(self._buffer) == ROW_GROUP_ROWS or self._buffered_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._buffer:
            schema = dataset_schema()
            images = _image_column(schema, [row.pop("images") for row in self._buffer])
            table = pa.Table.from_pylist(self._buffer, schema).set_column(*images)
            # the table has its own copy, and the writer makes another
            self._buffer, self._buffered_bytes = [], 0
            self._writer.write_table(table)
            del table
            release_freed_memory()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _image_column(
    schema: pa.Schema, rows: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[int, pa.Field, pa.Array]:
    """Index, field and values of the images of some rows, built without Arrow's conversion of
    lists, which doubles its memory repeatedly.
    """
    import numpy as np
    import pyarrow as pa

    column_index = schema.get_field_index("images")
    field = schema.field(column_index)
    files = [image["bytes"] for images in rows for image in images]
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int32)
    encoded = pa.Array.from_buffers(
        pa.binary(), len(files), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(files))]
    )
    items = pa.StructArray.from_arrays(
        [encoded, pa.nulls(len(files), pa.string())], fields=list(field.type.value_type)
    )
    counts = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return column_index, field, pa.ListArray.from_arrays(pa.array(counts), items, type=field.type)


def shard_name(index: int) -> str:
    """The path of a shard in a DATASET folder."""
    return f"data/part-{index:05d}.parquet"
