"""CMB-Exam, test split: choices of Chinese medical exams, some with several right options.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/FreedomIntelligence/CMB The hub has the questions alone. Their
answers are data/CMB-test-choice-answer.json of https://github.com/FreedomIntelligence/CMB: put both
into DIR/cmb and pass --data DIR. The number of questions (11,200 by several accounts) is not
verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow
from lingshu.sources import hub
from lingshu.sources.hub import Repo
from lingshu.tasks import _several
from lingshu.tasks._exams import filled
from lingshu.tasks._shared import About, benchmark, beside, read
from lingshu.tasks._twins import text_choices

ANSWERS = "CMB-test-choice-answer.json"


def row(answers: Mapping[str, str], raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys id, question, option {letter: text}, question_type, exam_type, exam_class; `answers`
    has id -> letters.
    """
    gold = answers.get(str(raw["id"]))
    if not gold:
        raise BadRow("hidden_label", f"{ANSWERS} has no answer for it.")
    return {
        "id": f"cmb-{raw['id']}",
        "question": raw["question"],
        "choices": filled(raw["option"]),
        "gold": gold,
        "several": raw.get("question_type") == "多项选择题" or len(gold) > 1,
        "task": raw.get("question_type"),
        "subject": raw.get("exam_type"),
    }


def reader(about: About, repo: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """The questions, each with its answer."""
    told = hub.objects(beside(about, repo, place, ANSWERS))
    answers = {
        str(one["id"]): str(one["answer"])
        for one in told
        if one.get("id") is not None and one.get("answer") is not None
    }
    yield from read(about, repo, place, row=partial(row, answers))


TASK = benchmark(
    "cmb",
    title="CMB-Exam (test)",
    repo=Repo(
        "FreedomIntelligence/CMB",
        ("**/CMB-test-choice-question-merge.json",),
        extra=(f"**/{ANSWERS}",),
    ),
    licence="Apache-2.0",
    reader=reader,
    score=_several.score,
    twin=text_choices(5, language="zh", several=True, task="made up", subject="made up"),
    language="zh",
    n=11200,
    unverified=("n", "licence"),
    by=("task", "subject"),
)
