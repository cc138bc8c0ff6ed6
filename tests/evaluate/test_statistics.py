"""Golden values of the statistics, from formulae or published tables that can be checked by hand."""

import pytest

from lingshu.core.stats import Interval, wilson
from lingshu.evaluate.statistics import (
    bootstrap,
    bootstrap_mean,
    macro,
    micro,
    wilson_fallback,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # 81/263, 15/148, 0/20 and 1/29: Newcombe, Statistics in Medicine 17 (1998) 857-872, table I,
    # method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_published_values(right, n, low, high):
    interval = wilson(right, n)
    assert interval.value == right / n
    assert (round(interval.low or 0.0, 4), round(interval.high or 0.0, 4)) == (low, high)


def test_wilson_ends_exactly_at_zero_and_one():
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0
    assert wilson(0, 0) == Interval(None, None, None, 0)


def test_means_of_groups():
    parts = [wilson(1, 1), wilson(0, 3), wilson(0, 0)]
    assert macro([part.value for part in parts]) == 0.5
    assert micro(parts) == 0.25
    assert macro([None]) is None


def test_bootstrap_resamples_entire_groups():
    # All the spread lies between groups: within a draw of two equal groups the mean is 0, 1/2 or 1.
    values, groups = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    assert bootstrap_mean(values, groups) == Interval(0.5, 0.0, 1.0, 100)
    alone = bootstrap_mean(values, range(100))
    assert alone.low is not None and alone.high is not None
    assert 0.38 < alone.low < 0.43 and 0.57 < alone.high < 0.62


def test_bootstrap_is_seeded_and_agrees_with_its_quick_form():
    values, groups = [0.0, 1.0, 1.0, 0.5, 0.25, 1.0], [1, 1, 2, 2, 3, 3]
    slow = bootstrap(
        lambda rows: sum(values[i] for i in rows) / len(rows), groups, seed=3, n_resamples=200
    )
    assert slow == bootstrap(
        lambda rows: sum(values[i] for i in rows) / len(rows), groups, seed=3, n_resamples=200
    )
    quick = bootstrap_mean(values, groups, seed=3)
    assert quick == bootstrap_mean(values, groups, seed=3)
    # Three groups with the means 1/2, 3/4 and 5/8: both ends are draws of one group alone, so both
    # forms find them.
    assert quick == pytest.approx(slow) == (0.625, 0.5, 0.75, 6)


def test_a_bootstrap_weighs_groups_by_their_size():
    # A draw of the two groups is right in 4 of 5, 4 of 4 or 1 of 1 and so on: the mean is a ratio
    # of sums, not of means.
    assert bootstrap_mean([1.0, 1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "a", "b"])[:3] == (
        0.8,
        0.0,
        1.0,
    )


def test_bootstrap_without_anything_to_resample():
    assert bootstrap_mean([1.0, 0.0], ["a", "a"]) == Interval(0.5, None, None, 2)
    assert bootstrap(lambda rows: None, [1, 2, 3]) == Interval(None, None, None, 3)
    assert bootstrap_mean([], []) == Interval(None, None, None, 0)
    assert bootstrap_mean([1.0, 0.0, 0.0, 1.0], ["a", "a", "b", "b"]) == Interval(
        0.5, None, None, 4
    )


def test_wilson_takes_a_proportion_of_groups():
    # 1/2 -+ 1.96 sqrt(1/12 + 3.8415/36) / (1 + 3.8415/3)
    assert wilson(1.5, 3) == pytest.approx((0.5, 0.1253, 0.8747, 3), abs=1e-4)


def test_an_interval_without_width_is_widened_to_as_many_items_as_groups():
    result = wilson_fallback(bootstrap(lambda indices_by_group: 1.0, [0, 0, 1, 1, 2, 2]), 3)
    assert (result.value, result.n) == (1.0, 6)
    assert result.low == pytest.approx(wilson(3, 3).low)
    kept = Interval(0.5, 0.25, 0.75, 4)
    assert wilson_fallback(kept, 2) == kept
