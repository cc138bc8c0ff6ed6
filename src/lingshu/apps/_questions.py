"""Several questions from a file, answered one JSON line each; a row that cannot be asked is an
error in its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.apps._answering import answer_json, answers, concerns, question_sample
from lingshu.apps._looking import Looked, View, look
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.nouns import Engine, Sample, Sampling

_KEYS = {"id", "question", "files", "system"}


@dataclass(frozen=True)
class Row:
    """One question of a file, or why there is none; without `files` it is about the files of the
    command line.
    """

    id: str
    question: str = ""
    files: tuple[str, ...] | None = None
    system: str | None = None
    error: str | None = None


def ask_file(
    engine: Callable[[], Engine],
    path: Path,
    looked: Looked,
    view: View,
    sampling: Sampling,
    *,
    system: str | None,
    batch: int,
) -> int:
    """Print an answer, or an error, for each question of a file in its order; 1 where one was not
    answered, else 0.

    Raises:
        InputError: the file cannot be read or holds no question. EngineError, ReleaseError: the
            engine failed or refuses.
    """
    rows = list(read_questions(path))
    if not rows:
        raise InputError(
            f"{path} holds no question; write one a line, or JSONL with the key question."
        )
    opened: Engine | None = None
    failed = 0
    for start in range(0, len(rows), batch):
        several = rows[start : start + batch]
        asked: dict[int, tuple[Sample, Looked]] = {}
        told: dict[int, dict[str, Any]] = {}
        for place, row in enumerate(several):
            try:
                asked[place] = _ask(row, place, path, looked, view, system)
            except LingshuError as error:
                told[place] = {"error": one_line(error)}
        if asked:
            opened = opened or engine()
            for sample, _ in asked.values():
                for line in concerns(sample, opened.endpoint):
                    print(f"lingshu: warning: {line}", file=sys.stderr)
            found = answers(opened, list(asked.values()), sampling)
            for place, one in zip(asked, found, strict=True):
                told[place] = (
                    {"error": one_line(one)} if isinstance(one, LingshuError) else answer_json(one)
                )
        for place, row in enumerate(several):
            print(json.dumps({"id": row.id, **told[place]}, ensure_ascii=False), flush=True)
        failed += sum("error" in one for one in told.values())
    print(
        f"{len(rows) - failed} of {len(rows)} questions were answered, {failed} failed.",
        file=sys.stderr,
    )
    return 1 if failed else 0


def _ask(
    row: Row, place: int, path: Path, looked: Looked, view: View, system: str | None
) -> tuple[Sample, Looked]:
    if row.error is not None:
        raise InputError(row.error)
    seen = looked if row.files is None else look([path.parent / file for file in row.files], view)
    # Numbered: ids of a file may come twice, and those of a hospital may say too much.
    return question_sample(
        row.question, seen, system=row.system or system, sample_id=f"question-{place}"
    ), seen


def read_questions(path: Path) -> Iterator[Row]:
    """The questions of a file: JSON objects a line where its first line starts with a brace, else
    plain lines; ids count lines.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(
            f"the file of questions cannot be read ({reason}); check the path."
        ) from None
    objects = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(line, number) if objects else Row(str(number), line.strip())


def _row(line: str, number: int) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Row(str(number), error=f"line {number} is no valid JSON; mend it.")
    if not _encodable(value):
        return Row(
            str(number), error=f"line {number} holds half a character (a lone surrogate); mend it."
        )
    problem = _problem(value)
    name = (
        str(value["id"])
        if isinstance(value, dict) and isinstance(value.get("id"), str | int)
        else str(number)
    )
    if problem:
        return Row(name, error=f"line {number}: {problem}.")
    files = None if value.get("files") is None else tuple(value["files"])
    return Row(name, value["question"], files, value.get("system"))


def _encodable(value: object) -> bool:
    # JSON can spell what no text may hold.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "no JSON object"
    unknown = next((str(key) for key in value if key not in _KEYS), None)
    if unknown is not None:
        return f"unknown key {unknown!r:.40}; use {', '.join(sorted(_KEYS))}"
    if not isinstance(value.get("question"), str) or not value["question"].strip():
        return "question is missing or empty"
    if value.get("id") is not None and not isinstance(value["id"], str | int):
        return "id is neither a text nor a number"
    files = value.get("files")
    if files is not None and not (
        isinstance(files, list) and all(isinstance(one, str) for one in files)
    ):
        return "files is no list of paths"
    return None if isinstance(value.get("system"), str | None) else "system is no text"
