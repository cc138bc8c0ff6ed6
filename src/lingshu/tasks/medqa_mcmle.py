"""MedQA-MCMLE: choices of the Chinese licensing exam; the options are shown with their letters.

Licence: not stated. Revision: resolved at download. Link:
https://huggingface.co/datasets/shuyuej/MedQA-MCMLE-Benchmark Only files of a test split are read;
what they are called is not verified. The number is not verified (the test split that MedQA itself
states for mainland China has 3,426).
"""

from __future__ import annotations

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._exams import convert_row
from lingshu.tasks._synthetic import text_choice_samples

TASK = benchmark(
    "medqa_mcmle",
    title="MedQA (MCMLE)",
    repo=HubRepo(
        "shuyuej/MedQA-MCMLE-Benchmark",
        tuple(
            f"**/{name}.{kind}"
            for kind in ("jsonl", "json", "parquet")
            for name in ("test*", "*[-_]test*", "test/*")
        ),
        single_table=True,
    ),
    license="not stated",
    unverified_fields=("license", "files"),
    convert_row=convert_row,
    synthetic=text_choice_samples(4, language="zh"),
    language="zh",
)
