"""PSV2026: 9,264 rewritten test questions of PathVQA, SLAKE and VQA-RAD, each with a rubric of
binary dimensions for a judge.

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/ASD9987/PSV2026 Published accuracies are means over items, for each
question type and for all; the mean over types stands beside it. A set that you built yourself is
the task psv2026_own.
"""

from __future__ import annotations

from lingshu.tasks._psv2026 import convert_row, make_task

__all__ = ["TASK", "convert_row"]

TASK = make_task("psv2026", title="PSV2026", license="CC-BY-4.0", expected_n=9264)
