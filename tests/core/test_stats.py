"""Agreement of two raters, against values that can be worked out by hand."""

from __future__ import annotations

import pytest

from lingshu.core.stats import Agreement, agreement

YES_NO = ("yes", "no")


def test_kappa_and_ac1_of_a_table_of_four() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    n, agree, kappa, ac1 = agreement(pairs, YES_NO)
    # Chance agrees on 25/50 * 30/50 + 25/50 * 20/50 = 0.5; AC1's chance is 2 * 0.55 * 0.45 = 0.495.
    assert (n, agree) == (50, 0.7)
    assert kappa == pytest.approx(0.4) and ac1 == pytest.approx((0.7 - 0.495) / 0.505)


def test_what_is_not_defined_is_none() -> None:
    assert agreement([], YES_NO) == Agreement(0, None, None, None)
    assert agreement([("yes", "yes")] * 3, YES_NO) == Agreement(3, 1.0, None, 1.0)


def test_ac1_stays_high_where_nearly_all_ratings_agree() -> None:
    _, agree, kappa, ac1 = agreement([("yes", "yes")] * 98 + [("yes", "no"), ("no", "yes")], YES_NO)
    assert agree == 0.98 and kappa is not None and kappa < 0 and ac1 is not None and ac1 > 0.97


def test_a_rating_outside_the_categories_is_refused() -> None:
    with pytest.raises(ValueError, match="maybe"):
        agreement([("yes", "maybe")], YES_NO)
