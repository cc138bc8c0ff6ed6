"""What a terminal shows of a run: a live line, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

PLAIN_LINE_EVERY_S = 10.0


@dataclass(frozen=True)
class StepProgress:
    """A logged step. Tokens are counted whether supervised or not; `data_wait` is the share of the
    time since the last logged step that the model waited for data; `dropped` counts the stage's
    unusable samples and `skipped` its non-finite steps; `validation` is what was measured at this
    step, by name.
    """

    stage: str
    step: int
    total: int
    loss: float
    tokens_per_s: float
    data_wait: float = 0.0
    dropped: int = 0
    skipped: int = 0
    validation: Mapping[str, float] = field(default_factory=dict)


class ProgressCallback(Protocol):
    """Called after each logged step."""

    def __call__(self, progress: StepProgress, /) -> None: ...


@contextmanager
def progress_line() -> Iterator[ProgressCallback]:
    """Loss, tokens per second, waiting and drops, time left: a live bar, or a plain line every ten
    seconds.
    """
    from rich import progress as rich_progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines(
            lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
        )
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=20),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[now]}"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(progress: StepProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total, now="")
            bar.update(tasks[progress.stage], completed=progress.step, now=describe(progress))
            if progress.validation:
                bar.console.print(describe_validation(progress), highlight=False, markup=False)

        yield show


def plain_lines(print_line: Callable[[str], None]) -> ProgressCallback:
    """Progress as plain lines, at most one in ten seconds besides the last of each stage and the
    measurements on held-out rows.
    """
    last_printed = time.monotonic()
    started: dict[str, tuple[float, int]] = {}

    def show(progress: StepProgress) -> None:
        nonlocal last_printed
        step, total, now = progress.step, progress.total, time.monotonic()
        started_at, first_step = started.setdefault(progress.stage, (now, step))
        if progress.validation:
            print_line(describe_validation(progress))
        if step < total and now - last_printed < PLAIN_LINE_EVERY_S:
            return
        last_printed = now
        seconds_left = (now - started_at) / max(1, step - first_step) * (total - step)
        print_line(
            f"{progress.stage}: step {step}/{total}, {describe(progress)},"
            f" {seconds_left:.0f} s left"
        )

    return show


def describe(progress: StepProgress) -> str:
    """Loss and speed; waiting for data, dropped samples and skipped steps where there are any."""
    parts = [f"loss {progress.loss:.3f}", f"{progress.tokens_per_s:,.0f} tokens/s"]
    if progress.data_wait >= 0.005:
        parts.append(f"data {progress.data_wait:.0%}")
    if progress.dropped:
        parts.append(f"{progress.dropped} dropped")
    if progress.skipped:
        parts.append(f"{progress.skipped} skipped")
    return ", ".join(parts)


def describe_validation(progress: StepProgress) -> str:
    values = ", ".join(f"{name} {value:.3f}" for name, value in progress.validation.items())
    return f"{progress.stage}: step {progress.step}, validation {values}"
