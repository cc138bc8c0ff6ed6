"""How a long run shows itself: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol, TextIO

PRINT_INTERVAL_S = 10.0


class Progress(Protocol):
    """What a loop tells about itself: how much there is to do at the start, then every step."""

    def start(self, total: int, done: int) -> None: ...

    def advance(self, done: int, failed: int) -> None: ...


class NoProgress:
    """Shows nothing."""

    def start(self, total: int, done: int) -> None:
        pass

    def advance(self, done: int, failed: int) -> None:
        pass


class PlainProgress:
    """Plain lines for logs: one at the start, one every ten seconds, one at the end."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title, self._stream = title, stream
        self._total = self._done = self._failed = self._n_before = 0
        self._started_at = self._last_printed = time.monotonic()

    def start(self, total: int, done: int) -> None:
        self._total, self._done, self._n_before = total, done, done
        self._started_at = self._last_printed = time.monotonic()
        if done:
            print(
                f"{self._title}: {done} of {total} are answered already",
                file=self._stream,
                flush=True,
            )

    def advance(self, done: int, failed: int) -> None:
        self._done += done
        self._failed += failed
        now = time.monotonic()
        if self._done >= self._total or now - self._last_printed >= PRINT_INTERVAL_S:
            self._last_printed = now
            rate = (self._done - self._n_before) / max(now - self._started_at, 1e-6)
            remaining_s = (self._total - self._done) / rate if rate else 0.0
            text = (
                f"{self._title}: {self._done}/{self._total}, {self._failed} failed, {rate:.1f}/s,"
                f" {remaining_s:.0f} s left"
            )
            print(text, file=self._stream, flush=True)


@contextlib.contextmanager
def progress_bar(title: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """A progress display called `title` on `stream` (standard error by default), live where that is
    a terminal.
    """
    target = stream or sys.stderr
    if not target.isatty():
        yield PlainProgress(title, target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=target)) as bar:
        yield _RichProgress(bar.add_task(title, total=None, failed=0, rate=0.0), bar)


class _RichProgress:
    def __init__(self, task: object, bar: object) -> None:
        self._task, self._bar = task, bar
        self._failed = self._count = 0
        self._started_at = time.monotonic()

    def start(self, total: int, done: int) -> None:
        self._started_at = time.monotonic()
        self._bar.update(self._task, total=total, completed=done)  # type: ignore[attr-defined]

    def advance(self, done: int, failed: int) -> None:
        self._failed += failed
        self._count += done
        rate = self._count / max(time.monotonic() - self._started_at, 1e-6)
        self._bar.update(self._task, advance=done, failed=self._failed, rate=rate)  # type: ignore[attr-defined]
