"""Questions of a file, answered in batches; a row that cannot be used gives an error in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import Engine, Sample, Sampling
from lingshu.evaluate.calibration import Threshold
from lingshu.inference.answer import (
    answer_batch,
    answer_to_json,
    build_question_sample,
    egress_warnings,
)
from lingshu.inference.inputs import ModelInput, ViewOptions, load_inputs

_KEYS = {"id", "question", "files", "system"}


@dataclass(frozen=True)
class BatchConfig:
    """How the questions of a file are answered; rows without `files` are about `model_input`."""

    open_engine: Callable[[], Engine]
    model_input: ModelInput
    view: ViewOptions
    sampling: Sampling
    system: str | None
    batch_size: int
    threshold: Threshold | None = None


@dataclass(frozen=True)
class QuestionRow:
    """A question of a file, or the error of its row."""

    id: str
    question: str = ""
    files: tuple[str, ...] | None = None
    system: str | None = None
    error: str | None = None


def answer_file(
    path: Path, config: BatchConfig, *, on_warnings: Callable[[list[str]], None]
) -> Iterator[dict[str, Any]]:
    """Yield {id, answer, ...} or {id, error} for each question of a file, in its order.

    The engine is opened for the first row that can be used.

    Raises:
        InputError: the file cannot be read or has no question.
        EngineError, DataPolicyError: the engine failed, or the images may not go to its address.
    """
    rows = list(read_questions(path))
    if not rows:
        raise InputError(
            f"{path} holds no question; write one per line, or JSONL with the key question."
        )
    engine: Engine | None = None
    for start in range(0, len(rows), config.batch_size):
        chunk = rows[start : start + config.batch_size]
        requests: dict[int, tuple[Sample, ModelInput]] = {}
        results: dict[int, dict[str, Any]] = {}
        for index, row in enumerate(chunk):
            try:
                requests[index] = _build_request(row, index, path, config)
            except LingshuError as error:
                results[index] = {"error": one_line(error)}
        if requests:
            engine = engine or config.open_engine()
            for sample, _ in requests.values():
                on_warnings(egress_warnings(sample, engine.endpoint))
            answers = answer_batch(
                engine, list(requests.values()), config.sampling, threshold=config.threshold
            )
            for index, answer in zip(requests, answers, strict=True):
                results[index] = (
                    {"error": one_line(answer)}
                    if isinstance(answer, LingshuError)
                    else answer_to_json(answer)
                )
        yield from ({"id": row.id, **results[index]} for index, row in enumerate(chunk))


def _build_request(
    row: QuestionRow, index: int, path: Path, config: BatchConfig
) -> tuple[Sample, ModelInput]:
    if row.error is not None:
        raise InputError(row.error)
    model_input = config.model_input
    if row.files is not None:
        model_input = load_inputs([path.parent / file for file in row.files], config.view)
    # Numbered: ids of a file may occur twice, and those of a hospital may identify a patient.
    sample_id, system = f"question-{index}", row.system or config.system
    sample = build_question_sample(row.question, model_input, system=system, sample_id=sample_id)
    return sample, model_input


def read_questions(path: Path) -> Iterator[QuestionRow]:
    """The questions of a file: JSONL if its first line starts with a brace, else plain lines.

    A row without `id` is numbered by its line.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            f"the file of questions cannot be read ({reason}); check the path."
        ) from None
    is_jsonl = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for line_number, line in enumerate(lines, 1):
        if line.strip() and is_jsonl:
            yield _parse_row(line, line_number)
        elif line.strip():
            yield QuestionRow(str(line_number), line.strip())


def _parse_row(line: str, line_number: int) -> QuestionRow:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        is_surrogate = isinstance(error, UnicodeEncodeError)
        problem = "holds half of a surrogate pair" if is_surrogate else "is not valid JSON"
        return QuestionRow(str(line_number), error=f"line {line_number} {problem}; fix it.")
    row_id = row.get("id") if isinstance(row, dict) else None
    row_id = str(row_id if isinstance(row_id, str | int) else line_number)
    if problem := _validation_error(row):
        return QuestionRow(row_id, error=f"line {line_number}: {problem}.")
    files = None if row.get("files") is None else tuple(row["files"])
    return QuestionRow(row_id, row["question"], files, row.get("system"))


def _validation_error(row: object) -> str | None:
    if not isinstance(row, Mapping):
        return "not a JSON object"
    unknown = next((str(key) for key in row if key not in _KEYS), None)
    if unknown is not None:
        return f"unknown key {unknown!r:.40}; use {', '.join(sorted(_KEYS))}"
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        return "question is missing or empty"
    if row.get("id") is not None and not isinstance(row["id"], str | int):
        return "id is neither a text nor a number"
    files = row.get("files")
    if files is not None and not (
        isinstance(files, list) and all(isinstance(path, str) for path in files)
    ):
        return "files is not a list of paths"
    return None if isinstance(row.get("system"), str | None) else "system is not a text"
