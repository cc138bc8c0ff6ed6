"""SLAKE, English: questions about radiology images with organ, modality and kind; the English half
(1,061, a number that is not verified).

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import image_samples

convert_row = _slake.make_converter("en")

TASK = benchmark(
    "slake_en",
    title="SLAKE, English",
    repo=_slake.REPO,
    license=_slake.LICENSE,
    convert_row=convert_row,
    synthetic=image_samples("yes_no", "closed", "open"),
    language="en",
    expected_n=1061,
    unverified_fields=("expected_n",),
    facets=_slake.FACETS,
)
