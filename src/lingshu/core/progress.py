"""Progress of a long run: a live bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

PRINT_INTERVAL_S = 10.0


class Progress(Protocol):
    """What a loop reports: the amount of work at the start, then every advance.

    `start` may be called again for the next phase. `done` and `resumed` work of an earlier run does
    not count for the speed; an unknown total is None, and so are failures that are not counted.
    """

    def start(self, total: int | None, done: int = 0, *, title: str = "") -> None: ...

    def advance(self, n: int, failed: int | None = None, *, resumed: bool = False) -> None: ...


class NoProgress:
    """Shows nothing."""

    def start(self, total: int | None, done: int = 0, *, title: str = "") -> None:
        pass

    def advance(self, n: int, failed: int | None = None, *, resumed: bool = False) -> None:
        pass


class PlainProgress:
    """Plain lines for logs: one every ten seconds and one when a total is reached."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title, self._stream = title, stream
        self.start(None)

    def start(self, total: int | None, done: int = 0, *, title: str = "") -> None:
        self._title = title or self._title
        self._total, self._done, self._resumed = total, done, done
        self._failed: int | None = None
        self._started_at = self._last_printed = time.monotonic()
        if done:
            self._print(f"{done} of {total} were done before")

    def advance(self, n: int, failed: int | None = None, *, resumed: bool = False) -> None:
        self._done += n
        if failed is not None:
            self._failed = (self._failed or 0) + failed
        self._resumed += n if resumed else 0
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self._done != self._total and now - self._last_printed < PRINT_INTERVAL_S:
            return
        self._last_printed = now
        of_total = "" if self._total is None else f"/{self._total}"
        text = f"{self._done}{of_total}"
        text += f", {self._failed_text}" if self._failed_text else ""
        text += f", {self._resumed} done before" if self._resumed else ""
        text += f", {self.rate:.1f}/s"
        if self._total is not None and self.rate:
            text += f", {max(0.0, (self._total - self._done) / self.rate):.0f} s left"
        self._print(text)

    @property
    def _failed_text(self) -> str:
        return "" if self._failed is None else f"{self._failed} failed"

    @property
    def rate(self) -> float:
        """Units done per second of this run."""
        return (self._done - self._resumed) / max(time.monotonic() - self._started_at, 1e-6)

    def _print(self, text: str) -> None:
        print(f"{self._title}: {text}", file=self._stream, flush=True)


class _RichProgress(PlainProgress):
    def __init__(self, title: str, stream: TextIO, bar: Any) -> None:
        self._bar, self._task = bar, None
        super().__init__(title, stream)

    def start(self, total: int | None, done: int = 0, *, title: str = "") -> None:
        super().start(total, title=title)
        self._done = self._resumed = done
        if title or self._task is None:
            self._task = self._bar.add_task(
                self._title, total=total, failed="", rate=0.0, visible=bool(self._title)
            )
        self._bar.update(self._task, total=total, completed=done)

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._done, failed=self._failed_text, rate=self.rate)


@contextlib.contextmanager
def progress_bar(title: str = "", stream: TextIO | None = None) -> Iterator[Progress]:
    """A progress display on `stream`, standard error by default."""
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
        TextColumn("{task.fields[failed]}"),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=target)) as bar:
        yield _RichProgress(title, target, bar)
