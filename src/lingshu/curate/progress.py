"""How a curation shows itself: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from lingshu.curate.loop import Progress

PLAIN_EVERY_S = 10.0


class Silent:
    """Shows nothing."""

    def start(self, title: str, total: int | None) -> None:
        pass

    def advance(self, rows: int, *, done_before: bool) -> None:
        pass


class Lines:
    """Plain lines for logs: one every ten seconds, and one for each pass that took longer or was
    done before.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rate = Rate()
        self._title, self._total, self._shown = "", None, time.monotonic()

    def start(self, title: str, total: int | None) -> None:
        self._title, self._total, self._rate = title, total, Rate()

    def advance(self, rows: int, *, done_before: bool) -> None:
        self._rate.add(rows, done_before=done_before)
        now = time.monotonic()
        if now - self._shown < PLAIN_EVERY_S:
            return
        self._shown = now
        rate = self._rate
        ready = f", {rate.before} of them before" if rate.before else ""
        text = (
            f"{self._title}: {rate.rows}{f'/{self._total}' if self._total is not None else ''}"
            f" rows{ready}, {rate.per_s:.1f}/s"
        )
        if self._total is not None and rate.per_s:
            text += f", {max(0.0, (self._total - rate.rows) / rate.per_s):.0f} s left"
        print(text, file=self._stream, flush=True)


class Rate:
    """Rows done, and those done in this run for each second of it; what an earlier run did is no
    measure of speed.
    """

    def __init__(self) -> None:
        self.rows = self.before = 0
        self._began = time.monotonic()

    def add(self, rows: int, *, done_before: bool) -> None:
        self.rows += rows
        self.before += rows if done_before else 0

    @property
    def per_s(self) -> float:
        return (self.rows - self.before) / max(time.monotonic() - self._began, 1e-6)


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Progress]:
    """A progress display on `stream` (standard error by default), live where that is a terminal."""
    target = stream or sys.stderr
    if not target.isatty():
        yield Lines(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=target)) as bar:
        yield _Live(bar)


class _Live:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None
        self._rate = Rate()

    def start(self, title: str, total: int | None) -> None:
        self._rate = Rate()
        self._task = self._bar.add_task(title, total=total, rate=0.0)

    def advance(self, rows: int, *, done_before: bool) -> None:
        self._rate.add(rows, done_before=done_before)
        self._bar.update(self._task, advance=rows, rate=self._rate.per_s)
