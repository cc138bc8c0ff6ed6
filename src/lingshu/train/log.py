"""The learning log: one JSONL row per logged step, the same numbers for TensorBoard, and a progress
line for people.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lingshu.core.files import JsonlAppender, read_jsonl

LOG_FILE = "log.jsonl"
SUMMARY_FILE = "summary.json"


class ProgressCallback(Protocol):
    """What a loop tells whoever watches it: the stage, steps done and in all, mean loss, supervised
    and other tokens a second.
    """

    def __call__(
        self, stage: str, step: int, total: int, loss: float, tokens_per_s: float
    ) -> None: ...


@dataclass
class TrainingLog:
    """Appends rows to OUT/log.jsonl and, where wanted, to TensorBoard files in OUT/tensorboard."""

    path: Path
    appender: JsonlAppender
    writer: object | None

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def add(self, row: Mapping[str, object], step: int) -> None:
        self.appender.append([row])
        if self.writer is not None:
            for key, value in row.items():
                if value is None or key in ("stage", "step", "total"):
                    continue
                self.writer.add_scalar(f"{row['stage']}/{key}", value, step)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def open_log(out: Path, *, log_bytes: int, tensorboard: bool) -> Iterator[TrainingLog]:
    """Open the log at the length it had when the state was saved: rows of steps that will be taken
    again are cut off.

    Raises:
        StorageError: another process writes it; not a row of it is touched.
    """
    path = out / LOG_FILE
    writer = None
    with JsonlAppender(path) as appender:
        if path.stat().st_size > log_bytes:
            os.truncate(path, log_bytes)
        if tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            writer = SummaryWriter(str(out / "tensorboard"))
        try:
            yield TrainingLog(path, appender, writer)
        finally:
            if writer is not None:
                writer.close()


def read_log(out: Path) -> list[dict]:
    """Every row of a run's learning log, in the order of its steps."""
    return list(read_jsonl(out / LOG_FILE))


@contextmanager
def progress_line() -> Iterator[ProgressCallback]:
    """A line with loss, tokens a second and time left: redrawn on a terminal, else a plain line
    every ten seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines(console)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def show(stage: str, step: int, total: int, loss: float, tokens_per_s: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, now="")
            bar.update(
                tasks[stage],  # pyright: ignore[reportArgumentType]
                completed=step,
                now=f"loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s",
            )

        yield show


def plain_lines(console: object, *, every_s: float = 10.0) -> ProgressCallback:
    """Progress as plain lines, at most one in `every_s` seconds besides each stage's last."""
    last_printed = time.monotonic()
    started: dict[str, tuple[float, int]] = {}

    def show(stage: str, step: int, total: int, loss: float, tokens_per_s: float) -> None:
        nonlocal last_printed
        now = time.monotonic()
        started_at, first_step = started.setdefault(stage, (now, step))
        if step < total and now - last_printed < every_s:
            return
        last_printed = now
        seconds_left = (now - started_at) / max(1, step - first_step) * (total - step)
        console.print(  # pyright: ignore[reportAttributeAccessIssue]
            f"{stage}: step {step}/{total}, loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s,"
            f" {seconds_left:.0f} s left",
            highlight=False,
        )

    return show
