"""A test set of your own in the layout of PSV2026, as `lingshu synthesise psv2026_test` writes it:
rubrics for a judge.

Licence: that of the rows. Revision: the digest of the rows. Link:
https://huggingface.co/datasets/ASD9987/PSV2026 (the layout)
"""

from __future__ import annotations

from lingshu.tasks._psv2026 import convert_row, make_task

__all__ = ["TASK", "convert_row"]

TASK = make_task(
    "psv2026_own",
    title="A set of one's own, in the layout of PSV2026",
    license="that of the rows",
    expected_n=None,
)
