"""CMMLU, seven medical subjects of its test split: Chinese choices of four.

License: CC BY-NC 4.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/haonan-li/cmmlu The repository is a script with an archive of
tables; the tables are read here without the script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import text_choice_samples

SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_medicine",
    "genetics",
    "nutrition",
    "traditional_chinese_medicine",
    "virology",
)


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns Question, A, B, C, D, Answer of test/<subject>.csv."""
    return {
        "question": raw["Question"],
        "choices": [raw[name] for name in "ABCD"],
        "gold": raw["Answer"],
        "subject": str(raw["_file"]).rsplit("/", 1)[-1].removesuffix(".csv"),
    }


TASK = benchmark(
    "cmmlu_med",
    title="CMMLU medical (seven subjects)",
    repo=HubRepo(
        "haonan-li/cmmlu",
        tuple(f"test/{subject}.csv" for subject in SUBJECTS),
        archives=("cmmlu*.zip",),
    ),
    license="CC-BY-NC-4.0",
    unverified=("license",),
    convert_row=convert_row,
    synthetic=text_choice_samples(4, language="zh", subject="made up"),
    language="zh",
    facets=("subject",),
)
