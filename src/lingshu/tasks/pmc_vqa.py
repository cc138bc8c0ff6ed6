"""PMC-VQA, version 2 (test_2.csv): 33,430 choices about non-compound figures of articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA Always saying C is right in 37.8% (a third party's
count: A 13.2, B 35.8, C 37.8, D 13.1%).
"""

from __future__ import annotations

from lingshu.tasks import _pmc_vqa
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._pmc_vqa import convert_row
from lingshu.tasks._synthetic import image_samples

TASK = benchmark(
    "pmc_vqa",
    title="PMC-VQA (test_2)",
    repo=_pmc_vqa.make_repo("test_2.csv", "images_2.zip"),
    license=_pmc_vqa.LICENSE,
    unverified_fields=("license",),
    convert_row=convert_row,
    synthetic=image_samples("choice"),
    expected_n=33430,
    variants=((2000, "the number of test_clean, the task pmc_vqa_clean"),),
    published=("multimodal", "PMC-VQA"),
)
