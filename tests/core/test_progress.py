"""Progress: plain lines where there is no terminal, a live bar on one."""

from __future__ import annotations

import io

import pytest

from lingshu.core import progress
from lingshu.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_tell_what_was_done_before_and_the_end() -> None:
    stream = io.StringIO()
    with progress_bar("vqa", stream) as bar:
        bar.start(4, 1)
        bar.advance(2, 1)
        bar.advance(1)
    first, last = stream.getvalue().splitlines()
    assert first == "vqa: 1 of 4 were done before"
    assert last.startswith("vqa: 4/4, 1 failed, 1 done before, ")


def test_a_line_comes_after_ten_seconds_and_without_a_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with progress_bar(stream=stream) as bar:
        bar.start(None, title="pass 1 of 2")
        for _ in range(4):
            bar.advance(5, resumed=True)
    lines = stream.getvalue().splitlines()
    assert lines and all(line.startswith("pass 1 of 2: ") for line in lines)
    assert all(" done before, 0.0/s" in line and "left" not in line for line in lines)
    # Where nothing counts failures, a line must not claim that there were none.
    assert not any("failed" in line for line in lines)


def test_a_terminal_shows_a_bar() -> None:
    stream = Terminal()
    with progress_bar("vqa", stream) as bar:
        bar.start(3, 1)
        bar.advance(2, 1)
    assert "vqa" in stream.getvalue() and "3/3" in stream.getvalue()


def test_a_terminal_shows_one_bar_for_each_phase() -> None:
    stream = Terminal()
    with progress_bar(stream=stream) as bar:
        bar.start(3, title="pass 1 of 2")
        bar.advance(3, 0)
    last_frame = stream.getvalue().rpartition("\x1b[2K")[2]
    assert "pass 1 of 2" in last_frame and last_frame.count(" failed") == 1
