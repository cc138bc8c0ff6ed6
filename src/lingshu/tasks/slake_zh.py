"""SLAKE, Chinese: questions about radiology images with organ, modality and kind; the Chinese half
(1,033 = 2,094 - 1,061, not verified).

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples

convert_row = _slake.make_converter("zh")

TASK = benchmark(
    "slake_zh",
    title="SLAKE, Chinese",
    repo=_slake.REPO,
    license=_slake.LICENSE,
    convert_row=convert_row,
    synthetic=image_samples("yes_no", "closed", "open", language="zh"),
    language="zh",
    expected_n=1033,
    unverified_fields=("expected_n",),
    facets=_slake.FACETS,
)
