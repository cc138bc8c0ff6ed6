"""CMExam, test split: choices of the Chinese licensing exam, some with several right options.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/fzkuji/CMExam The names of the repository's files are not verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import RowError
from lingshu.scoring import multi_choice
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import text_choice_samples

# The split also comes as a table with annotations, which has the same questions.
FILES = (
    "**/test.json",
    "**/test.jsonl",
    "**/test.csv",
    "**/test.parquet",
    "**/test-*.parquet",
    "**/test_with_annotations.*",
)
_OPTION_LINE = re.compile(r"^\s*([A-H])[\s.:、．]+(.*)$")


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys Question, Options (a list of {key, value}, or lines "A text"), Answer (letters)."""
    options = raw["Options"]
    if isinstance(options, str):
        options = [
            {"key": match[1], "value": match[2]}
            for line in options.splitlines()
            if (match := _OPTION_LINE.match(line))
        ]
    gold = str(raw["Answer"] or "").strip().upper()
    if not gold:
        raise RowError("empty_answer", "the row has no answer.")
    return {
        "question": raw["Question"],
        "choices": {
            option["key"]: option["value"]
            for option in options
            if str(option["value"] or "").strip()
        },
        "gold": gold,
        "multi_choice": len(gold) > 1,
        "task": "multi_choice" if len(gold) > 1 else "single",
        "subject": raw.get("Medical Discipline"),
    }


TASK = benchmark(
    "cmexam",
    title="CMExam (test)",
    repo=HubRepo("fzkuji/CMExam", FILES, single_table=True),
    license="Apache-2.0",
    unverified=("license", "files"),
    convert_row=convert_row,
    score=multi_choice.score,
    synthetic=text_choice_samples(
        5, language="zh", multi_choice=True, task="made up", subject="made up"
    ),
    language="zh",
    facets=("task", "subject"),
)
