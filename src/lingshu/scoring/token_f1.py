"""Token F1 of a free answer against its best-matching accepted answer.

Tokens are counted as often as they occur, without case and punctuation; Chinese is
counted by character. Articles are tokens: "the left lung" for "left lung" has a precision of 2/3.

RANGE: 0.0 to 1.0, None for an empty reply.
"""

import re
from collections import Counter
from typing import NamedTuple

from lingshu.core.reply_text import CJK, is_empty, require_golds, to_plain_text
from lingshu.core.types import Sample, Score
from lingshu.scoring.exact import extract_answers

RANGE = (0.0, 1.0)
# A decimal number is one token; a hyphen or an apostrophe inside a word joins, as in the SQuAD
# script.
_WORD_JOINER = re.compile(r"(?<=[^\W\d_])['-](?=[^\W_])")
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*%?|[{CJK}]|[^\W_{CJK}]+")


class TokenOverlap(NamedTuple):
    """F1, precision and recall, in this order."""

    f1: float
    precision: float
    recall: float


def tokenize(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation; each Chinese character is one."""
    return _TOKEN.findall(_WORD_JOINER.sub("", to_plain_text(text).casefold()))


def token_overlap(prediction: str, gold: str) -> TokenOverlap:
    """The tokens that two texts share; all 0 where either has none."""
    prediction_counts, gold_counts = Counter(tokenize(prediction)), Counter(tokenize(gold))
    n_shared = (prediction_counts & gold_counts).total()
    if not n_shared:
        return TokenOverlap(0.0, 0.0, 0.0)
    precision, recall = n_shared / prediction_counts.total(), n_shared / gold_counts.total()
    return TokenOverlap(2 * precision * recall / (precision + recall), precision, recall)


def score(sample: Sample, reply: str) -> Score:
    """The highest F1 against an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    golds = require_golds(sample)
    answers = extract_answers(reply)
    if is_empty(answers[0]):
        return Score(None, "empty")
    scores = [max(token_overlap(answer, gold).f1 for gold in golds) for answer in answers]
    best = max(scores)
    return Score(best, "ok", answers[scores.index(best)])
