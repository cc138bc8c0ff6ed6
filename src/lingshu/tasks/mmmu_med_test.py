"""MMMU, health and medicine, test split: 1,752 questions on images in five subjects, 1,712 choices
and 40 open ones.

Licence: Apache-2.0 (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/MMMU/MMMU Subjects: basic medical science 326, clinical medicine
325, diagnostics and laboratory medicine 162, pharmacy 430, public health 509.
"""

from __future__ import annotations

from lingshu.tasks import _mmmu
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples

TASK = benchmark(
    "mmmu_med_test",
    title="MMMU health and medicine (test)",
    repo=_mmmu.make_repo("test"),
    license=_mmmu.LICENSE,
    unverified_fields=("license",),
    reader=_mmmu.read_with_answers,
    synthetic=image_samples("choice", "open", n_images=2, subject="made up", difficulty="Easy"),
    expected_n=1752,
    variants=(
        (1927, "a count that the paper uses in its totals only"),
        (150, "the number of the validation split, the task mmmu_med_val"),
    ),
    facets=_mmmu.FACETS,
    published=("multimodal", "MMMU-Med"),
)
