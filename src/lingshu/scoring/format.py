"""Rewards the shape of a reasoned reply: one `<think>...</think>`, then one `<answer>...</answer>`,
and nothing else.

Blanks and line ends may stand around the two blocks. The answer itself is not graded; a reward adds
a scorer that does.

RANGE: 1.0 in shape, 0.0 not; None for an empty reply.
"""

from __future__ import annotations

import re

from lingshu.core.types import Sample, Score

RANGE = (0.0, 1.0)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TAG = re.compile(r"<\s*/?\s*(?:think|answer)\b[^<>]*>", re.IGNORECASE)
_FORMAT = re.compile(r"<think>.*</think>\s*<answer>(?P<answer>.*)</answer>", re.DOTALL)


def extract_answer(reply: str) -> str | None:
    """What stands in the answer of a reply that is one thought and then one answer, each closed and
    the answer not blank.

    None for every other reply: nothing is read out of a reply that is not in shape.
    """
    text = reply.strip()
    # A tag inside a block, forged or nested, however it is spelt, makes a fifth one.
    if _TAG.findall(text) != list(_TAGS):
        return None
    match = _FORMAT.fullmatch(text)
    return match["answer"].strip() or None if match else None


def is_well_formed(reply: str) -> bool:
    """True where the whole reply is one thought and then one answer, each closed and the answer not
    blank.
    """
    return extract_answer(reply) is not None


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply is in shape; the sample plays no part."""
    del sample
    if not reply.strip():
        return Score(None, "empty")
    return Score(1.0 if is_well_formed(reply) else 0.0)
