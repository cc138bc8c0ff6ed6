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

from lingshu.apps._merge_path import PATH_JSON, report_path
from lingshu.core import config as configuration
from lingshu.core.files import read_json
from lingshu.evaluate import page
from lingshu.evaluate.page import Series
from lingshu.evaluate.report import percent
from lingshu.recipes import phantom_moft
from lingshu.recipes.phantom_moft import ENTITY_WEIGHT, VARIANTS
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY, Progress

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZES = {"moft": 640, "moft_held": 120}
QUESTIONS = 384  # of the phantom task: its first 48 images, four of each modality
TASK = "phantom"
RUNS = ("fluency", "entities", "second_seed")


@dataclass(frozen=True)
class Fused:
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
    def soup_accuracy(self) -> Mapping[str, Any]:
        return self.soup["points"][0]["tasks"][TASK]["accuracy"]


def draw(
    folder: Path, *, first: int, seed: int, sizes: Mapping[str, int] | None = None
) -> dict[str, Path]:
    """Draw and mark the training and the held-out dialogues, phantoms from number `first` on; what
    is whole is kept.
    """
    from lingshu.curate.run import curate

    folders = {}
    for group, number in (sizes or SIZES).items():
        folders[group] = folder / group
        curate(phantom_moft.curation(images=number, first=first, seed=seed), folders[group])
        first += number
    return folders


def fused(
    start: Path,
    data: Path,
    held: Path,
    out: Path,
    *,
    seed: int,
    progress: Progress | None = None,
    steps: int = phantom_moft.SHORT_STEPS,
    questions: int = QUESTIONS,
    threads: int | None = 1,
) -> Fused:
    """Train both trajectories and the soup's second half from checkpoint `start`, average them and
    measure every average.

    `data` and `held` carry entities (`draw`). Run again with the same `out` it goes on where it
    stopped.
    """
    from lingshu.weights.method import Weighting
    from lingshu.weights.result import Merge, merge, merge_path

    begun = time.monotonic()
    config = replace(phantom_moft.short(str(start), steps=steps), threads=threads, seed=seed)
    ends = {
        name: _trained(
            config, name, data, out, seed=seed + (name == "second_seed"), progress=progress
        )
        for name in RUNS
    }
    fluency, entities, second = (ends[name] for name in RUNS)
    pair, soup = Merge((fluency, entities)), Merge((fluency, second))
    if (out / "path" / "points").is_dir():
        points = [(weight, out / "path" / "points" / f"{weight:.2f}") for weight in WEIGHTS]
    else:
        points = merge_path(pair, out / "path", WEIGHTS)
    if not (out / "soup" / "model").is_dir():
        merge(soup, out / "soup" / "model", Weighting((0.5, 0.5)))
    asked = {"limit": questions, "batch_size": 64}
    # A table for each point is more than a first look needs; they stand in the reports.
    with redirect_stdout(StringIO()):
        report_path(
            out / "path",
            points,
            data=held,
            tasks=[TASK],
            batch=32,
            threads=threads,
            evaluation=asked,
        )
        report_path(
            out / "soup",
            [(0.5, out / "soup" / "model")],
            data=held,
            tasks=[TASK],
            batch=32,
            threads=threads,
            evaluation=asked,
        )
    stages = {name: read_json(out / name / SUMMARY)["stages"][0] for name in RUNS}
    path, other = (read_json(out / name / PATH_JSON) for name in ("path", "soup"))
    return Fused(path, other, stages, round(time.monotonic() - begun, 1), str(out / "path"))


def _trained(
    config: TrainConfig, name: str, data: Path, out: Path, *, seed: int, progress: Progress | None
) -> Path:
    from lingshu.train.loop import train

    changed = configuration.override(config, VARIANTS[name])
    return train(
        replace(changed, seed=seed, data={"instruct": str(data)}, tensorboard=False),
        out / name,
        resume=True,
        progress=progress,
    )


def as_json(result: Fused) -> dict[str, Any]:
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
        "entity_share": result.stages["entities"]["entities"]["share"],
        "points": points,
        "soup": {"accuracy": result.soup_accuracy, "nll": result.soup["points"][0]["nll"]},
        "barrier": result.path["barrier"],
        "recommended": result.path["recommended"],
        "steps": result.stages["fluency"]["steps"],
        "seconds": result.seconds,
        "path": result.folder,
    }


def section(result: Fused) -> str:
    """The page's account of it: the curve over the weight, and what the soup says of it."""
    share = result.stages["entities"]["entities"]["share"]
    told = (
        f"From the instruction-tuned model two more runs of {result.stages['fluency']['steps']}"
        " steps went on over the same marked data: one in which all tokens weigh alike, one in"
        f" which those of medical entities weigh {ENTITY_WEIGHT:g} ({percent(share)}% of what is"
        " learnt; MOFT states 11.6%). Their weights are then averaged. The soup averages two runs"
        " without entity weights."
    )
    rows = []
    for point in result.path["points"]:
        weight, nll = point["weight"], point["nll"]
        name = {
            1.0: "all tokens alike",
            0.0: f"entities weigh {ENTITY_WEIGHT:g}",
            0.5: "half and half",
        }.get(weight, "")
        rows.append(
            [f"W = {weight:g} {name}".strip(), *_cells(result.accuracy(weight)), *_nats(nll)]
        )
    rows.append(
        [
            "soup of two plain runs",
            *_cells(result.soup_accuracy),
            *_nats(result.soup["points"][0]["nll"]),
        ]
    )
    curve = [
        (point["weight"], 100 * point["tasks"][TASK]["accuracy"]["value"])
        for point in result.path["points"]
    ]
    level = 100 * result.soup_accuracy["value"]
    curves = [
        Series("average of the two", curve),
        Series("soup of two plain runs", [(0.0, level), (1.0, level)]),
    ]
    header = [
        "model",
        "accuracy (%)",
        "95% interval",
        "nats a token",
        "entity tokens",
        "other tokens",
    ]
    return page.section(
        "Two trajectories, averaged (MOFT)",
        page.paragraph(told),
        page.line_plot(
            curves,
            x_label="W, the weight of the run in which all tokens weigh alike",
            y_label="accuracy (%)",
        ),
        page.table(header, rows),
        page.paragraph(_honest(result)),
    )


def _honest(result: Fused) -> str:
    half, soup = result.accuracy(0.5), result.soup_accuracy
    apart = half["low"] > soup["high"] or soup["low"] > half["high"]
    found = (
        "differ by more than their intervals"
        if apart
        else "do not differ by more than their intervals"
    )
    hill = result.path["barrier"]
    barrier = (
        ""
        if hill is None
        else (
            f" The barrier between the two runs is {hill['value']:.4f} nats a token,"
            f" {hill['tolerance']:.4f} are tolerated."
        )
    )
    return (
        f"Half and half and the soup {found}, on {half['n']} questions of eight kinds about"
        f" held-out phantoms.{barrier} So few steps on drawn pictures show how such a comparison is"
        " made, and say nothing about medicine."
    )


def _cells(accuracy: Mapping[str, Any]) -> list[str]:
    return [
        percent(accuracy["value"]),
        f"{percent(accuracy['low'])} to {percent(accuracy['high'])}",
    ]


def _nats(nll: Mapping[str, float | None]) -> list[str]:
    return [
        "–" if nll[name] is None else f"{nll[name]:.4f}" for name in ("all", "entities", "others")
    ]
