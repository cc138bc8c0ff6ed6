"""PMC-VQA, the split checked by people (test_clean.csv): 2,000 choices about figures of articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA
"""

from __future__ import annotations

from lingshu.tasks import _pmc_vqa
from lingshu.tasks._pmc_vqa import row_with_text as row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

TASK = benchmark(
    "pmc_vqa_clean",
    title="PMC-VQA (test_clean)",
    repo=_pmc_vqa.repo("test_clean.csv", "images.zip"),
    licence=_pmc_vqa.LICENCE,
    unverified=("licence", "columns"),
    row=row,
    twin=pictures("choice"),
    n=2000,
    variants=((33430, "the number of test_2, the task pmc_vqa"),),
)
