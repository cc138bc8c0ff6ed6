"""SLAKE, English and Chinese: questions about radiology images with organ, modality and kind; 836
closed and 1,258 open questions.

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import concatenate, image_samples

convert_row = _slake.make_converter("en", "zh")

TASK = benchmark(
    "slake",
    title="SLAKE, English and Chinese",
    repo=_slake.REPO,
    license=_slake.LICENSE,
    convert_row=convert_row,
    synthetic=concatenate(
        image_samples("yes_no", "closed", "open"),
        image_samples("yes_no", "closed", "open", language="zh"),
    ),
    language=None,
    expected_n=2094,
    facets=_slake.FACETS,
    published=("multimodal", "SLAKE"),
)
