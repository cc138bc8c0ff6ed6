"""MedXpertQA MM: 2,000 exam choices of five options, each with one to six images.

Licence: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from lingshu.sources.hub import Repo
from lingshu.tasks import _medxpertqa
from lingshu.tasks._medxpertqa import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

TASK = benchmark(
    "medxpertqa_mm",
    title="MedXpertQA MM",
    repo=Repo(_medxpertqa.HUB, ("MM/test.jsonl",), archives=("images.zip",)),
    licence=_medxpertqa.LICENCE,
    row=row,
    twin=pictures(
        "choice", images=3, options=5, task="made up", system="made up", question_type="Reasoning"
    ),
    n=2000,
    by=_medxpertqa.BY,
    published=("multimodal", "MedXpertQA-MM"),
)
