"""Two runs on the same items: tests of their difference, its interval, and the smallest one the
sample can show.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from lingshu.core.shares import Z_95, Interval
from lingshu.evaluate.statistics import NO_WIDTH, bootstrap_mean, group_sums, mean_of_few

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z_POWER = 0.8416212335729143  # the 80% point of the standard normal distribution
# discordant groups; above it the exact test is needlessly strict and mid-p keeps its level
# (Fagerland et al. 2013)
EXACT_UP_TO = 25
Test = Literal[
    "McNemar, exact", "McNemar, mid-p", "McNemar over groups, exact", "McNemar over groups, mid-p"
]


class PairedTest(NamedTuple):
    """A two-sided p value, how it was made, and the groups whose items do not cancel out (without
    groups: discordant pairs).
    """

    p: float
    test: Test
    discordant: int


def mcnemar(
    first: Sequence[bool], second: Sequence[bool], groups: Sequence[Hashable]
) -> PairedTest:
    """Whether two runs are right equally often on the same items.

    Under the null hypothesis the two runs could be exchanged within each group, so that the
    difference of a group is as likely as its opposite. Without groups of several items this is
    McNemar's test: exact up to 25 discordant pairs, mid-p above (Fagerland, Lydersen and Laake, BMC
    Medical Research Methodology 13:91, 2013). With them it is the exact form of the clustered test
    of Yang, Sun and Hardin (Statistics in Medicine 29, 2010), with the same choice of mid-p.
    """
    differences, sizes = group_sums(
        [float(a) - float(b) for a, b in zip(first, second, strict=True)], groups
    )
    net = [round(abs(difference)) for difference in differences if round(difference)]
    found = round(abs(float(differences.sum())))
    chances = _sums_of_signs(net)
    at_least = min(1.0, float(chances[found + sum(net) :].sum()) * (2.0 if found else 1.0))
    if not found:
        at_least = 1.0
    equal = float(chances[found + sum(net)]) * (2.0 if found else 1.0)
    exact = len(net) <= EXACT_UP_TO
    name: Test
    if sizes.size and sizes.max() > 1:
        name = "McNemar over groups, exact" if exact else "McNemar over groups, mid-p"
    else:
        name = "McNemar, exact" if exact else "McNemar, mid-p"
    return PairedTest(at_least if exact else at_least - equal / 2, name, len(net))


def _sums_of_signs(numbers: Sequence[int]) -> NDArray[np.float64]:
    """The chances of the sums -S ...

    S that the numbers make when each takes either sign alike; S is their total.
    """
    import numpy as np

    chances = np.ones(1)
    for number in sorted(set(numbers)):
        count = sum(other == number for other in numbers)
        ways, all_ways, half = 1, 1 << count, []
        for place in range(count // 2 + 1):
            half.append(ways / all_ways)  # whole numbers up to here, so that no rounding adds up
            ways = ways * (count - place) // (place + 1)
        spread = np.zeros(2 * number * count + 1)
        spread[:: 2 * number] = [*half, *reversed(half[: (count + 1) // 2])]
        chances = np.convolve(chances, spread)
    return chances


def difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> Interval:
    """The mean of first - second, each between 0 and 1, with its 95% interval: whole groups drawn,
    of fewer than 20 Student's.

    Where every item has the same difference, all draws are alike. If a share q of the groups
    differed, a sample of G groups would show none with the chance (1 - q)^G, so that q is at most 1
    - 0.05^(1/G) (about 3/G) with 95% confidence; that many could lie as far away as a difference
    can. Groups that are alike but not their items leave the interval None.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    few = mean_of_few(gaps, groups)
    if few is not None and few.low is not None and few.high is not None:
        return few._replace(low=max(-1.0, few.low), high=min(1.0, few.high))
    found = bootstrap_mean(gaps, groups)
    if found.value is None or (
        found.low is not None and found.high is not None and found.high - found.low > NO_WIDTH
    ):
        return found
    if max(gaps) - min(gaps) > NO_WIDTH:
        return found._replace(low=None, high=None)
    unseen = 1 - 0.05 ** (1 / len(set(groups)))
    return found._replace(
        low=found.value - unseen * (1 + found.value), high=found.value + unseen * (1 - found.value)
    )


def smallest_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> float | None:
    """The smallest true difference that a sample like this finds at the 5% level in 80% of cases;
    None where none is so large.

    For right or wrong: Connor (Biometrics 43, 1987) solved for the difference, given n and the
    share of discordant pairs that was found; n is divided by how much wider groups make the
    difference than single items would. Where that share is too small to hold such a difference, all
    discordant pairs are taken to go one way. For values between: 2.8 standard errors of the mean
    difference.
    """
    n = len(first)
    if n < 2:
        return None
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    mean = math.fsum(gaps) / n
    sums, sizes = group_sums(gaps, groups)
    spread = math.fsum((gap - mean) ** 2 for gap in gaps)
    clustered = float(((sums - mean * sizes) ** 2).sum())
    if any(gap not in (-1.0, 0.0, 1.0) for gap in gaps):
        return (Z_95 + Z_POWER) * math.sqrt(clustered) / n
    effective = n / max(1.0, clustered / spread) if spread else float(len(sizes))
    discordant = sum(gap != 0 for gap in gaps) / n
    room = effective + Z_POWER**2 - Z_95**2
    if room <= 0:
        return None
    found = (
        math.sqrt(discordant)
        * (math.sqrt(effective) * Z_95 + Z_POWER * math.sqrt(room))
        / (effective + Z_POWER**2)
    )
    return found if 0 < found <= discordant else _one_way(effective)


def _one_way(n: float) -> float | None:
    """The solution of n x = (z_95 + z_power sqrt(1 - x))^2: Connor's formula where every discordant
    pair goes one way.
    """
    low, high = 0.0, 1.0
    if n < Z_95**2:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if n * middle < (Z_95 + Z_POWER * math.sqrt(1 - middle)) ** 2
            else (low, middle)
        )
    return high
