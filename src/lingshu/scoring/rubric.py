"""Marks replies that only a judge can score: a rubric or a list of criteria is never applied by rules.

RANGE: no value; a judge scores the stored replies later.
"""

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, Score

# The start of the note of a reply that has no score because it was not judged.
NEEDS_JUDGE = "needs a judge"


def score(sample: Sample, reply: str) -> Score:  # noqa: ARG001 - no reply is scored without a judge
    """Refuse: a rubric needs a judge.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"{NEEDS_JUDGE}: sample {sample.id!r} is scored by a rubric; its reply is kept and can be"
        " judged later."
    )
