"""The training log: JSONL rows, and experiment trackers that get the same numbers."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lingshu.core import registry
from lingshu.core.errors import MissingExtraError, one_line
from lingshu.core.files import JsonlAppender, read_json, read_jsonl, write_json

LOG_FILE = "log.jsonl"
SUMMARY_FILE = "summary.json"
TRACKERS_FILE = "trackers.json"
VALIDATION = "validation"  # begins the names of what is measured on held-out rows
PROJECT = "lingshu"  # what trackers file the runs under
logger = logging.getLogger(__name__)

# Takes the scalars of one step, named "stage/name", and the step of the whole run.
Tracker = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is opened for: OUT, a name, settings without any path, and the steps that are
    done already. `run_id` is what the tracker called the run when it was interrupted, else None.
    """

    out: Path
    name: str
    settings: Mapping[str, Any]
    steps_done: int = 0
    run_id: str | None = None


@dataclass(frozen=True)
class OpenTracker:
    """`track` takes the numbers; `run_id` finds the run again if it is resumed."""

    track: Tracker
    run_id: str | None = None


@dataclass
class TrackerSet:
    """The trackers of a run by name; a write that fails is counted and does not stop the run."""

    trackers: Mapping[str, Tracker] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def track(self, scalars: Mapping[str, float], step: int) -> None:
        for name, tracker in self.trackers.items():
            try:
                tracker(scalars, step)
            except Exception as error:  # a library raises what it likes; a run of days outlives it
                if not self.failures[name]:
                    logger.warning("%s did not take step %d: %s", name, step, one_line(error))
                self.failures[name] += 1


@dataclass
class TrainingLog:
    """Appends rows to OUT/log.jsonl and passes their numbers to the trackers.

    `steps_before` counts the steps of the stages before this one.
    """

    path: Path
    appender: JsonlAppender
    trackers: TrackerSet
    steps_before: int = 0

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
        self.trackers.track(scalars, self.steps_before + step)


def check_trackers(names: Sequence[str]) -> None:
    """Raise before anything runs: UnknownNameError, or MissingExtraError for one whose library is
    not installed.
    """
    for name in names:
        module = registry.load("trackers", name)
        if find_spec(module.LIBRARY) is None:
            raise MissingExtraError.of(module.LIBRARY, getattr(module, "EXTRA", "trackers"))


@contextmanager
def open_trackers(names: Sequence[str], run: TrackedRun) -> Iterator[TrackerSet]:
    """Open trackers for a whole run; an interrupted run continues in the runs that it had there.

    Raises:
        ConfigError: a tracker does not start.
    """
    path = run.out / TRACKERS_FILE
    run_ids: dict[str, str] = read_json(path) if path.exists() else {}
    with ExitStack() as stack:
        opened: dict[str, Tracker] = {}
        for name in names:
            tracked = TrackedRun(run.out, run.name, run.settings, run.steps_done, run_ids.get(name))
            tracker = stack.enter_context(registry.load("trackers", name).open_run(tracked))
            opened[name] = tracker.track
            if tracker.run_id is not None:
                run_ids[name] = tracker.run_id
                write_json(path, run_ids)
        yield TrackerSet(opened)


@contextmanager
def open_log(
    out: Path, *, log_bytes: int, trackers: TrackerSet | None = None, steps_before: int = 0
) -> Iterator[TrainingLog]:
    """Open the log at the length it had in the saved state: later rows are written again.

    Raises:
        StorageError: another process writes it; none of its rows is touched.
    """
    path = out / LOG_FILE
    with JsonlAppender(path) as appender:
        if path.stat().st_size > log_bytes:
            os.truncate(path, log_bytes)
        yield TrainingLog(path, appender, trackers or TrackerSet(), steps_before)


def read_log(out: Path) -> list[dict]:
    """Every row of a run's training log, in the order of its steps."""
    return list(read_jsonl(out / LOG_FILE))
