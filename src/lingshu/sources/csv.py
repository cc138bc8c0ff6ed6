"""Rows of a CSV or TSV table with images in files beside it.

License, revision and link: the user's own; a column may state `license`, `source` and `access`, and
without `access` a row counts as private. The columns have the names of core/rows.py (question,
answer, choices, image, ...), or `columns` says what they are called.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lingshu.core.errors import InputError, one_line, suggest_name
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import RowError, sample_from_row
from lingshu.core.types import Drop, Sample
from lingshu.deidentify.ids import IdDeduplicator, check_kinds, hash_ids, with_ids
from lingshu.sources._image_lookup import find_image, image_names

# A field may hold a whole article; the reader's own limit is 128 KB.
MAX_FIELD = 16 << 20


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, ids: Mapping[str, str] | None = None, images: Path | None = None,
    key: bytes | None = None, delimiter: str | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """The samples of a table in order; images are found below `images` (else beside the table), not
    opened.

    `columns` maps fields of core/rows.py to columns, `{"question": "Q", "image": "file"}`; then no
    other column is read. `ids` maps patient, study, series or article to columns, whose values are
    kept as hashes under `key` alone. A field `images` holds a JSON list of names. Drops: bad_row,
    bad_text, duplicate_id, and those of core/rows.py.

    Raises:
        InputError: no such file or column, one that is there twice, or an option that is none.
    """
    ids, key = dict(ids or {}), check_key(key)
    check_kinds(ids)
    root = (images or path.parent).resolve()
    deduplicate = IdDeduplicator()
    for row_number, row in _rows(
        path, delimiter, [*(columns or {}).values(), *ids.values()], check_all=not columns
    ):
        yield deduplicate(_sample(row, row_number, columns, ids, root, key))


def _rows(
    path: Path, delimiter: str | None, required: list[str], *, check_all: bool
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    try:
        csv.field_size_limit(MAX_FIELD)
        # Bytes that are no UTF-8 are marked and cost their row alone.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(
                file, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ",")
            )
            names = next(reader, None) or []
            missing = next((name for name in required if name not in names), None)
            if missing is not None:
                raise InputError(
                    f"{path} has no column {missing!r}; {suggest_name(missing, names)}"
                )
            # Which of two columns of answers is meant nobody can tell.
            duplicate = next(
                (
                    name
                    for name in names
                    if name and names.count(name) > 1 and (check_all or name in required)
                ),
                None,
            )
            if duplicate is not None:
                raise InputError(
                    f"{path} has the column {duplicate!r} {names.count(duplicate)} times; rename or remove"
                    " all but one."
                )
            yield from _fields(reader, names)
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table ({one_line(error)}); check the file."
        ) from error


def _fields(
    reader: Iterator[list[str]], names: list[str]
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    row_number = 0
    while True:
        row_number += 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (
                row_number,
                Drop(f"row-{row_number}", "bad_row", f"row {row_number}: {one_line(error)}"),
            )
            continue
        if not fields:
            row_number -= 1
        elif len(fields) != len(names):
            yield (
                row_number,
                Drop(
                    f"row-{row_number}",
                    "bad_row",
                    f"row {row_number} has {len(fields)} fields where the head has {len(names)}.",
                ),
            )
        elif any("\udc80" <= c <= "\udcff" for field in fields for c in field):
            yield (
                row_number,
                Drop(
                    f"row-{row_number}",
                    "bad_text",
                    f"row {row_number} is no UTF-8; save the table as UTF-8.",
                ),
            )
        else:
            yield row_number, dict(zip(names, fields, strict=True))


def _sample(
    row: dict[str, str] | Drop,
    row_number: int,
    columns: Mapping[str, str] | None,
    ids: Mapping[str, str],
    root: Path,
    key: bytes,
) -> Sample | Drop:
    if isinstance(row, Drop):
        return row
    # An id must not get through under its own name either.
    id_columns = set(ids.values())
    fields = (
        {f: row[c] for f, c in columns.items()}
        if columns
        else {c: v for c, v in row.items() if c not in id_columns}
    )
    # An empty cell is a cell without a value.
    values: dict[str, object] = {name: value for name, value in fields.items() if value.strip()}
    if "images" in values:
        values["images"] = _parse_list(str(values["images"]))
    try:
        images = [find_image(name, root) for name in image_names(values)]
    except RowError as error:
        return Drop(str(values.get("id") or f"row-{row_number}"), error.reason, error.detail)
    sample = sample_from_row(values, row_number, images)
    if isinstance(sample, Drop):
        return sample
    raw_ids = {kind: row[column] for kind, column in ids.items()}
    return replace(sample, meta=with_ids(sample.meta, hash_ids(raw_ids, key)))


def _parse_list(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return [text]
