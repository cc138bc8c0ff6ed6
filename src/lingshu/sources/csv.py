"""Rows of a CSV or TSV table with images in separate files.

License, revision and link: the user's own; a column may state `license`, `source` and `access`, and
without `access` a row counts as private. The columns have the names of core/rows.py (question,
answer, choices, image, ...), or `columns` maps them.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO, cast

from lingshu.core.errors import InputError, one_line, suggest_name
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import RowError, json_or_text, sample_from_row
from lingshu.core.types import Drop, Sample
from lingshu.deidentify.ids import IdDeduplicator, check_kinds, hash_ids, with_ids
from lingshu.sources._image_lookup import find_images

# A field may hold a whole article; the csv module's own limit is 128 KB.
MAX_FIELD = 16 << 20


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    ids: Mapping[str, str] | None = None,
    images: Path | None = None,
    key: bytes | None = None,
    delimiter: str | None = None,
) -> Iterator[Sample | Drop]:
    """The samples of a table in order; images are below `images` (default: its folder), not opened.

    `columns` maps fields of core/rows.py to columns, `{"question": "Q", "image": "file"}`; then no
    other column is read. `ids` maps patient, study, series or article to columns, whose values are
    kept only as hashes under `key`. A field `images` holds a JSON list of names. Drops: bad_row,
    bad_text, duplicate_id, and those of core/rows.py.

    Raises:
        InputError: no such file or column, a column that occurs twice, or a wrong option.
    """
    ids, key = dict(ids or {}), check_key(key)
    check_kinds(ids)
    root = (images or path.parent).resolve()
    deduplicate = IdDeduplicator()
    for row_number, row in _rows(path, delimiter, columns, ids):
        if isinstance(row, Drop):
            yield row
        else:
            yield deduplicate(_sample(row, row_number, columns, ids, root, key))


@contextmanager
def open_table(path: Path, *, errors: str = "surrogateescape") -> Iterator[TextIO]:
    """A table, also gzipped, for the csv module; by default bytes that are not UTF-8 are marked.

    Raises:
        InputError: the table cannot be read.
    """
    csv.field_size_limit(MAX_FIELD)
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="") as file:
            yield cast(TextIO, file)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save the table as UTF-8.") from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path} cannot be read as a table ({reason}); check the file.") from error


def check_columns(
    path: Path, names: Sequence[str], required: Sequence[str], unique: Sequence[str]
) -> None:
    """Raise InputError if a required column is missing, or one of `unique` occurs twice."""
    for column in required:
        if column not in names:
            raise InputError(f"{path} has no column {column!r}; {suggest_name(column, names)}")
    for column in unique:
        if names.count(column) > 1:
            problem = f"has the column {column!r} {names.count(column)} times"
            raise InputError(f"{path} {problem}; rename or remove all but one.")


def _rows(
    path: Path, delimiter: str | None, columns: Mapping[str, str] | None, ids: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    row_number = 0

    def drop(reason: str, problem: str) -> tuple[int, Drop]:
        return row_number, Drop(f"row-{row_number}", reason, f"row {row_number}{problem}")

    with open_table(path) as file:
        reader = csv.reader(file, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ","))
        names = next(reader, None) or []
        required = [*(columns or {}).values(), *ids.values()]
        # Two columns of one name would be ambiguous.
        check_columns(path, names, required, required if columns else [n for n in names if n])
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row_number += 1
                yield drop("bad_row", f": {one_line(error)}")
                continue
            row_number += bool(fields)
            if not fields:
                continue
            if len(fields) != len(names):
                problem = f" has {len(fields)} fields where the header has {len(names)}."
                yield drop("bad_row", problem)
            elif any("\udc80" <= c <= "\udcff" for field in fields for c in field):
                yield drop("bad_text", " is not UTF-8; save the table as UTF-8.")
            else:
                yield row_number, dict(zip(names, fields, strict=True))


def _sample(
    row: Mapping[str, str],
    row_number: int,
    columns: Mapping[str, str] | None,
    ids: Mapping[str, str],
    root: Path,
    key: bytes,
) -> Sample | Drop:
    if columns:
        fields = {name: row[column] for name, column in columns.items()}
    else:
        # An id must not be carried under its own column either.
        id_columns = set(ids.values())
        fields = {name: value for name, value in row.items() if name not in id_columns}
    values: dict[str, object] = {name: value for name, value in fields.items() if value.strip()}
    if "images" in values:
        values["images"] = json_or_text(str(values["images"]))
    try:
        images = find_images(values, root)
    except RowError as error:
        return error.to_drop(str(values.get("id") or f"row-{row_number}"))
    sample = sample_from_row(values, row_number, images)
    if isinstance(sample, Drop):
        return sample
    raw_ids = {kind: row[column] for kind, column in ids.items()}
    return replace(sample, meta=with_ids(sample.meta, hash_ids(raw_ids, key)))
