"""MedXpertQA Text: 2,450 exam choices of ten options.

Licence: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks import _medxpertqa
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._medxpertqa import convert_row
from lingshu.tasks._synthetic import text_choice_samples

TASK = benchmark(
    "medxpertqa_text",
    title="MedXpertQA Text",
    repo=HubRepo(_medxpertqa.HUB_ID, ("Text/test.jsonl",)),
    license=_medxpertqa.LICENSE,
    convert_row=convert_row,
    synthetic=text_choice_samples(10, task="made up", system="made up", question_type="Reasoning"),
    expected_n=2450,
    variants=((2500, "a count that the paper uses in its totals only"),),
    facets=_medxpertqa.FACETS,
    published=("textual", "MedXpertQA-Text"),
)
