"""MMMU, health and medicine, test split: 1,752 questions on images in five subjects, 1,712 choices
and 40 open ones.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU Subjects: basic medical science 326, clinical medicine
325, diagnostics and laboratory medicine 162, pharmacy 430, public health 509.
"""

from __future__ import annotations

from lingshu.tasks import _mmmu
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

TASK = benchmark(
    "mmmu_med_test",
    title="MMMU health and medicine (test)",
    repo=_mmmu.repo("test"),
    licence=_mmmu.LICENCE,
    unverified=("licence",),
    reader=_mmmu.with_answers,
    twin=pictures("choice", "open", images=2, subject="made up", difficulty="Easy"),
    n=1752,
    variants=(
        (1927, "a count that the paper uses in its totals only"),
        (150, "the number of the validation split, the task mmmu_med_val"),
    ),
    by=_mmmu.BY,
    published=("multimodal", "MMMU-Med"),
)
