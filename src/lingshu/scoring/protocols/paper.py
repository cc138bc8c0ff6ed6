"""The first public rules (June 2025), rebuilt from recorded behavior, with their faults.

Where they ask a judge, equality in lower case is used instead, and the note says so.
"""

from __future__ import annotations

from lingshu.core.reply_text import require_golds
from lingshu.core.types import Sample, Score
from lingshu.scoring.protocols.medevalkit import extract_boxed, extract_tag, score_choice

_NO_JUDGE_NOTE = "no judge here: equality stands in for it"


def score(sample: Sample, reply: str) -> Score:
    """The verdict of the first public rules."""
    gold = require_golds(sample)[0]
    if sample.choices:
        return score_choice(sample, gold, reply, paper=True)
    text = extract_tag(reply, "answer")
    box = extract_boxed(text)
    text = text if box == "None" else box
    if sample.meta.kind == "closed":
        is_correct = text.strip().casefold() == gold.casefold()
        return Score(float(is_correct), "ok", text.strip()[:80], _NO_JUDGE_NOTE)
    text = text.lower().strip().split(".")[0]
    is_correct = text == gold.lower().strip()
    note = None if gold.lower() in ("yes", "no") else _NO_JUDGE_NOTE
    return Score(float(is_correct), "ok", text[:80], note)
