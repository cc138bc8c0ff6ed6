"""SLAKE, English and Chinese: questions about radiology images with organ, modality and kind; 836
closed and 1,258 open questions.

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/BoKelvin/SLAKE
"""

from __future__ import annotations

from lingshu.tasks import _slake
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import joined, pictures

row = _slake.row_in("en", "zh")

TASK = benchmark(
    "slake",
    title="SLAKE, English and Chinese",
    repo=_slake.REPO,
    licence=_slake.LICENCE,
    row=row,
    twin=joined(
        pictures("yes_no", "closed", "open"), pictures("yes_no", "closed", "open", language="zh")
    ),
    language=None,
    n=2094,
    by=_slake.BY,
    published=("multimodal", "SLAKE"),
)
