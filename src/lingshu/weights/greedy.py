"""The greedy model soup: from the best model to the worst, one is added if the soup is no worse.

Wortsman et al. 2022, arXiv 2203.05482, recipe 1. The caller gives the function that scores a
folder; score on validation data, not on the test set, because that score selects the soup.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.files import storage_errors
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, check_output_folder, merge

ScoreFunction = Callable[[Path], float]


class GreedySoup(NamedTuple):
    """The selected models, the score of their soup, the score of each model, and every trial."""

    selected: tuple[Path, ...]
    score: float
    individual_scores: list[tuple[str, float]]
    trials: list[dict[str, object]]


def greedy_soup(plan: MergePlan, out: Path, score: ScoreFunction) -> GreedySoup:
    """Select models greedily by `score` (higher is better) and write the mean of them to `out`.

    Each of n models is scored once, and each but the best once more in a soup, which is written
    next to `out` and removed again.

    Raises:
        InputError: a score that is not a number; otherwise as `merge`.
    """
    check_output_folder(plan, out)
    models = plan.models
    scores = [_checked_score(score, model) for model in models]
    best_index, *others = sorted(range(len(models)), key=lambda index: -scores[index])
    selected, best, trials = [best_index], scores[best_index], []
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    for index in others:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.soup.", dir=out.parent) as folder:
            trial = Path(folder) / "soup"
            merge(plan, trial, _uniform_weights(len(models), [*selected, index]))
            trial_score = _checked_score(score, trial)
        is_better = trial_score >= best
        candidate = str(models[index])
        trials.append({"candidate": candidate, "score": trial_score, "selected": is_better})
        if is_better:
            selected.append(index)
            best = trial_score
    individual_scores = list(zip(map(str, models), scores, strict=True))
    soup = GreedySoup(tuple(models[index] for index in selected), best, individual_scores, trials)
    notes = {**soup._asdict(), "selected": [str(model) for model in soup.selected]}
    merge(plan, out, _uniform_weights(len(models), selected), notes={"greedy": notes})
    return soup


def _uniform_weights(n_models: int, selected: Sequence[int]) -> MergeWeights:
    share = 1 / len(selected)
    return MergeWeights(tuple(share if index in selected else 0.0 for index in range(n_models)))


def _checked_score(score: ScoreFunction, folder: Path) -> float:
    value = score(folder)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        rule = "score(folder) must return a finite number"
        raise InputError(f"the score of {folder} is {value!r}; {rule}.")
    return float(value)
