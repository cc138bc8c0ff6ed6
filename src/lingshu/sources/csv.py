"""Rows of a CSV or TSV table with images in files beside it.

Licence, revision and link: the user's own; a column may state `licence`, `source` and `access`, and
without `access` a row counts as private. The columns have the names of core/rows.py (question,
answer, choices, image, ...), or `columns` says what they are called.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lingshu.core.errors import InputError, nearest, one_line
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow, sample_from_row
from lingshu.imaging.pseudonyms import check_key
from lingshu.sources._find import find_image, image_names
from lingshu.sources._ids import Once, check_kinds, hashes, with_ids

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
    once = Once()
    for number, row in _rows(
        path, delimiter, [*(columns or {}).values(), *ids.values()], every=not columns
    ):
        yield once(_sample(row, number, columns, ids, root, key))


def _rows(
    path: Path, delimiter: str | None, wanted: list[str], *, every: bool
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    try:
        csv.field_size_limit(MAX_FIELD)
        # Bytes that are no UTF-8 are marked and cost their row alone.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(
                file, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ",")
            )
            names = next(lines, None) or []
            missing = next((name for name in wanted if name not in names), None)
            if missing is not None:
                raise InputError(f"{path} has no column {missing!r}; {nearest(missing, names)}")
            # Which of two columns of answers is meant nobody can tell.
            twice = next(
                (
                    name
                    for name in names
                    if name and names.count(name) > 1 and (every or name in wanted)
                ),
                None,
            )
            if twice is not None:
                raise InputError(
                    f"{path} has the column {twice!r} {names.count(twice)} times; rename or remove"
                    " all but one."
                )
            yield from _fields(lines, names)
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table ({one_line(error)}); check the file."
        ) from error


def _fields(
    lines: Iterator[list[str]], names: list[str]
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    number = 0
    while True:
        number += 1
        try:
            fields = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, Drop(f"row-{number}", "bad_row", f"row {number}: {one_line(error)}")
            continue
        if not fields:
            number -= 1
        elif len(fields) != len(names):
            yield (
                number,
                Drop(
                    f"row-{number}",
                    "bad_row",
                    f"row {number} has {len(fields)} fields where the head has {len(names)}.",
                ),
            )
        elif any("\udc80" <= c <= "\udcff" for field in fields for c in field):
            yield (
                number,
                Drop(
                    f"row-{number}",
                    "bad_text",
                    f"row {number} is no UTF-8; save the table as UTF-8.",
                ),
            )
        else:
            yield number, dict(zip(names, fields, strict=True))


def _sample(
    row: dict[str, str] | Drop,
    number: int,
    columns: Mapping[str, str] | None,
    ids: Mapping[str, str],
    root: Path,
    key: bytes,
) -> Sample | Drop:
    if isinstance(row, Drop):
        return row
    # An id must not get through under its own name either.
    hidden = set(ids.values())
    fields = (
        {f: row[c] for f, c in columns.items()}
        if columns
        else {c: v for c, v in row.items() if c not in hidden}
    )
    # An empty cell is a cell without a value.
    known: dict[str, object] = {name: value for name, value in fields.items() if value.strip()}
    if "images" in known:
        known["images"] = _list(str(known["images"]))
    try:
        images = [find_image(name, root) for name in image_names(known)]
    except BadRow as bad:
        return Drop(str(known.get("id") or f"row-{number}"), bad.reason, bad.detail)
    sample = sample_from_row(known, number, images)
    if isinstance(sample, Drop):
        return sample
    raw = {kind: row[column] for kind, column in ids.items()}
    return replace(sample, meta=with_ids(sample.meta, hashes(raw, key)))


def _list(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return [text]
