"""Grades mixed benchmarks: each sample by `choice`, `yes_no` or `exact`, whichever fits it.

Options make it a choice; a sample of the kind "yes_no" or "exact" says so itself; else a gold of yes or no makes it a
yes/no question, and all others are compared exactly.

RANGE: 1.0 right, 0.0 wrong, None where nothing could be read.
"""

from __future__ import annotations

from lingshu.core.nouns import Sample, Score, Scorer
from lingshu.scoring import choice, exact, yes_no
from lingshu.scoring._text import golds

RANGE = (0.0, 1.0)
_BY_KIND: dict[str, Scorer] = {"yes_no": yes_no.score, "exact": exact.score}


def scorer_of(sample: Sample) -> Scorer:
    """The scorer that fits a sample."""
    if sample.choices:
        return choice.score
    named = _BY_KIND.get(sample.meta.kind or "")
    if named:
        return named
    return yes_no.score if all(yes_no.as_verdict(gold) for gold in golds(sample)) else exact.score


def score(sample: Sample, reply: str) -> Score:
    """The score by the scorer that fits.

    Raises:
        InputError: the sample has no gold, or one that the fitting scorer cannot use.
    """
    return scorer_of(sample)(sample, reply)
