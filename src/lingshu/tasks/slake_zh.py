"""SLAKE, Chinese: questions about radiology images with organ, modality and kind; the Chinese half
(1,033 = 2,094 - 1,061, not verified).

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

row = _slake.row_in("zh")

TASK = benchmark(
    "slake_zh",
    title="SLAKE, Chinese",
    repo=_slake.REPO,
    licence=_slake.LICENCE,
    row=row,
    twin=pictures("yes_no", "closed", "open", language="zh"),
    language="zh",
    n=1033,
    unverified=("n",),
    by=_slake.BY,
)
