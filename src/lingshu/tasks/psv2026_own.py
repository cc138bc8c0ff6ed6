"""A test set of your own in the layout of PSV2026, as `lingshu synthesise psv2026_test` writes it:
rubrics for a judge.

Licence: that of the rows. Revision: the digest of the rows. Link:
https://huggingface.co/datasets/ASD9987/PSV2026 (the layout)
"""

from __future__ import annotations

from lingshu.tasks._psv2026 import psv2026, row

__all__ = ["TASK", "row"]

TASK = psv2026(
    "psv2026_own",
    title="A set of one's own, in the layout of PSV2026",
    licence="that of the rows",
    n=None,
)
