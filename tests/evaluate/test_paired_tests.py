"""Tests of a difference between two runs, against published examples and sums that can be done by
hand.
"""

import pytest

from lingshu.evaluate.statistics import difference, mcnemar, min_detectable_difference


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two runs' right and wrong from a table of two by two."""
    return [True] * (both + first) + [False] * (second + neither), [True] * both + [
        False
    ] * first + [True] * second + [False] * neither


@pytest.mark.parametrize(
    ("first", "second", "p", "test"),
    [
        # Fagerland, Lydersen and Laake (2013), airway hyper-responsiveness: 1 against 7 of 21
        # pairs, exact 0.0703.
        (1, 7, 18 / 256, "McNemar, exact"),
        (10, 2, 158 / 4096, "McNemar, exact"),  # 2 (1 + 12 + 66) / 2^12
        (3, 3, 1.0, "McNemar, exact"),
        (0, 0, 1.0, "McNemar, exact"),
        # Above 25 discordant pairs mid-p: twice the tail of the binomial with half of its last
        # term.
        # 2 (C(28, 0) + ... + C(28, 8)) / 2^28 less C(28, 8) / 2^28
        (20, 8, 0.0241195, "McNemar, mid-p"),
        (13, 13, 1 - 0.1549810 / 2, "McNemar, mid-p"),  # half of C(26, 13) / 2^26 taken off
    ],
)
def test_mcnemar_of_single_items(first, second, p, test):
    ours, theirs = pairs(9, first, second, 4)
    result = mcnemar(ours, theirs, range(len(ours)))
    assert result.p_value == pytest.approx(p, abs=1e-5)
    assert (result.name, result.n_discordant) == (test, first + second)
    assert mcnemar(theirs, ours, range(len(ours))).p_value == pytest.approx(result.p_value)


def test_mcnemar_resamples_entire_groups():
    # Three patients differ by 3, 1 and 1: the total of 5 is as likely as -5 and no other sum is as
    # large, 2 of 8 signs.
    ours, theirs = [True] * 5 + [False] * 2, [False] * 7
    result = mcnemar(ours, theirs, ["a", "a", "a", "b", "c", "c", "d"])
    assert (result.p_value, result.name, result.n_discordant) == (
        0.25,
        "McNemar over groups, exact",
        3,
    )
    # The same items as if they were independent: 2 / 2^5.
    assert mcnemar(ours, theirs, range(7)).p_value == 2 / 32


def test_a_group_whose_items_cancel_out_is_neutral():
    assert mcnemar([True, False, True], [False, True, False], ["a", "a", "b"]) == (
        1.0,
        "McNemar over groups, exact",
        1,
    )


def test_many_pairs_and_small_p_values():
    ours, theirs = pairs(50_000, 6_000, 5_000, 1_000)
    result = mcnemar(ours, theirs, range(len(ours)))
    # Chi-square (1000^2 / 11000) = 90.909, whose tail is 1.5e-21; the exact tail is close to it.
    assert result.p_value == pytest.approx(1.5e-21, rel=0.1)


def test_the_interval_of_a_difference_is_paired():
    ours, theirs = [1.0, 1.0, 0.0, 1.0] * 25, [1.0, 0.0, 0.0, 1.0] * 25
    result = difference(ours, theirs, range(100))
    assert result.value == 0.25
    # One in four differs: sqrt(0.25 * 0.75 / 100) = 0.0433, and 1.96 of them on either side.
    assert result[1:3] == pytest.approx((0.165, 0.335), abs=0.011)
    alike = difference(ours, theirs, [i // 4 for i in range(100)])
    assert alike == (0.25, None, None, 100)
    # Five groups: Student's 2.776 of the standard errors that single items would have.
    few = difference(ours, theirs, [i // 20 for i in range(100)])
    assert few[1:3] == pytest.approx((0.25 - 2.776 * 0.04352, 0.25 + 2.776 * 0.04352), abs=1e-3)


def test_the_smallest_difference_solves_connors_formula():
    # Discordance 0.2 and a difference of 0.1 ask for (1.96 sqrt(0.2) + 0.8416 sqrt(0.19))^2 / 0.1^2
    # = 154.6 pairs.
    ours, theirs = pairs(100, 16, 15, 24)
    result = min_detectable_difference(
        [float(x) for x in ours], [float(x) for x in theirs], range(155)
    )
    assert result == pytest.approx(0.0999, abs=2e-4)


def test_the_smallest_difference_where_nothing_differs():
    # 100 x = (1.96 + 0.8416 sqrt(1 - x))^2 has the solution x = 0.0767.
    same = [1.0] * 100
    assert min_detectable_difference(same, same, range(100)) == pytest.approx(0.0767, abs=1e-4)
    assert min_detectable_difference(same[:3], same[:3], range(3)) is None
    assert min_detectable_difference([1.0], [0.0], range(1)) is None
    assert min_detectable_difference(same, same, [i // 50 for i in range(100)]) is None


def test_groups_make_the_smallest_difference_larger():
    ours, theirs = pairs(40, 20, 20, 20)
    first, second = [float(x) for x in ours], [float(x) for x in theirs]
    alone, grouped = (
        min_detectable_difference(first, second, groups)
        for groups in (range(100), [i // 5 for i in range(100)])
    )
    assert alone is not None and grouped is not None
    # Groups of five of a kind: five times fewer to learn from, and sqrt(5) = 2.24 times the
    # difference, a little more.
    assert 2.1 < grouped / alone < 2.6


def test_the_smallest_difference_of_scores_between():
    # 2.8016 standard errors; the differences 0.2 and -0.2 have the standard deviation 0.2.
    result = min_detectable_difference([0.5, 0.5] * 50, [0.3, 0.7] * 50, range(100))
    assert result == pytest.approx(2.8016 * 0.02, abs=1e-4)


def test_runs_that_never_differ_bound_how_much_they_could():
    same = [1.0] * 100
    # (1 - q)^100 = 0.05 has the solution q = 0.0295, about 3/100.
    assert difference(same, same, range(100)) == pytest.approx(
        (0.0, -0.0295, 0.0295, 100), abs=1e-4
    )
    # Groups of unlike sizes: as many as there are, 50 of one and 50 of three items.
    groups = [*range(50), *(50 + i // 3 for i in range(150))]
    assert difference([1.0] * 200, [1.0] * 200, groups) == pytest.approx(
        (0.0, -0.0295, 0.0295, 200), abs=1e-4
    )
    # One that is always right against one that never is: up to 3% could go the other way, which is
    # two apart.
    assert difference(same, [0.0] * 100, range(100)) == pytest.approx(
        (1.0, 1 - 2 * 0.0295, 1.0, 100), abs=1e-4
    )


def test_groups_that_differ_equally_leave_the_interval_open():
    ours, theirs = [1.0, 0.0] * 30, [0.0] * 60
    assert difference(ours, theirs, [max(0, i // 2 - 1) for i in range(60)]) == (
        0.5,
        None,
        None,
        60,
    )
