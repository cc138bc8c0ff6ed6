"""Grades mixed benchmarks: each sample by the scorer that fits its options, its kind or its gold.

Options make it a `choice`. Else the kind decides: yes_no, closed, open, exact, or report (by
`token_f1`). Without one, a gold of yes or no makes it a yes/no question, and all others are graded
as `closed`.

RANGE: 1.0 right, 0.0 wrong, between for reports, None where nothing could be read.
"""

from __future__ import annotations

from lingshu.core.types import Sample, Score, Scorer
from lingshu.scoring import choice, closed, exact, open, rubric, token_f1, yes_no

RANGE = (0.0, 1.0)
_SCORERS_BY_KIND: dict[str, Scorer] = {
    "yes_no": yes_no.score,
    "closed": closed.score,
    "open": open.score,
    "exact": exact.score,
    "report": token_f1.score,
    "rubric": rubric.score,
}


def scorer_for(sample: Sample) -> Scorer:
    """The scorer that fits a sample."""
    if sample.choices:
        return choice.score
    return _SCORERS_BY_KIND.get(sample.meta.kind or "", closed.score)


def score(sample: Sample, reply: str) -> Score:
    """The score by the scorer that fits.

    Raises:
        InputError: the sample has no gold, one that the fitting scorer cannot use, or a rubric,
            which only a judge can apply.
    """
    return scorer_for(sample)(sample, reply)
