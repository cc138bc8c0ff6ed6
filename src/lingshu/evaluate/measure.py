"""The metrics of a task over a whole set of replies: what each says, with how many replies are
behind it.

OUT/<task>/metrics.json   {"references", "references_sha256", "metrics": [{"name", "value", "low", "high", "n", "said", "n_said", "note"}]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import fault
from lingshu.core.nouns import Measured, Metric, Sample
from lingshu.evaluate.statistics import bootstrap_mean
from lingshu.evaluate.summary import group_of

METRICS = "metrics.json"


class MetricRow(NamedTuple):
    """One number of a set of replies with its 95% interval, that over non-empty replies alone, and
    the replies behind each.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    said: float | None
    n_said: int
    note: str | None


def measure(
    metrics: Sequence[Metric],
    samples: Sequence[Sample],
    replies: Sequence[str | None],
    *,
    weights: Path | None = None,
) -> list[Measured]:
    """What every metric says; one that fails is a number that is not there, with the reason."""
    told: list[Measured] = []
    for metric in metrics:
        try:
            told += metric(samples, replies, weights=weights)
        except Exception as error:  # a metric may be anyone's code, and must not cost the scores
            name = getattr(metric, "__name__", type(metric).__name__)
            told.append(Measured(name, None, None, 0, 0, note=f"failed: {fault(error)}"))
    return told


def table(measured: Sequence[Measured], samples: Sequence[Sample]) -> dict[str, Any]:
    """What METRICS holds.

    Values that depend on all references, as CIDEr does, are comparable only where their hash is the
    same.
    """
    references = "\n".join(sample.gold[0] if sample.gold else "" for sample in samples)
    return {
        "references": len(samples),
        "references_sha256": hashlib.sha256(references.encode()).hexdigest(),
        "metrics": [_row(one, samples)._asdict() for one in measured],
    }


def values_of(measured: Sequence[Measured], place: int) -> dict[str, float | None]:
    """The values of one sample by metric; metrics without a score for each are left out."""
    return {one.name: one.scores[place].value for one in measured if one.scores}


def _row(one: Measured, samples: Sequence[Sample]) -> MetricRow:
    low = high = None
    if one.mean and one.scores and one.n:
        kept = [
            (score, sample)
            for score, sample in zip(one.scores, samples, strict=True)
            if score.status != "error"
        ]
        values = [one.empty if score.value is None else score.value for score, _ in kept]
        groups = [group_of({"id": sample.id, "group": sample.meta.group}) for _, sample in kept]
        interval = bootstrap_mean(values, groups)
        low, high = interval.low, interval.high
    return MetricRow(one.name, one.value, low, high, one.n, one.said, one.n_said, one.note)


def rows_of(held: Mapping[str, Any]) -> list[MetricRow]:
    """The rows of a METRICS file."""
    return [
        MetricRow(*(row.get(name) for name in MetricRow._fields)) for row in held.get("metrics", ())
    ]
