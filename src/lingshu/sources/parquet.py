"""Rows of parquet shards with the images inside: a DATASET folder, or any parquet files with questions and images.

Licence, revision and link: a DATASET states them by row; elsewhere they are the user's own, and a row without an
`access` column counts as private. Columns: `image` or `images` (binary, {bytes, path}, or a list of either), `question`
or `messages`, and what else core/rows.py knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.artefacts import DATASET_CARD, open_dataset, read_dataset
from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Image, Sample
from lingshu.core.rows import sample_from_row
from lingshu.imaging.read import image_column

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# A block of rows whose images may have to be read only to be counted.
BATCH_ROWS = 256


def read(path: Path) -> Iterator[Sample | Drop]:
    """The samples of a DATASET folder, of the parquet files in a folder (or its `data/`), or of one parquet file.

    Images stay in the shards; each sample refers to its row.

    Raises:
        ArtefactError: a damaged DATASET folder.
        InputError: no parquet file, or one that cannot be read.
    """
    if (path / DATASET_CARD).is_file():
        open_dataset(path)
        yield from read_dataset(path)
        return
    seen: set[str] = set()
    for file in _files(path):
        for result in _read_file(file):
            if isinstance(result, Sample):
                if result.id in seen:
                    result = Drop(result.id, "duplicate_id", "an earlier row has this id.")
                else:
                    seen.add(result.id)
            yield result


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if not found:
        raise InputError(f"{path} holds no parquet file; give a folder of .parquet files, or one such file.")
    return found


def _read_file(path: Path) -> Iterator[Sample | Drop]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        column = image_column(file.schema_arrow.names)
        # Of a column of {bytes, path} the paths alone are read: they tell how many images there are.
        leaves = [] if column is None else _leaves(file, column)
        columns = [name for name in file.schema_arrow.names if name != column] + leaves
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            counts = [0] * batch.num_rows if column is None else _counts(batch.column(column))
            plain = batch.drop_columns([column]) if column else batch
            for row, images in zip(plain.to_pylist(), counts, strict=True):
                refs = [Image(path=str(path), row=number, index=i) for i in range(images)]
                number += 1
                row.setdefault("id", None)
                yield sample_from_row({**row, "id": row["id"] or f"{path.stem}-{number}"}, number, refs)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet ({str(error).splitlines()[0]}); write the file anew.") from error


def _leaves(file: pq.ParquetFile, column: str) -> list[str]:
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [p for p in paths if p.startswith(f"{column}.") and p.endswith(".path")] or [column]


def _counts(images: pa.Array) -> list[int]:
    import pyarrow.types as kinds

    if kinds.is_list(images.type) or kinds.is_large_list(images.type):
        return [len(cell) if cell is not None else 0 for cell in images.to_pylist()]
    return [int(valid) for valid in images.is_valid().to_pylist()]
