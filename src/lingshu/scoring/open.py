"""Grades a free answer by whether it gives an accepted answer, in equal words or inside a sentence;
no judge is asked.

Case, articles, plural, hyphens, number words, units and the order of a list make no difference. A
reply that names further things, less than the gold, or a synonym of it is not right: accuracy here
is a lower bound of what a judge finds.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

from __future__ import annotations

from typing import NamedTuple

from lingshu.core.nouns import Sample, Score
from lingshu.scoring._answer import grade
from lingshu.scoring._text import blank, plain
from lingshu.scoring.exact import answers_of
from lingshu.scoring.token_f1 import bleu, overlap, tokens

RANGE = (0.0, 1.0)


class Measures(NamedTuple):
    """How near a reply comes to a gold, all from 0 to 1."""

    exact_match: bool
    bleu: tuple[float, float, float, float]
    precision: float
    recall: float
    f1: float


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    return grade(sample, reply)


def exact_match(reply: str, gold: str) -> bool:
    """Whether the answer in a reply has the gold's words in the gold's order; articles are words."""
    wanted = tokens(gold)
    return any(tokens(answer) == wanted for answer in answers_of(reply)) and bool(wanted)


def measures(reply: str, gold: str) -> Measures:
    """Exact match, BLEU-1 to BLEU-4, precision, recall and F1 of a reply against one gold; all 0
    for an empty reply.
    """
    answer = answers_of(reply)[0]
    if blank(answer):
        return Measures(False, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0)
    said, wanted = tokens(answer), tokens(plain(gold))
    found = overlap(answer, gold)
    orders = (
        bleu(said, wanted, most=1),
        bleu(said, wanted, most=2),
        bleu(said, wanted, most=3),
        bleu(said, wanted, most=4),
    )
    return Measures(exact_match(reply, gold), orders, found.precision, found.recall, found.f1)
