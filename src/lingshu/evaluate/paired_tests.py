"""Two runs on the same items: tests of their difference, its interval, and the smallest one the
sample can show.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from lingshu.core.stats import Z_95, Interval
from lingshu.evaluate.statistics import ZERO_WIDTH, bootstrap_mean, group_sums, small_sample_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z_80 = 0.8416212335729143  # the 80% point of the standard normal distribution
# discordant groups; above it the exact test is needlessly strict and mid-p keeps its level
# (Fagerland et al. 2013)
MAX_EXACT_GROUPS = 25
TestName = Literal[
    "McNemar, exact", "McNemar, mid-p", "McNemar over groups, exact", "McNemar over groups, mid-p"
]


class PairedTest(NamedTuple):
    """A two-sided p value, how it was made, and the groups whose items do not cancel out (without
    groups: discordant pairs).
    """

    p_value: float
    name: TestName
    n_discordant: int


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
    observed = round(abs(float(differences.sum())))
    probabilities = _signed_sum_distribution(net)
    tail_probability = min(
        1.0, float(probabilities[observed + sum(net) :].sum()) * (2.0 if observed else 1.0)
    )
    if not observed:
        tail_probability = 1.0
    point_probability = float(probabilities[observed + sum(net)]) * (2.0 if observed else 1.0)
    exact = len(net) <= MAX_EXACT_GROUPS
    name: TestName
    if sizes.size and sizes.max() > 1:
        name = "McNemar over groups, exact" if exact else "McNemar over groups, mid-p"
    else:
        name = "McNemar, exact" if exact else "McNemar, mid-p"
    return PairedTest(
        tail_probability if exact else tail_probability - point_probability / 2, name, len(net)
    )


def _signed_sum_distribution(values: Sequence[int]) -> NDArray[np.float64]:
    """The chances of the sums -S ...

    S that the numbers make when each takes either sign alike; S is their total.
    """
    import numpy as np

    probabilities = np.ones(1)
    for value in sorted(set(values)):
        n_equal = sum(candidate == value for candidate in values)
        n_ways, n_all_ways, half = 1, 1 << n_equal, []
        for k in range(n_equal // 2 + 1):
            half.append(
                n_ways / n_all_ways
            )  # whole numbers up to here, so that no rounding adds up
            n_ways = n_ways * (n_equal - k) // (k + 1)
        spread = np.zeros(2 * value * n_equal + 1)
        spread[:: 2 * value] = [*half, *reversed(half[: (n_equal + 1) // 2])]
        probabilities = np.convolve(probabilities, spread)
    return probabilities


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
    small_sample = small_sample_mean(gaps, groups)
    if small_sample is not None and small_sample.low is not None and small_sample.high is not None:
        return small_sample._replace(
            low=max(-1.0, small_sample.low), high=min(1.0, small_sample.high)
        )
    interval = bootstrap_mean(gaps, groups)
    if interval.value is None or (
        interval.low is not None
        and interval.high is not None
        and interval.high - interval.low > ZERO_WIDTH
    ):
        return interval
    if max(gaps) - min(gaps) > ZERO_WIDTH:
        return interval._replace(low=None, high=None)
    max_unseen_fraction = 1 - 0.05 ** (1 / len(set(groups)))
    return interval._replace(
        low=interval.value - max_unseen_fraction * (1 + interval.value),
        high=interval.value + max_unseen_fraction * (1 - interval.value),
    )


def min_detectable_difference(
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
        return (Z_95 + Z_80) * math.sqrt(clustered) / n
    n_effective = n / max(1.0, clustered / spread) if spread else float(len(sizes))
    discordant = sum(gap != 0 for gap in gaps) / n
    discriminant = n_effective + Z_80**2 - Z_95**2
    if discriminant <= 0:
        return None
    solution = (
        math.sqrt(discordant)
        * (math.sqrt(n_effective) * Z_95 + Z_80 * math.sqrt(discriminant))
        / (n_effective + Z_80**2)
    )
    return solution if 0 < solution <= discordant else _one_directional_solution(n_effective)


def _one_directional_solution(n: float) -> float | None:
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
            if n * middle < (Z_95 + Z_80 * math.sqrt(1 - middle)) ** 2
            else (low, middle)
        )
    return high
