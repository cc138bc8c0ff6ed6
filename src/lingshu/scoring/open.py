"""Grades a free answer by whether it gives an accepted answer, in equal words or inside a sentence;
no judge is asked.

Case, articles, plural, hyphens, number words, units and the order of a list make no difference. A
reply that names further things, less than the gold, or a synonym of it is not right: accuracy here
is a lower bound of what a judge finds.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

from __future__ import annotations

from typing import NamedTuple

from lingshu.core.reply_text import is_empty, to_plain_text
from lingshu.core.types import Sample, Score
from lingshu.scoring._matching import grade
from lingshu.scoring.exact import extract_answers
from lingshu.scoring.token_f1 import bleu, token_overlap, tokenize

RANGE = (0.0, 1.0)


class AnswerMetrics(NamedTuple):
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
    gold_tokens = tokenize(gold)
    return any(tokenize(answer) == gold_tokens for answer in extract_answers(reply)) and bool(
        gold_tokens
    )


def answer_metrics(reply: str, gold: str) -> AnswerMetrics:
    """Exact match, BLEU-1 to BLEU-4, precision, recall and F1 of a reply against one gold; all 0
    for an empty reply.
    """
    answer = extract_answers(reply)[0]
    if is_empty(answer):
        return AnswerMetrics(False, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0)
    answer_tokens, gold_tokens = tokenize(answer), tokenize(to_plain_text(gold))
    overlap = token_overlap(answer, gold)
    bleu_scores = (
        bleu(answer_tokens, gold_tokens, max_order=1),
        bleu(answer_tokens, gold_tokens, max_order=2),
        bleu(answer_tokens, gold_tokens, max_order=3),
        bleu(answer_tokens, gold_tokens, max_order=4),
    )
    return AnswerMetrics(
        exact_match(reply, gold), bleu_scores, overlap.precision, overlap.recall, overlap.f1
    )
