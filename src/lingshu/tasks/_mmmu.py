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
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks import _benchmark

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
LICENSE = "Apache-2.0"
ANSWER_FILE = "answer_dict_test.json"
FACETS = ("kind", "subject", "difficulty")


def make_repo(split: str) -> HubRepo:
    return HubRepo(
        "MMMU/MMMU",
        tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS),
        extra=(ANSWER_FILE,) if split == "test" else (),
    )


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns id, question, options (a list as text), answer, question_type, topic_difficulty;
    images image_1 ... image_7.

    An open question may have a list of accepted answers. "?" is a label that is kept back.
    """
    if raw["answer"] == "?":
        raise RowError("hidden_label", f"the label is kept back; {ANSWER_FILE} has it.")
    subject = re.sub(r"^[a-z]+_|_\d+$", "", str(raw["id"]))
    fields = {
        "id": raw["id"],
        "question": raw["question"],
        "subject": subject,
        "difficulty": raw.get("topic_difficulty"),
    }
    if raw["question_type"] == "open":
        return {**fields, "gold": _parse_literal(raw["answer"]), "kind": "open"}
    return {**fields, "choices": _parse_literal(raw["options"]), "gold": raw["answer"]}


def _parse_literal(value: object) -> object:
    """A Python list that a table holds as text; never evaluated as code."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RowError("bad_choices", "the options are no list.") from error


def with_label(answers: Mapping[str, Any], raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question row of a test row, with its label from the answer file: id -> {"ground_truth",
    "question_type"}.
    """
    label = answers.get(str(raw["id"]))
    return convert_row(
        {
            **raw,
            "answer": label["ground_truth"],
            "question_type": label.get("question_type", raw["question_type"]),
        }
        if label
        else raw
    )


def read_with_answers(
    defaults: _benchmark.SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo
) -> Iterator[Sample | Drop]:
    """The samples of the test split.

    Raises:
        InputError: the answer file is not beside the rows.
    """
    answers = read_json(_benchmark.auxiliary_file(defaults, repo, local_repo, ANSWER_FILE))
    yield from _benchmark.read_samples(
        defaults, repo, local_repo, convert_row=partial(with_label, answers)
    )
