"""The training log: JSONL rows, TensorBoard and experiment trackers, and a progress line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lingshu.core.errors import MissingExtraError
from lingshu.core.files import JsonlAppender, read_jsonl

LOG_FILE = "log.jsonl"
SUMMARY_FILE = "summary.json"
PLAIN_LINE_EVERY_S = 10.0

# Takes the scalars of one step, named "stage/name", and the step of that stage.
Tracker = Callable[[Mapping[str, float], int], None]


class ProgressCallback(Protocol):
    """Called after each logged step; tokens are counted whether supervised or not."""

    def __call__(
        self, stage: str, step: int, total: int, loss: float, tokens_per_s: float
    ) -> None: ...


@dataclass
class TrainingLog:
    """Appends rows to OUT/log.jsonl and passes their numbers to the trackers."""

    path: Path
    appender: JsonlAppender
    trackers: Sequence[Tracker]

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def add(self, row: Mapping[str, Any], step: int) -> None:
        self.appender.append([row])
        scalars = {
            f"{row['stage']}/{name}": value
            for name, value in row.items()
            if value is not None and name not in ("stage", "step", "total")
        }
        for tracker in self.trackers:
            tracker(scalars, step)


def check_trackers(report_to: Sequence[str]) -> None:
    """Raise MissingExtraError for a tracker that is not installed, before anything runs."""
    for name in report_to:
        if find_spec(name) is None:
            raise MissingExtraError.of(name, "trackers")


@contextmanager
def open_log(
    out: Path,
    *,
    log_bytes: int,
    tensorboard: bool,
    report_to: Sequence[str] = (),
    run_name: str = "lingshu",
) -> Iterator[TrainingLog]:
    """Open the log at the length it had in the saved state: later rows are written again.

    Raises:
        StorageError: another process writes it; none of its rows is touched.
    """
    path = out / LOG_FILE
    with JsonlAppender(path) as appender, ExitStack() as open_trackers:
        if path.stat().st_size > log_bytes:
            os.truncate(path, log_bytes)
        trackers = [_open_tracker(name, run_name, open_trackers) for name in report_to]
        if tensorboard:
            trackers.append(_open_tensorboard(out / "tensorboard", open_trackers))
        yield TrainingLog(path, appender, trackers)


def _open_tensorboard(folder: Path, stack: ExitStack) -> Tracker:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(folder))
    stack.callback(writer.close)

    def track(scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    return track


def _open_tracker(name: str, run_name: str, stack: ExitStack) -> Tracker:
    """wandb, trackio or mlflow, each configured by its own environment variables."""
    module = import_module(name)
    if name == "mlflow":
        stack.enter_context(module.start_run(run_name=run_name))
        return lambda scalars, step: module.log_metrics(dict(scalars), step=step)
    module.init(project="lingshu", name=run_name)
    stack.callback(module.finish)
    return lambda scalars, step: module.log(dict(scalars), step=step)


def read_log(out: Path) -> list[dict]:
    """Every row of a run's training log, in the order of its steps."""
    return list(read_jsonl(out / LOG_FILE))


@contextmanager
def progress_line() -> Iterator[ProgressCallback]:
    """Loss, tokens per second and time left: a live bar, or a plain line every ten seconds."""
    from rich import progress as rich_progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines(lambda line: console.print(line, highlight=False))
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[now]}"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, step: int, total: int, loss: float, tokens_per_s: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, now="")
            now = f"loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s"
            bar.update(tasks[stage], completed=step, now=now)

        yield show


def plain_lines(print_line: Callable[[str], None]) -> ProgressCallback:
    """Progress as plain lines, at most one in ten seconds besides the last of each stage."""
    last_printed = time.monotonic()
    started: dict[str, tuple[float, int]] = {}

    def show(stage: str, step: int, total: int, loss: float, tokens_per_s: float) -> None:
        nonlocal last_printed
        now = time.monotonic()
        started_at, first_step = started.setdefault(stage, (now, step))
        if step < total and now - last_printed < PLAIN_LINE_EVERY_S:
            return
        last_printed = now
        seconds_left = (now - started_at) / max(1, step - first_step) * (total - step)
        print_line(
            f"{stage}: step {step}/{total}, loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s,"
            f" {seconds_left:.0f} s left"
        )

    return show
