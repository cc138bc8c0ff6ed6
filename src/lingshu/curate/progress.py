"""How a curation shows itself: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from lingshu.curate.runner import RowProgress

PLAIN_EVERY_S = 10.0


class NoProgress:
    """Shows nothing."""

    def start(self, title: str, total: int | None) -> None:
        pass

    def advance(self, rows: int, *, already_done: bool) -> None:
        pass


class PlainProgress:
    """Plain lines for logs: one every ten seconds, and one for each pass that took longer or was
    done before.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rate = Throughput()
        self._title, self._total, self._last_print = "", None, time.monotonic()

    def start(self, title: str, total: int | None) -> None:
        self._title, self._total, self._rate = title, total, Throughput()

    def advance(self, rows: int, *, already_done: bool) -> None:
        self._rate.add(rows, already_done=already_done)
        now = time.monotonic()
        if now - self._last_print < PLAIN_EVERY_S:
            return
        self._last_print = now
        rate = self._rate
        resumed_text = f", {rate.resumed_rows} of them before" if rate.resumed_rows else ""
        text = (
            f"{self._title}: {rate.rows}{f'/{self._total}' if self._total is not None else ''}"
            f" rows{resumed_text}, {rate.rows_per_s:.1f}/s"
        )
        if self._total is not None and rate.rows_per_s:
            text += f", {max(0.0, (self._total - rate.rows) / rate.rows_per_s):.0f} s left"
        print(text, file=self._stream, flush=True)


class Throughput:
    """Rows done, and those done in this run for each second of it; what an earlier run did is no
    measure of speed.
    """

    def __init__(self) -> None:
        self.rows = self.resumed_rows = 0
        self._started_at = time.monotonic()

    def add(self, rows: int, *, already_done: bool) -> None:
        self.rows += rows
        self.resumed_rows += rows if already_done else 0

    @property
    def rows_per_s(self) -> float:
        return (self.rows - self.resumed_rows) / max(time.monotonic() - self._started_at, 1e-6)


@contextlib.contextmanager
def show_progress(stream: TextIO | None = None) -> Iterator[RowProgress]:
    """A progress display on `stream` (standard error by default), live where that is a terminal."""
    target = stream or sys.stderr
    if not target.isatty():
        yield PlainProgress(target)
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
        yield _LiveProgress(bar)


class _LiveProgress:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None
        self._rate = Throughput()

    def start(self, title: str, total: int | None) -> None:
        self._rate = Throughput()
        self._task = self._bar.add_task(title, total=total, rate=0.0)

    def advance(self, rows: int, *, already_done: bool) -> None:
        self._rate.add(rows, already_done=already_done)
        self._bar.update(self._task, advance=rows, rate=self._rate.rows_per_s)
