"""Grades an answer to a closed question: yes or no, a side, a number with its unit, a modality, a
list.

A gold of yes or no is read as `yes_no` does. A Chinese gold may repeat the verb of the question for
yes, with a negation for no; then 是, 否, yes and no are read too. Everything else as in `open`.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

from __future__ import annotations

import re

from lingshu.core.nouns import Sample, Score
from lingshu.scoring import yes_no
from lingshu.scoring._answer import grade
from lingshu.scoring._text import golds, graded, plain

RANGE = (0.0, 1.0)
_ASKS_WHETHER = re.compile(r"吗\W*$|是否|有没有|是不是")


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    accepted = golds(sample)
    if all(yes_no.as_verdict(gold) for gold in accepted):
        return yes_no.score(sample, reply)
    found = grade(sample, reply)
    if found.value == 0.0 and _ASKS_WHETHER.search(sample.question):
        said = yes_no.read(reply).verdict
        if said and said in {_polarity(plain(gold), sample.question) for gold in accepted}:
            return graded(right=True, read=said)
    return found


def _polarity(gold: str, question: str) -> yes_no.Verdict | None:
    """What a gold that repeats the question's predicate, or denies it, says."""
    if gold and gold in question:
        return "yes"
    return (
        "no"
        if gold[:1] in ("不", "没", "无", "未") and gold[1:].removeprefix("有") in question
        else None
    )
