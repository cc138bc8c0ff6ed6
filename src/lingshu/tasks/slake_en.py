"""SLAKE, English: questions about radiology images with organ, modality and kind; the English half
(1,061, a number that is not verified).

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

row = _slake.row_in("en")

TASK = benchmark(
    "slake_en",
    title="SLAKE, English",
    repo=_slake.REPO,
    licence=_slake.LICENCE,
    row=row,
    twin=pictures("yes_no", "closed", "open"),
    language="en",
    n=1061,
    unverified=("n",),
    by=_slake.BY,
)
