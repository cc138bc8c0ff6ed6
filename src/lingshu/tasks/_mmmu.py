"""MMMU, its five subjects of health and medicine, in two splits.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU The labels of the test split lie in answer_dict_test.json
of the same repository.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lingshu.core.files import read_json
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow
from lingshu.sources import hub
from lingshu.sources.hub import Repo
from lingshu.tasks import _shared

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
LICENCE = "Apache-2.0"
ANSWERS = "answer_dict_test.json"
BY = ("kind", "subject", "difficulty")


def repo(split: str) -> Repo:
    return Repo(
        "MMMU/MMMU",
        tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS),
        extra=(ANSWERS,) if split == "test" else (),
    )


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns id, question, options (a list as text), answer, question_type, topic_difficulty;
    images image_1 ... image_7.

    An open question may have a list of accepted answers. "?" is a label that is kept back.
    """
    if raw["answer"] == "?":
        raise BadRow("hidden_label", f"the label is kept back; {ANSWERS} has it.")
    subject = re.sub(r"^[a-z]+_|_\d+$", "", str(raw["id"]))
    found = {
        "id": raw["id"],
        "question": raw["question"],
        "subject": subject,
        "difficulty": raw.get("topic_difficulty"),
    }
    if raw["question_type"] == "open":
        return {**found, "gold": _literal(raw["answer"]), "kind": "open"}
    return {**found, "choices": _literal(raw["options"]), "gold": raw["answer"]}


def _literal(value: object) -> object:
    """A Python list that a table holds as text; never evaluated as code."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadRow("bad_choices", "the options are no list.") from error


def labelled(answers: Mapping[str, Any], raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question row of a test row, with its label from the answer file: id -> {"ground_truth",
    "question_type"}.
    """
    known = answers.get(str(raw["id"]))
    return row(
        {
            **raw,
            "answer": known["ground_truth"],
            "question_type": known.get("question_type", raw["question_type"]),
        }
        if known
        else raw
    )


def with_answers(about: _shared.About, source: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """The samples of the test split.

    Raises:
        InputError: the answer file is not beside the rows.
    """
    answers = read_json(_shared.beside(about, source, place, ANSWERS))
    yield from _shared.read(about, source, place, row=partial(labelled, answers))
