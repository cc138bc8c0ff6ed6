"""The arithmetic of rubrics; the published cases are in test_parity.py."""

from __future__ import annotations

import pytest

from lingshu.evaluate.judgments import all_met, clipped_mean, rubric_range, rubric_score


@pytest.mark.parametrize(
    ("points", "met", "score"),
    [
        ([5, 5], [True, False], 0.5),
        ([5, -10], [False, True], -2.0),
        ([5, -10], [True, True], -1.0),
        ([-5], [False], None),
        ([], [], None),
        ([1, 1, 1, 1, 1], [True, True, True, False, True], 0.8),
    ],
)
def test_a_score_is_points_met_over_positive_points(
    points: list[float], met: list[bool], score: float | None
) -> None:
    assert rubric_score(points, met) == score


def test_the_mean_is_clipped_after_averaging_and_replies_without_a_score_are_left_out() -> None:
    assert clipped_mean([-0.5, 1.0]) == 0.25
    assert clipped_mean([-2.0, 1.0]) == 0.0
    assert clipped_mean([None, 0.5]) == 0.5
    assert clipped_mean([None]) is None


def test_missing_verdicts_leave_a_range() -> None:
    assert rubric_range([5, 5, -2], [True, None, None]) == (0.3, 1.0)
    assert rubric_range([-2], [None]) is None


def test_all_met_includes_no_negative_criterion() -> None:
    assert all_met([1, 1], [True, True]) and not all_met([1, 1], [True, False])
    assert all_met([1, -1], [True, False]) and not all_met([1, -1], [True, True])
