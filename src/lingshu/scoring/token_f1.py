"""Token F1 of a free answer against its best-matching accepted answer; precision, recall and BLEU
beside it.

Tokens are counted as often as they occur, after case and punctuation are set aside; Chinese is
counted by character. Articles are tokens: "the left lung" for "left lung" has a precision of 2/3.

RANGE: 0.0 to 1.0, None for an empty reply.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lingshu.core.nouns import Sample, Score
from lingshu.scoring._text import CJK, blank, golds, plain
from lingshu.scoring.exact import answers_of

RANGE = (0.0, 1.0)
# A decimal number is one token; a hyphen or an apostrophe inside a word joins, as in the SQuAD
# script.
_JOINS = re.compile(r"(?<=[^\W\d_])['-](?=[^\W_])")
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*%?|[{CJK}]|[^\W_{CJK}]+")


class Overlap(NamedTuple):
    """F1, precision and recall, in this order."""

    f1: float
    precision: float
    recall: float


def tokens(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation; each Chinese character is one."""
    return _TOKEN.findall(_JOINS.sub("", plain(text).casefold()))


def overlap(said: str, gold: str) -> Overlap:
    """The tokens that two texts share; all 0 where either has none."""
    mine, theirs = Counter(tokens(said)), Counter(tokens(gold))
    shared = (mine & theirs).total()
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / mine.total(), shared / theirs.total()
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)


def bleu(said: Sequence[str], gold: Sequence[str], *, most: int = 4) -> float:
    """Sentence BLEU up to `most`-grams of two token lists, without smoothing.

    Orders that the shorter list is too short to have are left out, so that equal texts score 1; a
    missing n-gram of any other order makes it 0. Papineni et al. 2002, section 2.3.
    """
    orders = range(1, min(most, len(said), len(gold)) + 1)
    logs = []
    for n in orders:
        mine = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
        theirs = Counter(tuple(gold[i : i + n]) for i in range(len(gold) - n + 1))
        shared = (mine & theirs).total()
        if not shared:
            return 0.0
        logs.append(math.log(shared / mine.total()))
    if not logs:
        return 0.0
    brevity = min(0.0, 1 - len(gold) / len(said))
    return math.exp(brevity + math.fsum(logs) / len(logs))


def score(sample: Sample, reply: str) -> Score:
    """The highest F1 against an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    accepted = golds(sample)
    answers = answers_of(reply)
    if blank(answers[0]):
        return Score(None, "empty")
    best, said = max(
        ((max(overlap(said, gold).f1 for gold in accepted), said) for said in answers),
        key=lambda item: item[0],
    )
    return Score(best, "ok", said)
