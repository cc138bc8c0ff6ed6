"""MMMU, health and medicine, validation split: 150 questions on images, 30 in each of five
subjects.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU
"""

from __future__ import annotations

from lingshu.tasks import _mmmu
from lingshu.tasks._mmmu import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

TASK = benchmark(
    "mmmu_med_val",
    title="MMMU health and medicine (validation)",
    repo=_mmmu.repo("validation"),
    licence=_mmmu.LICENCE,
    unverified=("licence",),
    row=row,
    twin=pictures("choice", "open", images=2, subject="made up", difficulty="Easy"),
    n=150,
    variants=((1752, "the number of the test split, the task mmmu_med_test"),),
    by=_mmmu.BY,
)
