"""MMMU, its five subjects of health and medicine, in two splits.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU

The labels of the test split are in answer_dict_test.json of the same repository. Test questions by
subject: basic medical science 326, clinical medicine 325, diagnostics and laboratory medicine 162,
pharmacy 430, public health 509.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lingshu.core.files import read_json
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.sources.hub import HubRepo
from lingshu.tasks import BenchmarkSource, Row, benchmark, image_samples, read_samples

VARIANTS = {
    "mmmu_med_test": "MMMU, health and medicine, test split: 1,752 questions on images in five"
    " subjects, 1,712 choices and 40 open ones.",
    "mmmu_med_val": "MMMU, health and medicine, validation split: 150 questions on images, 30 in"
    " each of five subjects.",
}
SUBJECTS = (
    "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy", "Public_Health",
)  # fmt: skip
ANSWER_FILE = "answer_dict_test.json"


def convert_row(raw: Row) -> Row:
    """The columns id, question, options (a list as text), answer, question_type, topic_difficulty;
    images image_1 ... image_7.

    An open question may have a list of accepted answers. "?" is a hidden label.
    """
    if raw["answer"] == "?":
        raise RowError(f"hidden_label: the label is hidden; it is in {ANSWER_FILE}.")
    fields = {
        "id": raw["id"],
        "question": raw["question"],
        "subject": re.sub(r"^[a-z]+_|_\d+$", "", str(raw["id"])),
        "difficulty": raw.get("topic_difficulty"),
    }
    if raw["question_type"] == "open":
        return {**fields, "gold": _parse_list(raw["answer"]), "kind": "open"}
    return {**fields, "choices": _parse_list(raw["options"]), "gold": raw["answer"]}


def _parse_list(value: object) -> object:
    """A Python list that a table holds as text; never evaluated as code."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RowError("bad_choices: the options are not a list.") from error


def convert_test_row(answers: Mapping[str, Any], raw: Row) -> Row:
    """A test row with its label from the answer file: id -> {"ground_truth", "question_type"}."""
    label = answers.get(str(raw["id"]))
    if not label:
        return convert_row(raw)
    question_type = label.get("question_type", raw["question_type"])
    return convert_row({**raw, "answer": label["ground_truth"], "question_type": question_type})


def read_test_split(source: BenchmarkSource) -> Iterator[Sample | Drop]:
    """The samples of the test split.

    Raises:
        InputError: the answer file is missing.
    """
    answers = read_json(source.auxiliary_file(ANSWER_FILE))
    yield from read_samples(source, partial(convert_test_row, answers))


def _repo(split: str, *extra: str) -> HubRepo:
    files = tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS)
    return HubRepo("MMMU/MMMU", files, extra=extra)


_SHARED: Any = {
    "license": "Apache-2.0",
    "unverified": ("license",),
    "facets": ("kind", "subject", "difficulty"),
    "synthetic": image_samples("choice", "open", n_images=2, subject="made up", difficulty="Easy"),
}
TASKS = {
    "mmmu_med_test": benchmark(
        "mmmu_med_test", title="MMMU health and medicine (test)", repo=_repo("test", ANSWER_FILE),
        reader=read_test_split, expected_n=1752,
        known_counts=((1927, "a count that the paper uses in its totals only"),
                      (150, "the number of the validation split, the task mmmu_med_val")),
        published=("multimodal", "MMMU-Med"), **_SHARED,
    ),
    "mmmu_med_val": benchmark(
        "mmmu_med_val", title="MMMU health and medicine (validation)", repo=_repo("validation"),
        convert_row=convert_row, expected_n=150,
        known_counts=((1752, "the number of the test split, the task mmmu_med_test"),), **_SHARED,
    ),
}  # fmt: skip
