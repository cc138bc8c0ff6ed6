"""Intervals of few groups: wide enough, and never narrower than single items would have them."""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.evaluate.paired import difference
from lingshu.evaluate.statistics import bootstrap_mean, or_wilson, share_of_few
from lingshu.evaluate.summary import summarise


def test_three_groups_that_are_nearly_alike_do_not_promise_a_narrow_interval() -> None:
    """5 of 6, 7 of 8 and 5 of 6 right: a bootstrap of the three would say 83.3 to 87.5."""
    groups = [name for name, size in (("a", 6), ("b", 8), ("c", 6)) for _ in range(size)]
    values = [float(i not in (0, 6, 14)) for i in range(20)]
    rows = [
        {"id": str(i), "value": v, "status": "ok", "group": g}
        for i, (v, g) in enumerate(zip(values, groups, strict=True))
    ]
    found = summarise(rows).accuracy
    assert found.value == 0.85 and found.low is not None and found.high is not None
    assert found.low < 0.64 and found.high > 0.94  # Wilson on twenty items
    gap = difference([1.0] * 20, [1.0 - v for v in values], groups)
    assert (
        gap.low is not None and gap.high is not None and gap.high - gap.low > 0.4 and gap.high <= 1
    )


@pytest.mark.parametrize("count", [2, 3, 5, 10, 19])
def test_the_truth_lies_inside_as_often_as_is_said(count: int) -> None:
    pick, hits, rounds = np.random.default_rng(count), 0, 300
    for _ in range(rounds):
        rates = pick.beta(3.4, 0.6, count)  # 0.85 on average, a correlation of 0.2 within a group
        sizes = 1 + pick.poisson(6, count)
        groups = np.repeat(np.arange(count), sizes)
        values = (pick.random(len(groups)) < rates[groups]).astype(float).tolist()
        found = share_of_few(values, groups.tolist()) or or_wilson(
            bootstrap_mean(values, groups.tolist(), draws=200), count
        )
        hits += found.low is None or found.high is None or found.low <= 0.85 <= found.high
    assert hits / rounds > 0.91


def test_where_it_does_not_apply_nothing_is_said() -> None:
    assert (
        share_of_few([1.0, 0.0], ["a", "a"]) is None
        and share_of_few([1.0, 1.0], ["a", "b"]) is None
    )
    assert (
        share_of_few([0.0, 1.0] * 20, range(40)) is None
        and share_of_few([-0.5, 1.0], ["a", "b"]) is None
    )
