"""MMMU, health and medicine, validation split: 150 questions on images, 30 in each of five
subjects.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU
"""

from __future__ import annotations

from lingshu.tasks import _mmmu
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._mmmu import convert_row
from lingshu.tasks._synthetic import image_samples

TASK = benchmark(
    "mmmu_med_val",
    title="MMMU health and medicine (validation)",
    repo=_mmmu.make_repo("validation"),
    license=_mmmu.LICENSE,
    unverified_fields=("license",),
    convert_row=convert_row,
    synthetic=image_samples("choice", "open", n_images=2, subject="made up", difficulty="Easy"),
    expected_n=150,
    variants=((1752, "the number of the test split, the task mmmu_med_test"),),
    facets=_mmmu.FACETS,
)
