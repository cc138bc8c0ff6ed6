"""PMC-VQA, the split checked by people (test_clean.csv): 2,000 choices about figures of articles.

Licence: CC BY-SA (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/RadGenome/PMC-VQA
"""

from __future__ import annotations

from lingshu.tasks import _pmc_vqa
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._pmc_vqa import convert_text_row as convert_row
from lingshu.tasks._synthetic import image_samples

TASK = benchmark(
    "pmc_vqa_clean",
    title="PMC-VQA (test_clean)",
    repo=_pmc_vqa.make_repo("test_clean.csv", "images.zip"),
    license=_pmc_vqa.LICENSE,
    unverified_fields=("license", "columns"),
    convert_row=convert_row,
    synthetic=image_samples("choice"),
    expected_n=2000,
    variants=((33430, "the number of test_2, the task pmc_vqa"),),
)
