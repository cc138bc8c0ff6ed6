"""Grades a free answer by whether it gives an accepted answer, in equal words or inside a sentence;
no judge is asked.

Case, articles, plural, hyphens, number words, units and the order of a list make no difference. A
reply that names further things, less than the gold, or a synonym of it is not right: accuracy here
is a lower bound of what a judge finds.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

from __future__ import annotations

from lingshu.core.types import Sample, Score
from lingshu.scoring._matching import grade

RANGE = (0.0, 1.0)


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    return grade(sample, reply)
