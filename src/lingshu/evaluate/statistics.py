"""Wilson, clustered and bootstrap intervals, means of groups, and tests of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.stats import Z_95, Interval, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

N_RESAMPLES = 2000
# With fewer, a percentile bootstrap is too narrow: of two groups its intervals cover the truth in 7
# of 10 cases.
SMALL_SAMPLE_GROUPS = 20
# The 97.5% points of Student's distribution with 1 to 19 degrees of freedom.
T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199,
    2.1098, 2.1009, 2.0930,
)  # fmt: skip
ZERO_WIDTH = 1e-9  # what rounding leaves between the ends of an interval that has none
Z_80 = 0.8416212335729143  # the 80% point of the standard normal distribution
# Discordant groups; above it the exact test is needlessly strict and mid-p keeps its level
# (Fagerland et al. 2013).
MAX_EXACT_GROUPS = 25


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float | None],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """A statistic with its 95% percentile interval, resampling whole groups (patients, images).

    `groups` names the group of each item; `statistic` takes indices of items, with repeats, and may
    return None where it is undefined (one class only), in which case the resample does not count.
    With fewer than two groups the interval is None.
    """
    import numpy as np

    if not groups:
        return Interval(None, None, None, 0)
    value = statistic(np.arange(len(groups)))
    indices: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        indices.setdefault(group, []).append(index)
    members = [np.asarray(rows, dtype=np.intp) for rows in indices.values()]
    if len(members) < 2:
        return Interval(value, None, None, len(groups))
    rng = np.random.default_rng(seed)
    resampled = (
        statistic(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
        for _ in range(n_resamples)
    )
    estimates = [estimate for estimate in resampled if estimate is not None]
    if value is None or not estimates:
        return Interval(value, None, None, len(groups))
    low, high = np.quantile(estimates, (0.025, 0.975))
    return Interval(float(value), float(low), float(high), len(groups))


def bootstrap_mean(
    values: Sequence[float],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """The mean with its clustered 95% interval: `bootstrap` for a hundred thousand items.

    Groups of the same size and sum are equal to a mean, so a resample of groups is one multinomial
    sample of their kinds. Where all groups are equal the interval is None.
    """
    import numpy as np

    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values and {len(groups)} groups")
    if not values:
        return Interval(None, None, None, 0)
    sums, sizes = group_sums(values, groups)
    value = math.fsum(values) / len(values)
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    if len(counts) < 2:
        return Interval(value, None, None, len(values))
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    # In blocks, because values between 0 and 1 can make every group a separate kind.
    block = max(1, 4_000_000 // len(counts))
    for start in range(0, n_resamples, block):
        resampled = rng.multinomial(
            len(sums), counts / len(sums), size=min(block, n_resamples - start)
        )
        means[start : start + len(resampled)] = (resampled @ kinds[0]) / (resampled @ kinds[1])
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(value, float(low), float(high), len(values))


def clustered_proportion(values: Sequence[float], groups: Sequence[Hashable]) -> Interval | None:
    """The mean of values from 0 to 1 that come in groups: Wilson's interval for the effective n.

    That number gives the mean its clustered variance, reduced by the square of z over Student's t
    for one group fewer (Korn and Graubard, Survey Methodology 24:193, 1998, with Wilson's interval
    as Dean and Pagano, Journal of Survey Statistics and Methodology 3:484, 2015, recommend), and a
    quarter of an item is added to either side for what few wrong items leave open. With 20 to 100
    groups a percentile bootstrap misses high accuracies in 6 to 14% of samples, always below
    (bench/intervals.py has the coverage of both). None with a single group, where all values are
    equal, or where one is outside 0 to 1.
    """
    n, n_groups = len(values), len(set(groups))
    if (
        n_groups < 2
        or max(values) - min(values) <= ZERO_WIDTH
        or min(values) < 0
        or max(values) > 1
    ):
        return None
    mean = math.fsum(values) / n
    variance = _clustered_variance(values, groups, mean)
    n_effective = mean * (1 - mean) / variance * (Z_95 / student_t_95(n_groups - 1)) ** 2
    low = wilson(max(0.0, mean * n_effective - 0.25), n_effective).low
    high = wilson(min(n_effective, mean * n_effective + 0.25), n_effective).high
    return Interval(mean, low, high, n)


def _clustered_variance(values: Sequence[float], groups: Sequence[Hashable], mean: float) -> float:
    """The variance of a mean over groups, at least that of single items.

    Two estimates are averaged where the second is larger: by linearization of a ratio of sums, which
    groups of unequal size make noisy and too small, and by the correlation inside the groups (its
    estimate from an analysis of variance).
    """
    n = len(values)
    sums, sizes = group_sums(values, groups)
    n_groups = len(sizes)
    linearized = float(((sums - mean * sizes) ** 2).sum()) * n_groups / (n_groups - 1) / n**2
    of_items = math.fsum((value - mean) ** 2 for value in values) / (n * (n - 1))
    if n == n_groups:
        return max(linearized, of_items)
    between = float((sizes * (sums / sizes - mean) ** 2).sum())
    within = max(0.0, of_items * n * (n - 1) - between) / (n - n_groups)
    between /= n_groups - 1
    mean_square_size = float((sizes**2).sum()) / n
    typical_size = (n - mean_square_size) / (n_groups - 1)
    total = between + (typical_size - 1) * within
    correlation = min(1.0, max(0.0, (between - within) / total)) if total > 0 else 1.0
    correlated = of_items * (1 + (mean_square_size - 1) * correlation)
    return max(linearized, (linearized + correlated) / 2, of_items)


def clustered_standard_error(
    influences: Sequence[float], groups: Sequence[Hashable]
) -> float | None:
    """The standard error of a statistic from the influence of each item on it, by linearization over
    whole groups; None with a single group.
    """
    sums, sizes = group_sums(influences, groups)
    n_groups = len(sizes)
    if n_groups < 2:
        return None
    return math.sqrt(float((sums**2).sum()) * n_groups / (n_groups - 1))


def student_t_95(degrees: int) -> float:
    """The 97.5% point of Student's distribution (Abramowitz and Stegun 26.7.5 beyond the table)."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z, inverse = Z_95, 1 / degrees
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96)
    return z + terms[0] * inverse + terms[1] * inverse**2


def small_sample_mean(values: Sequence[float], groups: Sequence[Hashable]) -> Interval | None:
    """The mean with Student's interval; None with one group, with 20 or more, and where all values
    are equal.
    """
    small_sample = _small_sample(values, groups)
    if small_sample is None:
        return None
    mean, variance, t = small_sample
    half_width = t * math.sqrt(variance)
    return Interval(mean, mean - half_width, mean + half_width, len(values))


def _small_sample(
    values: Sequence[float], groups: Sequence[Hashable]
) -> tuple[float, float, float] | None:
    """The mean of values in few groups, its variance, and Student's t; the variance is that of a
    ratio of sums over groups, by linearization, and at least that of single items.
    """
    n, n_groups = len(values), len(set(groups))
    if not 2 <= n_groups < SMALL_SAMPLE_GROUPS or max(values) - min(values) <= ZERO_WIDTH:
        return None
    mean = math.fsum(values) / n
    sums, sizes = group_sums(values, groups)
    group_variance = float(((sums - mean * sizes) ** 2).sum()) * n_groups / (n_groups - 1) / n**2
    item_variance = math.fsum((value - mean) ** 2 for value in values) / (n * (n - 1))
    return mean, max(group_variance, item_variance), T_95[n_groups - 2]


def wilson_fallback(interval: Interval, groups: int) -> Interval:
    """A share's interval, Wilson's with as many items as groups where resampling found none or one
    of zero width: groups that are all right give every resample the same mean.
    """
    if interval.value is None or _has_width(interval):
        return interval
    return wilson(min(interval.value, 1.0) * groups, groups)._replace(
        value=interval.value, n=interval.n
    )


def _has_width(interval: Interval) -> bool:
    low, high = interval.low, interval.high
    return low is not None and high is not None and high - low > ZERO_WIDTH


def group_sums(
    values: Sequence[float], groups: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum and the size of each group, in order of first appearance."""
    import numpy as np

    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    group_ids = np.asarray([index[group] for group in groups])
    sums = np.bincount(group_ids, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(group_ids).astype(np.float64)


def macro(values: Sequence[float | None]) -> float | None:
    """The unweighted mean of the values that are known; None where none is."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def micro(parts: Sequence[Interval]) -> float | None:
    """The mean over all items of several parts: each part's value weighted by its n."""
    defined = [part for part in parts if part.value is not None]
    total = sum(part.n for part in defined)
    return math.fsum((part.value or 0.0) * part.n for part in defined) / total if total else None


# --- two runs on the same items


class PairedTest(NamedTuple):
    """A two-sided p value, its test, and how many groups (or single pairs) are discordant."""

    p_value: float
    name: str
    n_discordant: int


def mcnemar(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> PairedTest:
    """Whether two runs are right equally often on the same items.

    Under the null hypothesis the two runs could be exchanged within each group, so that the
    difference of a group is as likely as its opposite. Without groups of several items this is
    McNemar's test: exact up to 25 discordant pairs, mid-p above (Fagerland, Lydersen and Laake, BMC
    Medical Research Methodology 13:91, 2013). With them it is the exact form of the clustered test
    of Yang, Sun and Hardin (Statistics in Medicine 29, 2010), with the same choice of mid-p.
    """
    gaps = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    differences, sizes = group_sums(gaps, groups)
    net = [round(abs(difference)) for difference in differences if round(difference)]
    observed = round(abs(float(differences.sum())))
    probabilities = _signed_sum_distribution(net)
    n_sides = 2.0 if observed else 1.0
    tail = float(probabilities[observed + sum(net) :].sum()) * n_sides if observed else 1.0
    is_exact = len(net) <= MAX_EXACT_GROUPS
    p_value = min(1.0, tail)
    if not is_exact:
        p_value -= float(probabilities[observed + sum(net)]) * n_sides / 2
    is_grouped = sizes.size and sizes.max() > 1
    test = f"McNemar{' over groups' if is_grouped else ''}, {'exact' if is_exact else 'mid-p'}"
    return PairedTest(p_value, test, len(net))


def _signed_sum_distribution(values: Sequence[int]) -> NDArray[np.float64]:
    """Probabilities of the sums -S ... S of numbers of total S that take either sign."""
    import numpy as np

    probabilities = np.ones(1)
    for value in sorted(set(values)):
        n_equal = sum(candidate == value for candidate in values)
        n_ways, n_all_ways, half = 1, 1 << n_equal, []
        for k in range(n_equal // 2 + 1):
            half.append(n_ways / n_all_ways)  # integers up to here, so no rounding adds up
            n_ways = n_ways * (n_equal - k) // (k + 1)
        spread = np.zeros(2 * value * n_equal + 1)
        spread[:: 2 * value] = [*half, *reversed(half[: (n_equal + 1) // 2])]
        probabilities = np.convolve(probabilities, spread)
    return probabilities


def difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> Interval:
    """The mean of first - second with its 95% interval: resampled groups, below 20 Student's.

    Where every item has the same difference, all resamples are equal. If a fraction q of the groups
    differed, a sample of G groups would show none with probability (1 - q)^G, so q is at most
    1 - 0.05^(1/G) (about 3/G) with 95% confidence; these could differ by as much as possible. Equal
    groups with differing items leave the interval None.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    small = small_sample_mean(gaps, groups)
    if small is not None and small.low is not None and small.high is not None:
        return small._replace(low=max(-1.0, small.low), high=min(1.0, small.high))
    interval = bootstrap_mean(gaps, groups)
    if interval.value is None or _has_width(interval):
        return interval
    if max(gaps) - min(gaps) > ZERO_WIDTH:
        return interval._replace(low=None, high=None)
    value, unseen = interval.value, 1 - 0.05 ** (1 / len(set(groups)))
    return interval._replace(low=value - unseen * (1 + value), high=value + unseen * (1 - value))


def min_detectable_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> float | None:
    """The smallest difference found at the 5% level in 80% of cases, or None.

    For right or wrong: Connor (Biometrics 43, 1987) solved for the difference, given n and the
    observed share of discordant pairs; n is divided by the design effect of the groups. Where that
    share is too small for such a difference, all discordant pairs are assumed to go one way. For
    values between: 2.8 standard errors of the mean difference.
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
    """Connor's formula with all discordant pairs one way: n x = (z_95 + z_80 sqrt(1 - x))^2."""
    low, high = 0.0, 1.0
    if n < Z_95**2:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        if n * middle < (Z_95 + Z_80 * math.sqrt(1 - middle)) ** 2:
            low = middle
        else:
            high = middle
    return high
