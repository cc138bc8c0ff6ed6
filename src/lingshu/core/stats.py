"""Proportions with their uncertainty, and the agreement of two raters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5% point of the standard normal distribution


class Interval(NamedTuple):
    """A value with its 95% interval and the number of items behind it; all None without items."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(successes: float, n: float) -> Interval:
    """A proportion with its 95% Wilson score interval (Wilson 1927), valid also for small n.

    Neither argument need be an integer: correlated items count as fewer.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    if n == 0:
        return Interval(None, None, None, 0)
    p, z2 = successes / n, Z_95 * Z_95
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half_width = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives exactly 0 or 1; rounding must not miss them.
    low = 0.0 if successes == 0 else max(0.0, center - half_width)
    return Interval(p, low, 1.0 if successes == n else min(1.0, center + half_width), int(n))


class Agreement(NamedTuple):
    """Items that both raters rated, the fraction on which they agree, Cohen's kappa and Gwet's AC1.

    None where one is not defined.
    """

    n: int
    observed_agreement: float | None
    kappa: float | None
    ac1: float | None


def agreement(pairs: Sequence[tuple[str, str]], categories: Sequence[str]) -> Agreement:
    """Cohen's kappa (1960) and Gwet's AC1 (2008) of two raters over all possible `categories`.

    Kappa is None if both gave every item the same category: chance alone would agree as much. Where
    nearly all items are alike, kappa is low however well two raters agree; AC1 is not.

    Raises:
        ValueError: fewer than two categories, or a rating outside them.
    """
    if len(categories) < 2:
        raise ValueError(f"agreement needs at least two categories, not {list(categories)}")
    unknown = {rating for pair in pairs for rating in pair}.difference(categories)
    if unknown:
        raise ValueError(f"{min(unknown)!r} is not in the categories {list(categories)}")
    n = len(pairs)
    if not n:
        return Agreement(0, None, None, None)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    chance = math.fsum(first[c] * second[c] for c in categories) / n**2
    shares = [(first[c] + second[c]) / (2 * n) for c in categories]
    expected = math.fsum(share * (1 - share) for share in shares) / (len(categories) - 1)
    kappa = None if chance == 1 else (observed - chance) / (1 - chance)
    return Agreement(n, observed, kappa, (observed - expected) / (1 - expected))
