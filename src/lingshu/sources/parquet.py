"""Rows of parquet shards with the images inside: a DATASET folder, or any such parquet files.

License, revision and link: a DATASET states them by row; elsewhere they are the user's own, and a
row without an `access` column counts as private. Columns: `image` or `images` (binary, {bytes,
path}, or a list of either), `question` or `messages`, and what else core/rows.py knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.artifacts import DATASET_CARD, open_dataset, read_dataset
from lingshu.core.errors import InputError
from lingshu.core.rows import sample_from_row
from lingshu.core.types import Drop, Image, Sample
from lingshu.deidentify.ids import IdDeduplicator
from lingshu.imaging.read import image_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 256  # images of a batch may have to be read only to be counted


def read(path: Path) -> Iterator[Sample | Drop]:
    """The samples of a DATASET folder, of a folder of parquet files (or `data/`), or of one file.

    Images stay in the shards; each sample refers to its row.

    Raises:
        ArtifactError: a damaged DATASET folder.
        InputError: no parquet file, or one that cannot be read.
    """
    if (path / DATASET_CARD).is_file():
        open_dataset(path)
        yield from read_dataset(path)
        return
    deduplicate = IdDeduplicator()
    for file in _files(path):
        for row_number, (row, images) in enumerate(rows(file), 1):
            fields = {**row, "id": row.get("id") or f"{file.stem}-{row_number}"}
            yield deduplicate(sample_from_row(fields, row_number, images))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if not found:
        remedy = "give a folder of .parquet files, or one such file"
        raise InputError(f"{path} holds no parquet file; {remedy}.")
    return found


def rows(path: Path) -> Iterator[tuple[dict[str, Any], list[Image]]]:
    """Every row of one parquet file without its image columns, and references to its images.

    Raises:
        InputError: the file cannot be read as parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        images = image_columns(names)
        # Only the paths in a column of {bytes, path} are read, to count the images.
        leaves = [leaf for column in images for leaf in _leaves(file, column)]
        columns = [name for name in names if name not in images] + leaves
        shard_row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            counts = [_image_counts(batch.column(column)) for column in images]
            values = batch.drop_columns(list(images)) if images else batch
            for row, row_counts in zip(
                values.to_pylist(), _transposed(counts, len(batch)), strict=True
            ):
                indices = _image_indices(row_counts)
                yield row, [Image(path=str(path), row=shard_row, index=i) for i in indices]
                shard_row += 1
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        message = f"{path} cannot be read as parquet ({reason}); write the file again."
        raise InputError(message) from error


def _transposed(columns: list[list[int]], n_rows: int) -> Iterator[tuple[int, ...]]:
    return zip(*columns, strict=True) if columns else iter([()] * n_rows)


def _image_indices(counts: tuple[int, ...]) -> list[int]:
    """The indices of a row's images: within its only image column, or of its image columns."""
    if len(counts) == 1:
        return list(range(counts[0]))
    return [index for index, count in enumerate(counts) if count]


def _leaves(file: pq.ParquetFile, column: str) -> list[str]:
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [p for p in paths if p.startswith(f"{column}.") and p.endswith(".path")] or [column]


def _image_counts(images: pa.Array) -> list[int]:
    import pyarrow.types as kinds

    if kinds.is_list(images.type) or kinds.is_large_list(images.type):
        return [len(cell) if cell is not None else 0 for cell in images.to_pylist()]
    return [int(is_valid) for is_valid in images.is_valid().to_pylist()]
