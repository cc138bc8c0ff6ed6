"""Grades an answer to a closed question: yes or no, a side, a number with its unit, a modality, a
list.

A gold of yes or no is read as `yes_no` does. A Chinese gold may repeat the verb of the question for
yes, with a negation for no; then 是, 否, yes and no are read too. Everything else as in `open`.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

import re

from lingshu.core.reply_text import make_score, require_golds, to_plain_text
from lingshu.core.types import Sample, Score
from lingshu.scoring import open, yes_no

RANGE = (0.0, 1.0)
_POLAR_QUESTION = re.compile(r"吗\W*$|是否|有没有|是不是")


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    golds = require_golds(sample)
    if all(yes_no.as_polarity(gold) for gold in golds):
        return yes_no.score(sample, reply)
    result = open.score(sample, reply)
    if result.value == 0.0 and _POLAR_QUESTION.search(sample.question):
        polarity = yes_no.parse_polarity(reply).polarity
        accepted = {_gold_polarity(to_plain_text(gold), sample.question) for gold in golds}
        if polarity and polarity in accepted:
            return make_score(is_correct=True, prediction=polarity)
    return result


def _gold_polarity(gold: str, question: str) -> yes_no.Polarity | None:
    """The polarity of a gold that repeats the question's predicate (yes) or denies it (no)."""
    if gold and gold in question:
        return "yes"
    is_denied = gold[:1] in ("不", "没", "无", "未") and gold[1:].removeprefix("有") in question
    return "no" if is_denied else None
