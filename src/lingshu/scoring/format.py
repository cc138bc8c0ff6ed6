"""Rewards the format of a reasoned reply: one `<think>...</think>`, then one `<answer>...</answer>`,
and nothing else.

Whitespace around the two blocks is allowed. The answer itself is not graded; a reward adds
a scorer that does.

RANGE: 1.0 in this format, 0.0 not; None for an empty reply.
"""

import re

from lingshu.core.types import Sample, Score

RANGE = (0.0, 1.0)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TAG = re.compile(r"<\s*/?\s*(?:think|answer)\b[^<>]*>", re.IGNORECASE)
_FORMAT = re.compile(r"<think>.*</think>\s*<answer>(?P<answer>.*)</answer>", re.DOTALL)


def extract_answer(reply: str) -> str | None:
    """The answer of a reply that is one closed thought, one closed non-empty answer; else None."""
    text = reply.strip()
    # A tag inside a block, forged or nested, however it is spelled, is a fifth one.
    if _TAG.findall(text) != list(_TAGS):
        return None
    match = _FORMAT.fullmatch(text)
    return match["answer"].strip() or None if match else None


def score(sample: Sample, reply: str) -> Score:  # noqa: ARG001 - the form alone counts
    """Whether the reply has this format; the sample is not used."""
    if not reply.strip():
        return Score(None, "empty")
    return Score(float(extract_answer(reply) is not None))
