"""A share of something counted, with its uncertainty."""

from __future__ import annotations

import math
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5% point of the standard normal distribution


class Interval(NamedTuple):
    """A value with its 95% interval and the number of items behind it; all None where there are
    none.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(successes: float, n: float) -> Interval:
    """A share with its 95% Wilson score interval (Wilson 1927), which stays inside [0, 1] and is
    sound for small n.

    Neither need be whole: a share of groups can stand for the share of their items, and items that
    hang together are worth fewer.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    if n == 0:
        return Interval(None, None, None, 0)
    proportion, z_squared = successes / n, Z_95 * Z_95
    center = (proportion + z_squared / (2 * n)) / (1 + z_squared / n)
    half_width = (
        Z_95
        * math.sqrt(proportion * (1 - proportion) / n + z_squared / (4 * n * n))
        / (1 + z_squared / n)
    )
    # At the ends the formula gives exactly 0 or 1; rounding must not step over or short of them.
    low = 0.0 if successes == 0 else max(0.0, center - half_width)
    return Interval(
        proportion, low, 1.0 if successes == n else min(1.0, center + half_width), int(n)
    )
