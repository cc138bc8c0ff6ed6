"""CMExam, test split: choices of the Chinese licensing exam, some with several right options.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/fzkuji/CMExam The names of the repository's files are not verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import BadRow
from lingshu.sources.hub import Repo
from lingshu.tasks import _several
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices

# The split also comes as a table with annotations, which has the same questions.
FILES = (
    "**/test.json",
    "**/test.jsonl",
    "**/test.csv",
    "**/test.parquet",
    "**/test-*.parquet",
    "**/test_with_annotations.*",
)
_LINE = re.compile(r"^\s*([A-H])[\s.:、．]+(.*)$")


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys Question, Options (a list of {key, value}, or lines "A text"), Answer (letters)."""
    options = raw["Options"]
    if isinstance(options, str):
        options = [
            {"key": found[1], "value": found[2]}
            for line in options.splitlines()
            if (found := _LINE.match(line))
        ]
    gold = str(raw["Answer"] or "").strip().upper()
    if not gold:
        raise BadRow("empty_answer", "the row has no answer.")
    return {
        "question": raw["Question"],
        "choices": {
            option["key"]: option["value"]
            for option in options
            if str(option["value"] or "").strip()
        },
        "gold": gold,
        "several": len(gold) > 1,
        "task": "several" if len(gold) > 1 else "single",
        "subject": raw.get("Medical Discipline"),
    }


TASK = benchmark(
    "cmexam",
    title="CMExam (test)",
    repo=Repo("fzkuji/CMExam", FILES, one=True),
    licence="Apache-2.0",
    unverified=("licence", "files"),
    row=row,
    score=_several.score,
    twin=text_choices(5, language="zh", several=True, task="made up", subject="made up"),
    language="zh",
    by=("task", "subject"),
)
