"""Medbullets with five options: 308 exam choices for the second and third step of the United States
exam.

Licence: none stated. Revision: resolved at download. Link:
https://huggingface.co/datasets/LangAGI-Lab/medbullets_op5 Which of the two versions a published
table prints is not documented.
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._exams import convert_row
from lingshu.tasks._synthetic import text_choice_samples

TASK = benchmark(
    "medbullets_op5",
    title="Medbullets (five options)",
    repo=HubRepo("LangAGI-Lab/medbullets_op5", ("data/*.parquet",)),
    license="none stated",
    unverified_fields=("files",),
    convert_row=convert_row,
    synthetic=text_choice_samples(5),
    expected_n=308,
    published=("textual", "Medbullets"),
)
