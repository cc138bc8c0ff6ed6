"""MedMCQA, validation split: 4,183 choices of four from Indian entrance exams; the labels of its
test split are hidden.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openlifescienceai/medmcqa
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import Repo
from lingshu.tasks._shared import benchmark, letter
from lingshu.tasks._twins import text_choices


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns id, question, opa ... opd, cop (a position from 0, -1 where hidden),
    subject_name.
    """
    return {
        "id": raw["id"],
        "question": raw["question"],
        "choices": [raw[f"op{name}"] for name in "abcd"],
        "gold": letter(raw["cop"], 4),
        "subject": raw.get("subject_name"),
    }


TASK = benchmark(
    "medmcqa",
    title="MedMCQA (validation)",
    repo=Repo("openlifescienceai/medmcqa", ("data/validation-*.parquet",)),
    licence="Apache-2.0",
    unverified=("licence",),
    row=row,
    twin=text_choices(4, subject="made up"),
    n=4183,
    by=("subject",),
    published=("textual", "MedMCQA"),
)
