"""Grades exam questions that may have several right options: the set of letters must be right as a whole.

RANGE: 1.0 right, 0.0 wrong, None where nothing could be read.
"""

from __future__ import annotations

import re

from lingshu.core.nouns import Sample, Score
from lingshu.scoring import auto, exact

_LETTERS = re.compile(r"(?<![A-Za-z])[A-Z]{1,8}(?![A-Za-z])")


def score(sample: Sample, reply: str) -> Score:
    """As `auto`, and by the set of letters where all right options are asked for.

    Raises:
        InputError: the sample has no gold.
    """
    if not sample.meta.extra.get("several"):
        return auto.score(sample, reply)
    found = exact.score(sample, reply)
    if found.value != 0.0 or not sample.gold:
        return found
    letters = letters_of(found.read or "")
    if not letters:
        return Score(None, "unparsed", found.read)
    return Score(float(letters == sample.gold[0]), "ok", letters)


def letters_of(answer: str) -> str:
    """The option letters an answer names, sorted: a first run such as "ABD", else all letters that stand alone."""
    runs = _LETTERS.findall(answer)
    if not runs:
        return ""
    return "".join(sorted(set(runs[0] if len(runs[0]) > 1 else "".join(run for run in runs if len(run) == 1))))
