"""MedQA-MCMLE: choices of the Chinese licensing exam; the options are shown with their letters.

Licence: not stated. Revision: resolved at download. Link:
https://huggingface.co/datasets/shuyuej/MedQA-MCMLE-Benchmark Only files of a test split are read;
what they are called is not verified. The number is not verified (the test split that MedQA itself
states for mainland China has 3,426).
"""

from __future__ import annotations

from lingshu.sources.hub import Repo
from lingshu.tasks._exams import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import text_choices

TASK = benchmark(
    "medqa_mcmle",
    title="MedQA (MCMLE)",
    repo=Repo(
        "shuyuej/MedQA-MCMLE-Benchmark",
        tuple(
            f"**/{name}.{kind}"
            for kind in ("jsonl", "json", "parquet")
            for name in ("test*", "*[-_]test*", "test/*")
        ),
        one=True,
    ),
    licence="not stated",
    unverified=("licence", "files"),
    row=row,
    twin=text_choices(4, language="zh"),
    language="zh",
)
