"""Rows of a JSONL file with images in files beside it.

Licence, revision and link: the user's own; a row may state `licence`, `source` and `access` for
itself, and without `access` it counts as private. The folder holds `rows.jsonl` and the files that
its rows name in `image` or `images`, relative to it. core/rows.py says what a row may hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow, sample_from_row
from lingshu.sources._find import find_image, image_names

ROWS = "rows.jsonl"


def rows_file(path: Path) -> Path:
    """The JSONL file meant by a folder or a file.

    Raises:
        InputError: there is none.
    """
    found = path / ROWS if path.is_dir() else path
    if not found.is_file():
        raise InputError(f"{found} does not exist; give a folder with {ROWS} or a .jsonl file.")
    return found


def read(path: Path) -> Iterator[Sample | Drop]:
    """The samples of `path`, a folder with rows.jsonl or a .jsonl file, in order; images are found,
    not opened.

    A row that cannot be used becomes a Drop with one of the reasons bad_json, no_question,
    bad_messages, bad_choices, bad_answer, empty_answer, answer_not_in_choices, bad_access,
    bad_deidentified, bad_image, missing_image, image_outside_folder, duplicate_id.

    Raises:
        InputError: no such file, or it cannot be read.
    """
    file = rows_file(path)
    root = file.parent.resolve()
    seen: set[str] = set()
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                result = _read_line(line, number, root)
                if isinstance(result, Sample):
                    if result.id in seen:
                        result = Drop(
                            result.id, "duplicate_id", f"line {number}: an earlier row has this id."
                        )
                    else:
                        seen.add(result.id)
                yield result
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check the file.") from error


def _read_line(line: bytes, number: int, root: Path) -> Sample | Drop:
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():
            # half a surrogate pair is a string that no file can hold
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Drop(f"row-{number}", "bad_json", f"line {number}: {type(error).__name__}")
    if not isinstance(row, dict):
        return Drop(f"row-{number}", "bad_json", f"line {number}: no JSON object")
    try:
        images = [find_image(name, root) for name in image_names(row)]
    except BadRow as bad:
        return Drop(str(row.get("id") or f"row-{number}"), bad.reason, bad.detail)
    return sample_from_row(row, number, images)
