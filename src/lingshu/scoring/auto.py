"""Grades mixed benchmarks: each sample by the scorer that fits its options, its kind or its gold.

Options make it a `choice`. Else the kind decides: yes_no, closed, open, exact, or report (by
`token_f1`). Without one, a gold of yes or no makes it a yes/no question, and all others are graded
as `closed`.

RANGE: 1.0 right, 0.0 wrong, between for reports, None where nothing could be read.
"""

from __future__ import annotations

from lingshu.core.errors import InputError
from lingshu.core.types import Sample, Score, Scorer
from lingshu.scoring import choice, closed, exact, open, token_f1, yes_no
from lingshu.scoring._reports import NEEDS_JUDGE

RANGE = (0.0, 1.0)
_SCORERS_BY_KIND: dict[str, Scorer] = {
    "yes_no": yes_no.score,
    "closed": closed.score,
    "open": open.score,
    "exact": exact.score,
    "report": token_f1.score,
}


def scorer_for(sample: Sample) -> Scorer:
    """The scorer that fits a sample.

    Raises:
        InputError: a rubric, which only a judge can apply.
    """
    if sample.choices:
        return choice.score
    kind = sample.meta.kind or ""
    if kind == "rubric":
        raise InputError(
            f"{NEEDS_JUDGE}: sample {sample.id!r} is graded by a rubric, and `auto` has no judge."
        )
    return _SCORERS_BY_KIND.get(kind, closed.score)


def score(sample: Sample, reply: str) -> Score:
    """The score by the scorer that fits.

    Raises:
        InputError: the sample has no gold, or one that the fitting scorer cannot use.
    """
    return scorer_for(sample)(sample, reply)
