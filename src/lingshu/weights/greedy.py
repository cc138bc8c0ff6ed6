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
from lingshu.core.files import storage_errors
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, check_output_folder, merge

ScoreFunction = Callable[[Path], float]


class GreedySoup(NamedTuple):
    """The models that were kept, the score of the soup of them, the score of each model alone, and
    every trial.
    """

    selected: tuple[Path, ...]
    score: float
    individual_scores: list[tuple[str, float]]
    trials: list[dict[str, object]]


def uniform_weights(n_models: int, selected: Sequence[int]) -> MergeWeights:
    """The plain mean of the chosen ones, by their numbers; the others have no weight."""
    return MergeWeights(
        tuple(1 / len(selected) if index in selected else 0.0 for index in range(n_models))
    )


def greedy_soup(plan: MergePlan, out: Path, score: ScoreFunction) -> GreedySoup:
    """Choose models greedily by `score` (higher is better) and write the mean of those kept to
    `out`.

    Each of the n models is scored once, and each but the best once more in a soup, which is written
    beside `out` and removed again.

    Raises:
        InputError: a score that is no number; otherwise as `merge`.
    """
    check_output_folder(plan, out)
    models = plan.models
    individual_scores = [_checked_score(score, model) for model in models]
    ranked = sorted(range(len(models)), key=lambda index: -individual_scores[index])
    selected, best, trials = [ranked[0]], individual_scores[ranked[0]], []
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    for candidate in ranked[1:]:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.soup.", dir=out.parent) as folder:
            trial = Path(folder) / "soup"
            merge(plan, trial, uniform_weights(len(models), [*selected, candidate]))
            trial_score = _checked_score(score, trial)
        trials.append(
            {
                "candidate": str(models[candidate]),
                "score": trial_score,
                "selected": trial_score >= best,
            }
        )
        if trial_score >= best:
            selected.append(candidate)
            best = trial_score
    soup = GreedySoup(
        tuple(models[index] for index in selected),
        best,
        list(zip(map(str, models), individual_scores, strict=True)),
        trials,
    )
    soup_notes = {
        "selected": [str(model) for model in soup.selected],
        "score": best,
        "individual_scores": soup.individual_scores,
        "trials": trials,
    }
    merge(plan, out, uniform_weights(len(models), selected), notes={"greedy": soup_notes})
    return soup


def _checked_score(score: ScoreFunction, folder: Path) -> float:
    value = score(folder)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            f"the score of {folder} is {value!r}; score(folder) must return a finite number."
        )
    return float(value)
