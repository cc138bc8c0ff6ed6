"""The quickstart's MOFT: two short trajectories on the same data, their averages, a plain soup.

Both continue from the instruction-tuned model, which stays as it is. The soup averages two runs
without entity weights: without it, a gain of the average could not be told from the gain of
averaging alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lingshu.analysis.merge_path import PATH_JSON, report_path
from lingshu.core import config as configuration
from lingshu.core.files import read_json
from lingshu.evaluate.run import EvalConfig
from lingshu.quickstart.phantoms import BATCH_SIZE
from lingshu.recipes import phantom_moft
from lingshu.recipes.phantom_moft import ENTITY_WEIGHT, VARIANTS
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY_FILE
from lingshu.train.progress import ProgressCallback

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZES = {"moft": 640, "moft_held": 120}
QUESTIONS = 384  # of the phantom task: its first 48 images, four of each modality
TASK = "phantom"
RUNS = ("fluency", "entities", "second_seed")
WEIGHT_NAMES = {
    1.0: "all tokens equal",
    0.0: f"entities have weight {ENTITY_WEIGHT:g}",
    0.5: "half and half",
}


@dataclass(frozen=True)
class MoftResult:
    """The report of the path between the trajectories, that of the soup, and the trained stages."""

    path: Mapping[str, Any]
    soup: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    seconds: float
    folder: str
    entity_weight: float = ENTITY_WEIGHT

    def accuracy(self, weight: float) -> Mapping[str, Any]:
        """The accuracy at a weight of the first trajectory: value, low, high, n."""
        (point,) = (point for point in self.path["points"] if point["weight"] == weight)
        return point["tasks"][TASK]["accuracy"]

    @property
    def soup_accuracy(self) -> Mapping[str, Any]:
        return self.soup["points"][0]["tasks"][TASK]["accuracy"]

    @property
    def models(self) -> list[tuple[str, Mapping[str, Any], Mapping[str, float | None]]]:
        """Every average and the soup: its name, its accuracy and its likelihoods."""
        averages = [
            (
                f"W = {point['weight']:g} {WEIGHT_NAMES.get(point['weight'], '')}".strip(),
                point["tasks"][TASK]["accuracy"],
                point["nll"],
            )
            for point in self.path["points"]
        ]
        soup_nll = self.soup["points"][0]["nll"]
        return [*averages, ("soup of two plain runs", self.soup_accuracy, soup_nll)]

    def as_json(self) -> dict[str, Any]:
        """The part `moft` of summary.json."""
        points = [
            {
                "weight": point["weight"],
                "accuracy": point["tasks"][TASK]["accuracy"],
                "nll": point["nll"],
            }
            for point in self.path["points"]
        ]
        return {
            "entity_weight": self.entity_weight,
            "entity_share": self.stages["entities"]["entities"]["fraction"],
            "points": points,
            "soup": {"accuracy": self.soup_accuracy, "nll": self.soup["points"][0]["nll"]},
            "barrier": self.path["barrier"],
            "recommended": self.path["recommended"],
            "steps": self.stages["fluency"]["steps"],
            "seconds": self.seconds,
            "path": self.folder,
        }


def run_moft(
    start: Path,
    data: Path,
    held_out: Path,
    out: Path,
    *,
    seed: int,
    progress: ProgressCallback | None = None,
    steps: int = phantom_moft.SHORT_STEPS,
    questions: int = QUESTIONS,
    threads: int | None = 1,
) -> MoftResult:
    """Train both trajectories and the soup's second half from `start`; average and measure them.

    `data` and `held_out` are annotated with entities. A second call with the same `out` resumes.
    """
    from lingshu.engines.hf import load
    from lingshu.weights.base import MergeWeights
    from lingshu.weights.output import MergePlan, merge, merge_path

    started = time.monotonic()
    config = phantom_moft.short_trajectory(str(start), steps=steps)
    config = replace(
        config, threads=threads, data={"instruct": str(data)}, tensorboard=False, seed=seed
    )
    fluency, entities, second = (_train_variant(config, name, out, progress) for name in RUNS)
    path, soup = out / "path", out / "soup"
    if (path / "points").is_dir():
        points = [(weight, path / "points" / f"{weight:.2f}") for weight in WEIGHTS]
    else:
        points = merge_path(MergePlan((fluency, entities)), path, WEIGHTS)
    if not (soup / "model").is_dir():
        merge(MergePlan((fluency, second)), soup / "model", MergeWeights((0.5, 0.5)))

    eval_config = EvalConfig(limit=questions, batch_size=BATCH_SIZE, threads=threads)
    for folder, weighted in ((path, points), (soup, [(0.5, soup / "model")])):
        report_path(folder, weighted, load, eval_config, data=held_out, tasks=[TASK], batch_size=32)
    return MoftResult(
        read_json(path / PATH_JSON),
        read_json(soup / PATH_JSON),
        {name: read_json(out / name / SUMMARY_FILE)["stages"][0] for name in RUNS},
        round(time.monotonic() - started, 1),
        str(path),
    )


def _train_variant(
    config: TrainConfig, name: str, out: Path, progress: ProgressCallback | None
) -> Path:
    from lingshu.train.loop import train

    config = configuration.override(config, VARIANTS[name])
    config = replace(config, seed=config.seed + (name == "second_seed"))
    return train(config, out / name, resume=True, progress=progress)
