"""Intervals of items in groups: wide enough, and never narrower than single items would have them."""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.evaluate.statistics import (
    bootstrap_mean,
    clustered_proportion,
    difference,
    wilson_fallback,
)
from lingshu.evaluate.summary import summarize


def test_three_groups_that_are_nearly_alike_do_not_promise_a_narrow_interval() -> None:
    """5 of 6, 7 of 8 and 5 of 6 right: a bootstrap of the three would say 83.3 to 87.5."""
    groups = [name for name, size in (("a", 6), ("b", 8), ("c", 6)) for _ in range(size)]
    values = [float(i not in (0, 6, 14)) for i in range(20)]
    rows = [
        {"id": str(i), "value": v, "status": "ok", "group": g}
        for i, (v, g) in enumerate(zip(values, groups, strict=True))
    ]
    result = summarize(rows).accuracy
    assert result.value == 0.85 and result.low is not None and result.high is not None
    assert result.low < 0.64 and result.high > 0.94  # Wilson on twenty items
    gap = difference([1.0] * 20, [1.0 - v for v in values], groups)
    assert (
        gap.low is not None and gap.high is not None and gap.high - gap.low > 0.4 and gap.high <= 1
    )


@pytest.mark.parametrize("count", [2, 3, 5, 10, 19, 20, 30])
def test_the_interval_covers_the_truth_at_its_nominal_level(count: int) -> None:
    rng, hits, rounds = np.random.default_rng(count), 0, 300
    for _ in range(rounds):
        coverage = rng.beta(3.4, 0.6, count)  # 0.85 on average, a correlation of 0.2 within a group
        sizes = 1 + rng.poisson(6, count)
        groups = np.repeat(np.arange(count), sizes)
        values = (rng.random(len(groups)) < coverage[groups]).astype(float).tolist()
        result = clustered_proportion(values, groups.tolist()) or wilson_fallback(
            bootstrap_mean(values, groups.tolist(), n_resamples=200), count
        )
        hits += result.low is None or result.high is None or result.low <= 0.85 <= result.high
    assert hits / rounds > 0.91


def test_where_it_does_not_apply_nothing_is_reported() -> None:
    assert (
        clustered_proportion([1.0, 0.0], ["a", "a"]) is None
        and clustered_proportion([1.0, 1.0], ["a", "b"]) is None
    )
    assert clustered_proportion([-0.5, 1.0], ["a", "b"]) is None


@pytest.mark.parametrize(("n_groups", "mean"), [(25, 0.9), (30, 0.97), (100, 0.97)])
def test_groups_of_unequal_size_with_few_errors_are_covered(n_groups: int, mean: float) -> None:
    """Cells in which a percentile bootstrap covers 84 to 89%; see bench/intervals.py for all."""
    rng, hits, rounds = np.random.default_rng(n_groups), 0, 300
    for _ in range(rounds):
        chance = rng.beta(mean * 7 / 3, (1 - mean) * 7 / 3, n_groups)
        sizes = np.maximum(1, np.round(rng.lognormal(1, 1, n_groups))).astype(int)
        groups = np.repeat(np.arange(n_groups), sizes)
        values = (rng.random(len(groups)) < chance[groups]).astype(float).tolist()
        result = clustered_proportion(values, groups.tolist())
        hits += result is None or (result.low or 0.0) <= mean <= (result.high or 1.0)
    assert hits / rounds >= 0.92
