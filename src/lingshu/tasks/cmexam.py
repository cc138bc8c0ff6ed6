"""CMExam, test split: choices of the Chinese licensing exam, some with several right options.

License: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/fzkuji/CMExam

The names of the repository's files are not verified.
"""

import re

from lingshu.core.rows import RowError
from lingshu.scoring import multi_choice
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, text_choice_samples

# The split also comes as a table with annotations, which has the same questions.
FILES = (
    "**/test.json", "**/test.jsonl", "**/test.csv", "**/test.parquet", "**/test-*.parquet",
    "**/test_with_annotations.*",
)  # fmt: skip
_OPTION_LINE = re.compile(r"^\s*([A-H])[\s.:、．]+(.*)$")


def convert_row(raw: Row) -> Row:
    """Options is a list of {key, value}, or lines "A text"; Answer has letters."""
    options = raw["Options"]
    if isinstance(options, str):
        matches = map(_OPTION_LINE.match, options.splitlines())
        options = [{"key": match[1], "value": match[2]} for match in matches if match]
    gold = str(raw["Answer"] or "").strip().upper()
    if not gold:
        raise RowError("empty_answer: the row has no answer.")
    return {
        "question": raw["Question"],
        "choices": {o["key"]: o["value"] for o in options if str(o["value"] or "").strip()},
        "gold": gold,
        "multi_choice": len(gold) > 1,
        "task": "multi_choice" if len(gold) > 1 else "single",
        "subject": raw.get("Medical Discipline"),
    }


TASK = benchmark(
    "cmexam", title="CMExam (test)", license="Apache-2.0", unverified=("license", "files"),
    repo=HubRepo("fzkuji/CMExam", FILES, single_table=True), convert_row=convert_row,
    score=multi_choice.score, language="zh", facets=("task", "subject"),
    synthetic=text_choice_samples(5, language="zh", multi_choice=True, task="made up", subject="made up"),
)  # fmt: skip
