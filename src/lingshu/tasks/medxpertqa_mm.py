"""MedXpertQA MM: 2,000 exam choices of five options, each with one to six images.

Licence: MIT. Revision: resolved at download. Link:
https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks import _medxpertqa
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._medxpertqa import convert_row
from lingshu.tasks._synthetic import image_samples

TASK = benchmark(
    "medxpertqa_mm",
    title="MedXpertQA MM",
    repo=HubRepo(_medxpertqa.HUB_ID, ("MM/test.jsonl",), archives=("images.zip",)),
    license=_medxpertqa.LICENSE,
    convert_row=convert_row,
    synthetic=image_samples(
        "choice",
        n_images=3,
        n_options=5,
        task="made up",
        system="made up",
        question_type="Reasoning",
    ),
    expected_n=2000,
    facets=_medxpertqa.FACETS,
    published=("multimodal", "MedXpertQA-MM"),
)
