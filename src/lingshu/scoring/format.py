"""Rewards the shape of a reasoned reply: one `<think>...</think>`, then one `<answer>...</answer>`, and nothing else.

Blanks and line ends may stand around the two blocks. The answer itself is not read; `lingshu.scoring._combine` adds a
scorer that reads it.

RANGE: 1.0 in shape, 0.0 not; None for an empty reply.
"""

from __future__ import annotations

from lingshu.core.nouns import Sample, Score

RANGE = (0.0, 1.0)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def in_shape(reply: str) -> bool:
    """True where the whole reply is one thought and then one answer, each closed and the answer not blank."""
    text = reply.strip()
    # A tag inside a block, forged or nested, makes a second one of its kind.
    if any(text.count(tag) != 1 for tag in _TAGS) or not text.startswith("<think>") or not text.endswith("</answer>"):
        return False
    thought_end, answer = text.index("</think>"), text.index("<answer>")
    between = text[thought_end + len("</think>") : answer]
    inside = text[answer + len("<answer>") : -len("</answer>")]
    return thought_end < answer and not between.strip() and bool(inside.strip())


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply is in shape; the sample plays no part."""
    del sample
    if not reply.strip():
        return Score(None, "empty")
    return Score(1.0 if in_shape(reply) else 0.0)
