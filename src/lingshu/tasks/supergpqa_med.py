"""SuperGPQA, discipline Medicine: 2,755 graduate-level choices of up to ten.

Licence: ODC-BY (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/m-a-p/SuperGPQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import BadRow
from lingshu.sources.hub import Repo
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys uuid, question, options (texts), answer_letter, discipline, field, difficulty; other
    disciplines are dropped.
    """
    if raw["discipline"] != "Medicine":
        raise BadRow("other_discipline", f"the row belongs to {raw['discipline']!r}.")
    return {
        "id": raw["uuid"],
        "question": raw["question"],
        "choices": raw["options"],
        "gold": raw["answer_letter"],
        "field": raw["field"],
        "difficulty": raw["difficulty"],
    }


TASK = benchmark(
    "supergpqa_med",
    title="SuperGPQA, medicine",
    repo=Repo("m-a-p/SuperGPQA", ("SuperGPQA-all.jsonl",)),
    licence="ODC-BY-1.0",
    unverified=("licence",),
    row=row,
    twin=text_choices(10, field="made up", difficulty="middle"),
    n=2755,
    by=("field", "difficulty"),
    published=("textual", "SuperGPQA-Med"),
)
