"""Numbers with their uncertainty: Wilson and clustered bootstrap intervals, AUROC, balanced
accuracy, means of groups.

What compares two runs is in paired.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from lingshu.core.stats import Z_95, Interval, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

N_RESAMPLES = 2000
# below it a percentile bootstrap promises too much: of two groups its intervals hold the truth in 7
# of 10 cases
SMALL_SAMPLE_GROUPS = 20
# The 97.5% points of Student's distribution with 1 to 19 degrees of freedom.
T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199,
    2.1098, 2.1009, 2.0930,
)  # fmt: skip
ZERO_WIDTH = 1e-9  # what rounding leaves between the ends of an interval that has none


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float | None],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """A statistic with its 95% percentile interval, whole groups (patients, images) drawn with
    replacement.

    `groups` names the group of each item; `statistic` takes positions of items, with repeats, and
    may return None where it is not defined (one class only), in which case the draw does not count.
    With fewer than two groups there is nothing to draw from and the interval is None.
    """
    import numpy as np

    if not groups:
        return Interval(None, None, None, 0)
    value = statistic(np.arange(len(groups)))
    indices_by_group: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        indices_by_group.setdefault(group, []).append(index)
    members = [np.asarray(rows, dtype=np.intp) for rows in indices_by_group.values()]
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
    """The mean with its clustered 95% interval: as `bootstrap`, but quick enough for a hundred
    thousand items.

    Groups of the same size and sum are alike to a mean, so that a draw of groups is one multinomial
    draw of their kinds. Where no group differs from another there is nothing to draw from and the
    interval is None.
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
    # In blocks, because values between 0 and 1 can make every group a kind of its own.
    block = max(1, 4_000_000 // len(counts))
    for start in range(0, n_resamples, block):
        resampled = rng.multinomial(
            len(sums), counts / len(sums), size=min(block, n_resamples - start)
        )
        means[start : start + len(resampled)] = (resampled @ kinds[0]) / (resampled @ kinds[1])
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(value, float(low), float(high), len(values))


def small_sample_proportion(values: Sequence[float], groups: Sequence[Hashable]) -> Interval | None:
    """The mean of values between 0 and 1 in few groups, with Wilson's interval for as many items as
    the groups are worth.

    That number is what gives the mean its clustered variance, never fewer than single items would
    have, and less by the square of z over Student's t for one group fewer (Korn and Graubard,
    Survey Methodology 24:193, 1998, with Wilson's interval as Dean and Pagano, Journal of Survey
    Statistics and Methodology 3:484, 2015, recommend). None with a single group, with 20 or more,
    where all values are alike, or where one lies outside 0 to 1.
    """
    small_sample = _small_sample(values, groups)
    if small_sample is None or min(values) < 0 or max(values) > 1:
        return None
    mean, variance, t = small_sample
    n_effective = mean * (1 - mean) / variance * (Z_95 / t) ** 2
    return wilson(mean * n_effective, n_effective)._replace(value=mean, n=len(values))


def small_sample_mean(values: Sequence[float], groups: Sequence[Hashable]) -> Interval | None:
    """The mean of values in few groups with Student's interval from its clustered variance; None as
    for share_of_few.
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
    ratio of sums over groups, by linearisation, and at least that of single items.
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
    """A share's interval, Wilson's with as many items as groups where drawing found none or one
    without width.

    Groups that are all right, whatever their sizes, give every draw the same mean; that would
    promise too much.
    """
    if interval.value is None or (
        interval.low is not None
        and interval.high is not None
        and interval.high - interval.low > ZERO_WIDTH
    ):
        return interval
    return wilson(min(interval.value, 1.0) * groups, groups)._replace(
        value=interval.value, n=interval.n
    )


def group_sums(
    values: Sequence[float], groups: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum and the size of each group, in order of first appearance."""
    import numpy as np

    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    group_ids = np.asarray([index[group] for group in groups])
    sums = np.bincount(group_ids, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(group_ids).astype(np.float64)


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """The chance that a positive item has a higher score than a negative one, ties counting half;
    None with one class only.

    Equals the Mann-Whitney U statistic over the product of the class sizes (Hanley and McNeil
    1982).
    """
    import numpy as np

    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if values.shape != labels.shape:
        raise ValueError(f"{values.size} scores and {labels.size} labels")
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = mid_ranks[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def balanced_accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float | None:
    """The mean over the gold classes of the share that was predicted right; None without items."""
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions and {len(gold)} gold labels")
    n_correct: dict[Hashable, int] = {}
    n_total: dict[Hashable, int] = {}
    for prediction, gold_label in zip(predicted, gold, strict=True):
        n_total[gold_label] = n_total.get(gold_label, 0) + 1
        n_correct[gold_label] = n_correct.get(gold_label, 0) + (prediction == gold_label)
    return macro([n_correct[label] / n_total[label] for label in n_total])


def macro(values: Sequence[float | None]) -> float | None:
    """The unweighted mean of the values that are known; None where none is."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def micro(parts: Sequence[Interval]) -> float | None:
    """The mean over all items of several parts: each part's value weighted by its n."""
    defined = [part for part in parts if part.value is not None]
    total = sum(part.n for part in defined)
    return math.fsum((part.value or 0.0) * part.n for part in defined) / total if total else None
