"""Coverage of the 95% interval of an accuracy over grouped items, simulated.

Groups of 5 items or of skewed size (log-normal, 1 to about 30); whether an item is right follows a
beta-binomial distribution with a correlation of 0.3 inside a group around the true accuracy. Each
cell has the share of intervals that hold the truth, and their mean width over the spread of the
estimate (the width of its central 95%): the method of the reports, and a percentile bootstrap over
whole groups.

    python bench/intervals.py [--rounds 1000] [--seed 7]
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from lingshu.core.stats import wilson
from lingshu.evaluate.statistics import bootstrap_mean, clustered_proportion

CORRELATION = 0.3
GROUPS, ACCURACIES = (8, 15, 20, 25, 30, 50, 100, 200), (0.5, 0.9, 0.97)


def draw(
    rng: np.random.Generator, n_groups: int, accuracy: float, *, skewed: bool
) -> tuple[list[float], list[int]]:
    """Values (0 or 1) of items and the group of each."""
    weight = (1 - CORRELATION) / CORRELATION
    chance = rng.beta(accuracy * weight, (1 - accuracy) * weight, n_groups)
    sizes = (
        np.maximum(1, np.round(rng.lognormal(1, 1, n_groups))).astype(int)
        if skewed
        else np.full(n_groups, 5)
    )
    groups = np.repeat(np.arange(n_groups), sizes)
    values = (rng.random(len(groups)) < chance[groups]).astype(float)
    return values.tolist(), groups.tolist()


def ours(values: list[float], groups: list[int]) -> tuple[float, float]:
    interval = clustered_proportion(values, groups)
    if interval is None:
        n_groups = len(set(groups))
        interval = wilson(values[0] * n_groups, n_groups)
    return interval.low or 0.0, 1.0 if interval.high is None else interval.high


def percentile(values: list[float], groups: list[int]) -> tuple[float, float]:
    interval = bootstrap_mean(values, groups, n_resamples=400)
    return (
        values[0] if interval.low is None else interval.low,
        values[0] if interval.high is None else interval.high,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    print("| groups | accuracy | sizes | ours | width | bootstrap | width |")
    print("|---|---|---|---|---|---|---|")
    for n_groups, accuracy, skewed in itertools.product(GROUPS, ACCURACIES, (False, True)):
        rng = np.random.default_rng((options.seed, n_groups, int(accuracy * 100), skewed))
        samples = [draw(rng, n_groups, accuracy, skewed=skewed) for _ in range(options.rounds)]
        estimates = [sum(values) / len(values) for values, _ in samples]
        spread = float(np.subtract(*np.quantile(estimates, (0.975, 0.025))))
        cells = []
        for method in (ours, percentile):
            lows, highs = np.array([method(*sample) for sample in samples]).T
            covered = float(((lows <= accuracy) & (accuracy <= highs)).mean())
            cells += [f"{covered:.3f}", f"{float((highs - lows).mean()) / spread:.2f}"]
        sizes = "skewed" if skewed else "equal"
        print(f"| {n_groups} | {accuracy} | {sizes} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
