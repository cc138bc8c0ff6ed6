"""MedQA-USMLE: 1,273 choices of four in the style of the United States licensing exam.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options
"""

from __future__ import annotations

from lingshu.sources.hub import Repo
from lingshu.tasks._exams import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices

TASK = benchmark(
    "medqa_usmle",
    title="MedQA (USMLE, four options)",
    repo=Repo("GBaker/MedQA-USMLE-4-options", ("phrases_no_exclude_test.jsonl",)),
    licence="MIT",
    unverified=("licence",),
    row=row,
    twin=text_choices(4),
    n=1273,
    published=("textual", "MedQA-USMLE"),
)
