"""HealthBench Consensus: 3,671 of its dialogues with criteria that several doctors agreed on.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openai/healthbench Never pooled with the other two sets, which share
its dialogues. Replies are kept; scoring them needs a judge.
"""

from __future__ import annotations

from lingshu.tasks._healthbench import convert_row, make_task

__all__ = ["TASK", "convert_row"]

TASK = make_task(
    "healthbench_consensus",
    "HealthBench Consensus",
    "consensus_2025-05-09-20-00-46.jsonl",
    expected_n=3671,
)
