"""CMB-Exam, test split: choices of Chinese medical exams, some with several right options.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/FreedomIntelligence/CMB

The hub has the questions alone. Their answers are data/CMB-test-choice-answer.json of
https://github.com/FreedomIntelligence/CMB: put both into DIR/cmb and pass --data DIR. The number of
questions (11,200 by several accounts) is not verified.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.scoring import multi_choice
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks import (
    BenchmarkSource,
    Row,
    benchmark,
    non_empty_options,
    read_samples,
    text_choice_samples,
)

QUESTION_FILE, ANSWER_FILE = "CMB-test-choice-question-merge.json", "CMB-test-choice-answer.json"


def convert_row(answers: Mapping[str, str], raw: Row) -> Row:
    """A question with options {letter: text}; `answers` maps its id to letters."""
    gold = answers.get(str(raw["id"]))
    if not gold:
        raise RowError(f"hidden_label: {ANSWER_FILE} has no answer for it.")
    return {
        "id": f"cmb-{raw['id']}",
        "question": raw["question"],
        "choices": non_empty_options(raw["option"]),
        "gold": gold,
        "multi_choice": raw.get("question_type") == "多项选择题" or len(gold) > 1,
        "task": raw.get("question_type"),
        "subject": raw.get("exam_type"),
    }


def reader(source: BenchmarkSource) -> Iterator[Sample | Drop]:
    """The questions, each with its answer."""
    answers = {
        str(entry["id"]): str(entry["answer"])
        for entry in hub.read_json_records(source.auxiliary_file(ANSWER_FILE))
        if entry.get("id") is not None and entry.get("answer") is not None
    }
    yield from read_samples(source, partial(convert_row, answers))


TASK = benchmark(
    "cmb", title="CMB-Exam (test)", license="Apache-2.0", unverified=("expected_n", "license"),
    repo=HubRepo("FreedomIntelligence/CMB", (f"**/{QUESTION_FILE}",), extra=(f"**/{ANSWER_FILE}",)),
    reader=reader, score=multi_choice.score, language="zh", expected_n=11200,
    synthetic=text_choice_samples(5, language="zh", multi_choice=True, task="made up", subject="made up"),
    facets=("task", "subject"),
)  # fmt: skip
