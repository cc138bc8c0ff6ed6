"""Rows of a JSONL file with images in separate files.

License, revision and link: the user's own; a row may state `license`, `source` and `access`, and
without `access` it counts as private. The folder holds `rows.jsonl` and the files that its rows
name in `image` or `images`, relative to it. core/rows.py says what a row may hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.core.rows import RowError, sample_from_row
from lingshu.core.types import Drop, Sample
from lingshu.deidentify.ids import IdDeduplicator
from lingshu.sources._image_lookup import find_images

ROWS_FILE = "rows.jsonl"


def find_rows_file(path: Path) -> Path:
    """The JSONL file of a folder, or the file itself.

    Raises:
        InputError: there is none.
    """
    file = path / ROWS_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a folder with {ROWS_FILE} or a .jsonl file.")
    return file


def read(path: Path) -> Iterator[Sample | Drop]:
    """The samples of a folder with rows.jsonl or of a .jsonl file; images are not opened.

    A row that cannot be used becomes a Drop with one of the reasons bad_json, no_question,
    bad_messages, bad_choices, bad_answer, empty_answer, answer_not_in_choices, bad_access,
    bad_deidentified, bad_image, missing_image, image_outside_folder, duplicate_id.

    Raises:
        InputError: no such file, or it cannot be read.
    """
    file = find_rows_file(path)
    root, deduplicate = file.parent.resolve(), IdDeduplicator()
    try:
        with file.open("rb") as lines:
            for line_number, line in enumerate(lines, 1):
                if line.strip():
                    sample = _read_line(line, line_number, root)
                    yield deduplicate(sample, f"line {line_number}: ")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check the file.") from error


def _read_line(line: bytes, line_number: int, root: Path) -> Sample | Drop:
    name, problem = f"row-{line_number}", "not a JSON object"
    row = None
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():
            # Half a surrogate pair is a string that no file can hold.
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        row, problem = None, type(error).__name__
    if not isinstance(row, dict):
        return Drop(name, "bad_json", f"line {line_number}: {problem}")
    try:
        images = find_images(row, root)
    except RowError as error:
        return error.to_drop(str(row.get("id") or name))
    return sample_from_row(row, line_number, images)
