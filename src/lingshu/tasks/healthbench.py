"""HealthBench, the full set: 5,000 dialogues with 48,562 criteria.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openai/healthbench Never pooled with the other two sets, which share
its dialogues. Replies are kept; scoring them needs a judge.
"""

from __future__ import annotations

from lingshu.tasks._healthbench import convert_row, make_task

__all__ = ["TASK", "convert_row"]

TASK = make_task(
    "healthbench", "HealthBench", "2025-05-07-06-14-12_oss_eval.jsonl", expected_n=5000
)
