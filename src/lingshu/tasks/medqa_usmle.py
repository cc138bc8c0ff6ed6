"""MedQA-USMLE: 1,273 choices of four in the style of the United States licensing exam.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._exams import convert_row
from lingshu.tasks._synthetic import text_choice_samples

TASK = benchmark(
    "medqa_usmle",
    title="MedQA (USMLE, four options)",
    repo=HubRepo("GBaker/MedQA-USMLE-4-options", ("phrases_no_exclude_test.jsonl",)),
    license="MIT",
    unverified_fields=("license",),
    convert_row=convert_row,
    synthetic=text_choice_samples(4),
    expected_n=1273,
    published=("textual", "MedQA-USMLE"),
)
