"""The barrier between two models: how far the likelihood of their averages falls behind that of the
two themselves.

B = max over w of [ L(w) - (w L(1) + (1 - w) L(0)) ] with L the mean negative log-likelihood of
held-out tokens and w the weight of the first model (linear mode connectivity, Frankle et al., arXiv
1912.05671; with likelihood in place of error).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lingshu.core.stats import Interval
from lingshu.evaluate.statistics import N_RESAMPLES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Accepted up to this share of the two models' mean negative log-likelihood.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Barrier:
    """The largest excess over a path, at weight `at`, and the excess at each weight; in nats a
    token.

    Intervals are of a bootstrap over whole groups in which every point of the path meets the same
    samples. As a maximum the barrier is never below 0, and noise alone lifts it a little.
    """

    value: Interval
    weight: float
    excess: Sequence[tuple[float, Interval]]
    tolerance: float

    @property
    def is_connected(self) -> bool:
        """Whether the barrier is tolerated."""
        return self.value.value is not None and self.value.value <= self.tolerance

    @property
    def is_certain(self) -> bool:
        """Whether both ends of its interval lie on the same side of what is tolerated."""
        low, high = self.value.low, self.value.high
        return (
            low is not None
            and high is not None
            and (high <= self.tolerance or low > self.tolerance)
        )


def barrier(
    weights: Sequence[float],
    nll: Sequence[Sequence[float]],
    tokens: Sequence[int],
    groups: Sequence[Hashable],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Barrier | None:
    """The barrier of a path from sums of negative log-likelihoods, one list for each weight, in the
    order of the samples.

    None where one of the two models (weights 0 and 1) is not on the path, or where there is no
    token.
    """
    import numpy as np

    if not {0.0, 1.0} <= set(weights) or not sum(tokens):
        return None
    index = {group: position for position, group in enumerate(dict.fromkeys(groups))}
    group_ids = np.asarray([index[group] for group in groups])
    nll_by_group = np.stack(
        [
            np.bincount(group_ids, weights=np.asarray(row, np.float64), minlength=len(index))
            for row in nll
        ],
        axis=1,
    ).astype(np.float64)
    n_tokens = np.bincount(
        group_ids, weights=np.asarray(tokens, np.float64), minlength=len(index)
    ).astype(np.float64)
    endpoints = weights.index(1.0), weights.index(0.0)
    excesses = _excess(np.ones((1, len(index))), nll_by_group, n_tokens, weights, endpoints)[0]
    mean = float(nll_by_group[:, list(endpoints)].sum() / n_tokens.sum() / 2)
    n, lows, highs = len(tokens), None, None
    low = high = None
    if len(index) > 1:
        counts = np.random.default_rng(seed).multinomial(
            len(index), np.full(len(index), 1 / len(index)), size=n_resamples
        )
        resampled = _excess(counts, nll_by_group, n_tokens, weights, endpoints)
        lows, highs = np.nanquantile(resampled, (0.025, 0.975), axis=0)
        low, high = map(float, np.nanquantile(resampled.max(1), (0.025, 0.975)))
    position = int(excesses.argmax())
    excess = [
        (
            weight,
            Interval(
                float(excesses[i]),
                None if lows is None else float(lows[i]),
                None if highs is None else float(highs[i]),
                n,
            ),
        )
        for i, weight in enumerate(weights)
    ]
    return Barrier(
        Interval(float(excesses[position]), low, high, n),
        weights[position],
        excess,
        tolerance * mean,
    )


def _excess(
    counts_DG: NDArray,
    nll_GK: NDArray[np.float64],
    size_G: NDArray[np.float64],
    weights: Sequence[float],
    endpoints: tuple[int, int],
) -> NDArray[np.float64]:
    """For each draw D of groups G the excess at each of K weights."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        mean_DK = (counts_DG @ nll_GK) / (counts_DG @ size_G)[:, None]
    weights_K = np.asarray(weights)
    first, second = endpoints
    return mean_DK - (weights_K * mean_DK[:, [first]] + (1 - weights_K) * mean_DK[:, [second]])
