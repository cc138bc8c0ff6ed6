"""MedXpertQA Text: 2,450 exam choices of ten options.

Licence: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from lingshu.sources.hub import Repo
from lingshu.tasks import _medxpertqa
from lingshu.tasks._medxpertqa import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices

TASK = benchmark(
    "medxpertqa_text",
    title="MedXpertQA Text",
    repo=Repo(_medxpertqa.HUB, ("Text/test.jsonl",)),
    licence=_medxpertqa.LICENCE,
    row=row,
    twin=text_choices(10, task="made up", system="made up", question_type="Reasoning"),
    n=2450,
    variants=((2500, "a count that the paper uses in its totals only"),),
    by=_medxpertqa.BY,
    published=("textual", "MedXpertQA-Text"),
)
