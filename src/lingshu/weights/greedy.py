"""The greedy model soup: models are tried from the best to the worst, and one stays only if the
soup with it scores no less.

Wortsman et al. 2022, arXiv 2203.05482, recipe 1. How a folder is scored is given from above; score
on validation data, not on the test set, for the soup is chosen by that score.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.files import disk
from lingshu.weights.method import Weighting
from lingshu.weights.result import Merge, check_place, merge

Score = Callable[[Path], float]


class Soup(NamedTuple):
    """The models that were kept, the score of the soup of them, the score of each model alone, and
    every trial.
    """

    kept: tuple[Path, ...]
    score: float
    alone: list[tuple[str, float]]
    trials: list[dict[str, object]]


def shares(models: int, chosen: Sequence[int]) -> Weighting:
    """The plain mean of the chosen ones, by their numbers; the others have no weight."""
    return Weighting(
        tuple(1 / len(chosen) if number in chosen else 0.0 for number in range(models))
    )


def greedy(plan: Merge, out: Path, score: Score) -> Soup:
    """Choose models greedily by `score` (higher is better) and write the mean of those kept to
    `out`.

    Each of the n models is scored once, and each but the best once more in a soup, which is written
    beside `out` and removed again.

    Raises:
        InputError: a score that is no number; otherwise as `merge`.
    """
    check_place(plan, out)
    models = plan.models
    alone = [_scored(score, model) for model in models]
    ranked = sorted(range(len(models)), key=lambda number: -alone[number])
    kept, best, trials = [ranked[0]], alone[ranked[0]], []
    with disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    for candidate in ranked[1:]:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.soup.", dir=out.parent) as folder:
            trial = Path(folder) / "soup"
            merge(plan, trial, shares(len(models), [*kept, candidate]))
            reached = _scored(score, trial)
        trials.append({"added": str(models[candidate]), "score": reached, "kept": reached >= best})
        if reached >= best:
            kept.append(candidate)
            best = reached
    soup = Soup(
        tuple(models[number] for number in kept),
        best,
        list(zip(map(str, models), alone, strict=True)),
        trials,
    )
    told = {
        "kept": [str(model) for model in soup.kept],
        "score": best,
        "alone": soup.alone,
        "trials": trials,
    }
    merge(plan, out, shares(len(models), kept), notes={"greedy": told})
    return soup


def _scored(score: Score, folder: Path) -> float:
    value = score(folder)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            f"the score of {folder} is {value!r}; score(folder) must return a finite number."
        )
    return float(value)
