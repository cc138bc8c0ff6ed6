"""The barrier of a path: by hand, with intervals that pair the points, and where it says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.analysis.merge_path import barrier

WEIGHTS = [0.0, 0.5, 1.0]


def test_the_barrier_is_the_largest_excess_over_the_line_between_the_ends() -> None:
    # Two samples of 10 and 30 tokens; ends at 2.0 and 1.0 nats a token, the middle at 1.8 instead
    # of 1.5.
    result = barrier(WEIGHTS, [[20, 60], [18, 54], [10, 30]], [10, 30], ["a", "b"])
    assert result is not None and result.weight == 0.5 and result.value.n == 2
    assert result.value.value == pytest.approx(0.3) and result.tolerance == pytest.approx(
        0.02 * 1.5
    )
    assert not result.is_connected and [
        interval.value for _, interval in result.excess
    ] == pytest.approx([0, 0.3, 0])
    # Every resample has the same excess, because the points are compared on the
    # same samples.
    assert (result.value.low, result.value.high) == pytest.approx((0.3, 0.3)) and result.is_certain


def test_a_path_below_the_line_has_no_barrier() -> None:
    result = barrier(WEIGHTS, [[20], [12], [10]], [10], ["a"])
    assert (
        result is not None
        and result.value.value == 0
        and result.is_connected
        and result.weight in (0.0, 1.0)
    )
    assert result.value.low is None and not result.is_certain  # one group: nothing to draw from


def test_the_order_of_points_makes_no_difference_and_groups_are_resampled_together() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(5, 50, 200)
    nll = [(tokens * random.normal(level, 0.2, 200)).tolist() for level in (1.0, 1.2, 1.1)]
    alone, paired = [str(i) for i in range(200)], [str(i // 20) for i in range(200)]
    first = barrier(WEIGHTS, nll, tokens.tolist(), alone)
    turned = barrier(WEIGHTS[::-1], nll[::-1], tokens.tolist(), alone)
    grouped = barrier(WEIGHTS, nll, tokens.tolist(), paired)
    assert first is not None and turned is not None and grouped is not None
    assert first.value == pytest.approx(turned.value) and first.value.value == pytest.approx(
        grouped.value.value
    )
    assert first.value.low is not None and first.value.low < (first.value.value or 0) < (
        first.value.high or 0
    )


def test_without_both_ends_or_without_tokens_there_is_no_barrier() -> None:
    assert barrier([0.0, 0.5], [[1], [1]], [1], ["a"]) is None
    assert barrier(WEIGHTS, [[], [], []], [], []) is None
