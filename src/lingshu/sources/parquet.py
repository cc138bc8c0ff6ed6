"""Rows of parquet shards with the images inside: a DATASET folder, or any parquet files with
questions and images.

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
from lingshu.imaging.read import image_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# A block of rows whose images may have to be read only to be counted.
BATCH_ROWS = 256


def read(path: Path) -> Iterator[Sample | Drop]:
    """The samples of a DATASET folder, of the parquet files in a folder (or its `data/`), or of one
    parquet file.

    Images stay in the shards; each sample refers to its row.

    Raises:
        ArtefactError: a damaged DATASET folder.
        InputError: no parquet file, or one that cannot be read.
    """
    if (path / DATASET_CARD).is_file():
        open_dataset(path)
        yield from read_dataset(path)
        return
    seen_ids: set[str] = set()
    for file in _files(path):
        for result in _read_file(file):
            if isinstance(result, Sample):
                if result.id in seen_ids:
                    result = Drop(result.id, "duplicate_id", "an earlier row has this id.")
                else:
                    seen_ids.add(result.id)
            yield result


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if not found:
        raise InputError(
            f"{path} holds no parquet file; give a folder of .parquet files, or one such file."
        )
    return found


def _read_file(path: Path) -> Iterator[Sample | Drop]:
    for row_number, (row, images) in enumerate(rows(path), 1):
        yield sample_from_row(
            {**row, "id": row.get("id") or f"{path.stem}-{row_number}"}, row_number, images
        )


def rows(path: Path) -> Iterator[tuple[dict[str, Any], list[Image]]]:
    """Every row of one parquet file as plain values, without its image columns, and references to
    its images.

    Raises:
        InputError: the file cannot be read as parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        image_column_names = image_columns(file.schema_arrow.names)
        # Of a column of {bytes, path} the paths alone are read: they tell how many images there
        # are.
        leaves = [leaf for column in image_column_names for leaf in _leaves(file, column)]
        columns = [
            name for name in file.schema_arrow.names if name not in image_column_names
        ] + leaves
        shard_row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            counts = [_image_counts(batch.column(column)) for column in image_column_names]
            values_batch = (
                batch.drop_columns(list(image_column_names)) if image_column_names else batch
            )
            for row_index, row in enumerate(values_batch.to_pylist()):
                yield (
                    row,
                    [
                        Image(path=str(path), row=shard_row, index=i)
                        for i in _image_indices([count[row_index] for count in counts])
                    ],
                )
                shard_row += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as parquet ({str(error).splitlines()[0]}); write the file anew."
        ) from error


def _image_indices(counts: list[int]) -> list[int]:
    """The indexes of a row's images: items of its one column, or those of several columns that hold
    one.
    """
    return (
        list(range(counts[0]))
        if len(counts) == 1
        else [index for index, count in enumerate(counts) if count]
    )


def _leaves(file: pq.ParquetFile, column: str) -> list[str]:
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [p for p in paths if p.startswith(f"{column}.") and p.endswith(".path")] or [column]


def _image_counts(images: pa.Array) -> list[int]:
    import pyarrow.types as kinds

    if kinds.is_list(images.type) or kinds.is_large_list(images.type):
        return [len(cell) if cell is not None else 0 for cell in images.to_pylist()]
    return [int(is_valid) for is_valid in images.is_valid().to_pylist()]
