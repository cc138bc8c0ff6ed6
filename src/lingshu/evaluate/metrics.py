"""Metrics of a task over a whole set of replies: each value with the number of replies behind it.

OUT/<task>/metrics.json   {"references", "references_sha256", "metrics": [{"name", "value", "low", "high", "n", "non_empty_value", "n_non_empty", "note"}]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import describe_error
from lingshu.core.types import Metric, MetricResult, Sample
from lingshu.evaluate.statistics import bootstrap_mean
from lingshu.evaluate.summary import group_key

METRICS_FILE = "metrics.json"


class MetricRow(NamedTuple):
    """One number of a set of replies with its 95% interval; the same of non-empty replies alone."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    non_empty_value: float | None
    n_non_empty: int
    note: str | None


def compute_metrics(
    metrics: Sequence[Metric],
    samples: Sequence[Sample],
    replies: Sequence[str | None],
    *,
    weights: Path | None = None,
) -> list[MetricResult]:
    """The result of every metric; one that fails has no value and says why."""
    results: list[MetricResult] = []
    for metric in metrics:
        try:
            results += metric(samples, replies, weights=weights)
        except Exception as error:  # a metric may be anyone's code, and must not cost the scores
            name = getattr(metric, "__name__", type(metric).__name__)
            results.append(
                MetricResult(name, None, None, 0, 0, note=f"failed: {describe_error(error)}")
            )
    return results


def metrics_table(results: Sequence[MetricResult], samples: Sequence[Sample]) -> dict[str, Any]:
    """The content of METRICS_FILE; CIDEr and the like compare only where the hash is the same."""
    references = "\n".join(sample.gold[0] if sample.gold else "" for sample in samples)
    return {
        "references": len(samples),
        "references_sha256": hashlib.sha256(references.encode()).hexdigest(),
        "metrics": [_row(result, samples)._asdict() for result in results],
    }


def sample_values(results: Sequence[MetricResult], index: int) -> dict[str, float | None]:
    """The values of one sample by metric; metrics without a score for each are left out."""
    return {result.name: result.scores[index].value for result in results if result.scores}


def _row(result: MetricResult, samples: Sequence[Sample]) -> MetricRow:
    low = high = None
    if result.is_mean and result.scores and result.n:
        pairs = zip(result.scores, samples, strict=True)
        scored = [(score.value, sample) for score, sample in pairs if score.status != "error"]
        values = [result.empty_score if value is None else value for value, _ in scored]
        groups = [group_key({"id": s.id, "group": s.meta.group}) for _, s in scored]
        _, low, high, _ = bootstrap_mean(values, groups)
    return MetricRow(
        result.name,
        result.value,
        low,
        high,
        result.n,
        result.non_empty_value,
        result.n_non_empty,
        result.note,
    )


def metric_rows(table: Mapping[str, Any]) -> list[MetricRow]:
    """The rows of a METRICS file."""
    return [
        MetricRow(*(row.get(name) for name in MetricRow._fields))
        for row in table.get("metrics", ())
    ]
