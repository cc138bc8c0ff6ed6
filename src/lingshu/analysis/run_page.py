"""A page of a training run, while it trains and afterwards: OUT/report.html.

Curves of loss, validation, speed and learning rate for each stage, what was dropped, and which
checkpoints are kept, from the files of the run alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.files import read_json, write_text
from lingshu.evaluate.report.render import DISCLAIMER, render_page
from lingshu.train.log import LOG_FILE, SUMMARY_FILE, VALIDATION, read_log
from lingshu.train.progress import ProgressCallback, StepProgress

PAGE = "report.html"
PAGE_INTERVAL_S = 60.0
MAX_POINTS = 400  # of a curve; more are averaged together
REWARD_METRICS = ("reward", "format", "accuracy", "frac_with_signal")
Points = list[tuple[float, float]]
Curves = list[tuple[str, Points]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageCurves:
    """What the page shows of a stage; `summary` is None until it is finished."""

    name: str
    step: int
    total: int
    last: Mapping[str, Any]
    loss: Curves
    accuracy: Curves
    rewards: Curves
    speed: Curves
    data_wait: Curves
    learning_rate: Curves
    measured: Sequence[tuple[int, Mapping[str, float]]]
    summary: Mapping[str, Any] | None
    kept: Mapping[str, Any] | None


def write_run_page(out: Path) -> Path:
    """Write the page of a run in `out`, finished or not; returns its path.

    Raises:
        StorageError: the disk refused the write.
    """
    rows = read_log(out) if (out / LOG_FILE).exists() else []
    summaries = read_json(out / SUMMARY_FILE)["stages"] if (out / SUMMARY_FILE).exists() else []
    by_name = {summary["name"]: summary for summary in summaries}
    stages = []
    for number, name in enumerate(dict.fromkeys(row["stage"] for row in rows), 1):
        kept = out / "checkpoints" / f"{number}-{name}" / "kept.json"
        stages.append(
            stage_curves(
                [row for row in rows if row["stage"] == name],
                by_name.get(name),
                read_json(kept) if kept.exists() else None,
            )
        )
    is_finished = (out / "checkpoint").is_dir()
    state = "Finished." if is_finished else "Not finished: this page is written again as it trains."
    page = render_page(
        "analysis/templates/run.html.j2",
        title=f"Training run: {out.resolve().name}",
        lead=f"{state} {DISCLAIMER}",
        stages=stages,
    )
    path = out / PAGE
    write_text(path, page)
    return path


def stage_curves(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    kept: Mapping[str, Any] | None,
) -> StageCurves:
    """The curves of the log's rows of one stage, of which there is at least one."""
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(f"{VALIDATION}/"))
    losses, accuracies = (
        [name for name in names if name.endswith(f"/{kind}")] for kind in ("loss", "accuracy")
    )
    last = rows[-1]
    return StageCurves(
        name=last["stage"],
        step=last["step"],
        total=last["total"],
        last=last,
        loss=_curves(rows, ["loss", *losses]),
        accuracy=_curves(rows, accuracies, scale=100),
        rewards=_curves(rows, [name for name in REWARD_METRICS if name in last]),
        speed=_curves(rows, ["tokens_per_s"]),
        data_wait=_curves(rows, ["data_wait"], scale=100),
        learning_rate=_curves(rows, ["learning_rate"]),
        measured=[(row["step"], row) for row in rows if any(name in row for name in names)],
        summary=summary,
        kept=kept,
    )


def _curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, scale: float = 1) -> Curves:
    """A curve for each name that has a value: training's loss is "training"."""
    curves = []
    for name in names:
        points = [(row["step"], scale * row[name]) for row in rows if row.get(name) is not None]
        label = {"loss": "training"}.get(name, name.removeprefix(f"{VALIDATION}/"))
        if points:
            curves.append((label, thin_curve(points)))
    return curves


def thin_curve(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> Points:
    """At most `limit` points, each the mean of as many neighbors."""
    size = -(-len(points) // limit)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def with_page(progress: ProgressCallback, out: Path) -> ProgressCallback:
    """The same callback, which also keeps the page of the run up to date."""
    last_written = -PAGE_INTERVAL_S

    def show(step: StepProgress) -> None:
        nonlocal last_written
        progress(step)
        if time.monotonic() - last_written < PAGE_INTERVAL_S and not step.validation:
            return
        try:
            write_run_page(out)
        except Exception:  # a page is not worth a run of days
            logger.warning("the page of the run was not written", exc_info=True)
        last_written = time.monotonic()

    return show
