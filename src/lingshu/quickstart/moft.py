"""The quickstart's MOFT: two short trajectories on the same data, averages of them, and beside them
a plain soup.

Both go on from the instruction-tuned model, which stays as it is. The soup averages two runs that
weigh no entity: without it, a gain of the average could not be told from what averaging alone
gives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from lingshu.analysis.merge_path import PATH_JSON, report_path
from lingshu.core import config as configuration
from lingshu.core.files import read_json
from lingshu.recipes import phantom_moft
from lingshu.recipes.phantom_moft import ENTITY_WEIGHT, VARIANTS
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY_FILE, ProgressCallback

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZES = {"moft": 640, "moft_held": 120}
QUESTIONS = 384  # of the phantom task: its first 48 images, four of each modality
TASK = "phantom"
RUNS = ("fluency", "entities", "second_seed")


@dataclass(frozen=True)
class MoftResult:
    """What two trajectories came to: the report of the path between them, that of the soup, and how
    they were trained.
    """

    path: Mapping[str, Any]
    soup: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    seconds: float
    folder: str

    def accuracy(self, weight: float) -> Mapping[str, Any]:
        """The accuracy at a weight of the first trajectory: value, low, high, n."""
        return next(
            point["tasks"][TASK]["accuracy"]
            for point in self.path["points"]
            if point["weight"] == weight
        )

    @property
    def entity_weight(self) -> float:
        return ENTITY_WEIGHT

    @property
    def models(self) -> list[tuple[str, Mapping[str, Any], Mapping[str, float | None]]]:
        """Every average and the soup: its name, its accuracy and its likelihoods."""
        names = {
            1.0: "all tokens equal",
            0.0: f"entities have weight {ENTITY_WEIGHT:g}",
            0.5: "half and half",
        }
        averages = [
            (
                f"W = {point['weight']:g} {names.get(point['weight'], '')}".strip(),
                self.accuracy(point["weight"]),
                point["nll"],
            )
            for point in self.path["points"]
        ]
        soup_nll = self.soup["points"][0]["nll"]
        return [*averages, ("soup of two plain runs", self.soup_accuracy, soup_nll)]

    @property
    def soup_accuracy(self) -> Mapping[str, Any]:
        return self.soup["points"][0]["tasks"][TASK]["accuracy"]


def curate_data(
    folder: Path, *, first: int, seed: int, sizes: Mapping[str, int] | None = None
) -> dict[str, Path]:
    """Draw and mark the training and the held-out dialogues, phantoms from number `first` on; what
    is whole is kept.
    """
    from lingshu.curate.run import curate

    folders = {}
    for group, n_images in (sizes or SIZES).items():
        folders[group] = folder / group
        curate(phantom_moft.curation(images=n_images, first=first, seed=seed), folders[group])
        first += n_images
    return folders


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
    """Train both trajectories and the soup's second half from checkpoint `start`, average them and
    measure every average.

    `data` and `held` carry entities (`draw`). Run again with the same `out` it goes on where it
    stopped.
    """
    from lingshu.weights.base import MergeWeights
    from lingshu.weights.output import MergePlan, merge, merge_path

    started = time.monotonic()
    config = replace(
        phantom_moft.short_trajectory(str(start), steps=steps), threads=threads, seed=seed
    )
    ends = {
        name: _train_variant(
            config, name, data, out, seed=seed + (name == "second_seed"), progress=progress
        )
        for name in RUNS
    }
    fluency, entities, second = (ends[name] for name in RUNS)
    pair, soup = MergePlan((fluency, entities)), MergePlan((fluency, second))
    if (out / "path" / "points").is_dir():
        points = [(weight, out / "path" / "points" / f"{weight:.2f}") for weight in WEIGHTS]
    else:
        points = merge_path(pair, out / "path", WEIGHTS)
    if not (out / "soup" / "model").is_dir():
        merge(soup, out / "soup" / "model", MergeWeights((0.5, 0.5)))
    eval_options = {"limit": questions, "batch_size": 64}
    # A table for each point is more than a first look needs; they stand in the reports.
    with redirect_stdout(StringIO()):
        report_path(
            out / "path",
            points,
            data=held_out,
            tasks=[TASK],
            batch=32,
            threads=threads,
            evaluation=eval_options,
        )
        report_path(
            out / "soup",
            [(0.5, out / "soup" / "model")],
            data=held_out,
            tasks=[TASK],
            batch=32,
            threads=threads,
            evaluation=eval_options,
        )
    stages = {name: read_json(out / name / SUMMARY_FILE)["stages"][0] for name in RUNS}
    path_report, soup_report = (read_json(out / name / PATH_JSON) for name in ("path", "soup"))
    return MoftResult(
        path_report, soup_report, stages, round(time.monotonic() - started, 1), str(out / "path")
    )


def _train_variant(
    config: TrainConfig,
    name: str,
    data: Path,
    out: Path,
    *,
    seed: int,
    progress: ProgressCallback | None,
) -> Path:
    from lingshu.train.loop import train

    variant_config = configuration.override(config, VARIANTS[name])
    return train(
        replace(variant_config, seed=seed, data={"instruct": str(data)}, tensorboard=False),
        out / name,
        resume=True,
        progress=progress,
    )


def as_json(result: MoftResult) -> dict[str, Any]:
    """The part `moft` of summary.json: accuracy and likelihood by weight of the first trajectory,
    the soup, the barrier.
    """
    points = [
        {
            "weight": point["weight"],
            "accuracy": point["tasks"][TASK]["accuracy"],
            "nll": point["nll"],
        }
        for point in result.path["points"]
    ]
    return {
        "entity_weight": ENTITY_WEIGHT,
        "entity_share": result.stages["entities"]["entities"]["fraction"],
        "points": points,
        "soup": {"accuracy": result.soup_accuracy, "nll": result.soup["points"][0]["nll"]},
        "barrier": result.path["barrier"],
        "recommended": result.path["recommended"],
        "steps": result.stages["fluency"]["steps"],
        "seconds": result.seconds,
        "path": result.folder,
    }
