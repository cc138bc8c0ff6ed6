"""SuperGPQA, discipline Medicine: 2,755 graduate-level choices of up to ten.

License: ODC-BY (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/m-a-p/SuperGPQA
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import text_choice_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys uuid, question, options (texts), answer_letter, discipline, field, difficulty; other
    disciplines are dropped.
    """
    if raw["discipline"] != "Medicine":
        raise RowError("other_discipline", f"the row belongs to {raw['discipline']!r}.")
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
    repo=HubRepo("m-a-p/SuperGPQA", ("SuperGPQA-all.jsonl",)),
    license="ODC-BY-1.0",
    unverified=("license",),
    convert_row=convert_row,
    synthetic=text_choice_samples(10, field="made up", difficulty="middle"),
    expected_n=2755,
    facets=("field", "difficulty"),
    published=("textual", "SuperGPQA-Med"),
)
