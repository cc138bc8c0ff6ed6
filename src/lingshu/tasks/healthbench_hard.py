"""HealthBench Hard: 1,000 of its dialogues that models answer worst.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openai/healthbench Never pooled with the other two sets, which share
its dialogues. Replies are kept; scoring them needs a judge.
"""

from __future__ import annotations

from lingshu.tasks._healthbench import convert_row, make_task

__all__ = ["TASK", "convert_row"]

TASK = make_task(
    "healthbench_hard", "HealthBench Hard", "hard_2025-05-08-21-00-10.jsonl", expected_n=1000
)
