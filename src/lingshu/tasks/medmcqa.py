"""MedMCQA, validation split: 4,183 choices of four from Indian entrance exams; the labels of its
test split are hidden.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openlifescienceai/medmcqa
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark, letter_at
from lingshu.tasks._synthetic import text_choice_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns id, question, opa ... opd, cop (a position from 0, -1 where hidden),
    subject_name.
    """
    return {
        "id": raw["id"],
        "question": raw["question"],
        "choices": [raw[f"op{name}"] for name in "abcd"],
        "gold": letter_at(raw["cop"], 4),
        "subject": raw.get("subject_name"),
    }


TASK = benchmark(
    "medmcqa",
    title="MedMCQA (validation)",
    repo=HubRepo("openlifescienceai/medmcqa", ("data/validation-*.parquet",)),
    license="Apache-2.0",
    unverified=("license",),
    convert_row=convert_row,
    synthetic=text_choice_samples(4, subject="made up"),
    expected_n=4183,
    facets=("subject",),
    published=("textual", "MedMCQA"),
)
