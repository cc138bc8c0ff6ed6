"""Medbullets with four options: 308 exam choices for the second and third step of the United States
exam.

Licence: none stated. Revision: resolved at download. Link:
https://huggingface.co/datasets/tuenguyen/Medical-Eval-MedBullets_op4 Which of the two versions a
published table prints is not documented.
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._exams import convert_row
from lingshu.tasks._synthetic import text_choice_samples

TASK = benchmark(
    "medbullets_op4",
    title="Medbullets (four options)",
    repo=HubRepo("tuenguyen/Medical-Eval-MedBullets_op4", ("data/train-*.parquet",)),
    license="none stated",
    unverified_fields=("files",),
    convert_row=convert_row,
    synthetic=text_choice_samples(4),
    expected_n=308,
    published=("textual", "Medbullets"),
)
