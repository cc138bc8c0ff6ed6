"""Medbullets with four options: 308 exam choices for the second and third step of the United States
exam.

Licence: none stated. Revision: resolved at download. Link:
https://huggingface.co/datasets/tuenguyen/Medical-Eval-MedBullets_op4 Which of the two versions a
published table prints is not documented.
"""

from __future__ import annotations

from lingshu.sources.hub import Repo
from lingshu.tasks._exams import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices

TASK = benchmark(
    "medbullets_op4",
    title="Medbullets (four options)",
    repo=Repo("tuenguyen/Medical-Eval-MedBullets_op4", ("data/train-*.parquet",)),
    licence="none stated",
    unverified=("files",),
    row=row,
    twin=text_choices(4),
    n=308,
    published=("textual", "Medbullets"),
)
