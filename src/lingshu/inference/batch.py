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

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import Engine, Sample, Sampling
from lingshu.inference.answer import (
    answer_batch,
    answer_to_json,
    build_question_sample,
    egress_warnings,
)
from lingshu.inference.inputs import ModelInput, ViewOptions, load_inputs

_KEYS = {"id", "question", "files", "system"}


@dataclass(frozen=True)
class QuestionRow:
    """One question of a file, or why there is none; without `files` it is about the files of the
    command line.
    """

    id: str
    question: str = ""
    files: tuple[str, ...] | None = None
    system: str | None = None
    error: str | None = None


def answer_file(
    engine_factory: Callable[[], Engine],
    path: Path,
    model_input: ModelInput,
    view_options: ViewOptions,
    sampling: Sampling,
    *,
    system: str | None,
    batch_size: int,
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
    opened_engine: Engine | None = None
    n_failed = 0
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        requests: dict[int, tuple[Sample, ModelInput]] = {}
        results: dict[int, dict[str, Any]] = {}
        for index, row in enumerate(chunk):
            try:
                requests[index] = _build_request(
                    row, index, path, model_input, view_options, system
                )
            except LingshuError as error:
                results[index] = {"error": one_line(error)}
        if requests:
            opened_engine = opened_engine or engine_factory()
            for sample, _ in requests.values():
                for line in egress_warnings(sample, opened_engine.endpoint):
                    print(f"lingshu: warning: {line}", file=sys.stderr)
            chunk_answers = answer_batch(opened_engine, list(requests.values()), sampling)
            for index, answer in zip(requests, chunk_answers, strict=True):
                results[index] = (
                    {"error": one_line(answer)}
                    if isinstance(answer, LingshuError)
                    else answer_to_json(answer)
                )
        for index, row in enumerate(chunk):
            print(json.dumps({"id": row.id, **results[index]}, ensure_ascii=False), flush=True)
        n_failed += sum("error" in answer for answer in results.values())
    print(
        f"{len(rows) - n_failed} of {len(rows)} questions were answered, {n_failed} failed.",
        file=sys.stderr,
    )
    return 1 if n_failed else 0


def _build_request(
    row: QuestionRow,
    index: int,
    path: Path,
    model_input: ModelInput,
    view_options: ViewOptions,
    system: str | None,
) -> tuple[Sample, ModelInput]:
    if row.error is not None:
        raise InputError(row.error)
    row_input = (
        model_input
        if row.files is None
        else load_inputs([path.parent / file for file in row.files], view_options)
    )
    # Numbered: ids of a file may come twice, and those of a hospital may say too much.
    return build_question_sample(
        row.question, row_input, system=row.system or system, sample_id=f"question-{index}"
    ), row_input


def read_questions(path: Path) -> Iterator[QuestionRow]:
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
    is_jsonl = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for line_number, line in enumerate(lines, 1):
        if line.strip():
            yield (
                _parse_row(line, line_number)
                if is_jsonl
                else QuestionRow(str(line_number), line.strip())
            )


def _parse_row(line: str, line_number: int) -> QuestionRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return QuestionRow(str(line_number), error=f"line {line_number} is no valid JSON; mend it.")
    if not _is_encodable(value):
        return QuestionRow(
            str(line_number),
            error=f"line {line_number} holds half a character (a lone surrogate); mend it.",
        )
    problem = _validation_error(value)
    row_id = (
        str(value["id"])
        if isinstance(value, dict) and isinstance(value.get("id"), str | int)
        else str(line_number)
    )
    if problem:
        return QuestionRow(row_id, error=f"line {line_number}: {problem}.")
    files = None if value.get("files") is None else tuple(value["files"])
    return QuestionRow(row_id, value["question"], files, value.get("system"))


def _is_encodable(value: object) -> bool:
    # JSON can spell what no text may hold.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _validation_error(value: object) -> str | None:
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
        isinstance(files, list) and all(isinstance(path, str) for path in files)
    ):
        return "files is no list of paths"
    return None if isinstance(value.get("system"), str | None) else "system is no text"
