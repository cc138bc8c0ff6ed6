"""The data of an evaluation: the tasks behind names, their samples, and what the report says of
each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core import shelves
from lingshu.core.errors import ArtefactError, InputError, LingshuError, fault, one_line
from lingshu.core.nouns import Drop, Sample, Style, Task
from lingshu.recipes._suites import SUITES
from lingshu.scoring._protocols import PROTOCOLS, quirks

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Loaded(NamedTuple):
    """A task with its samples and the rows that did not become samples."""

    task: Task
    samples: Sequence[Sample]
    drops: Sequence[Drop]

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


def load_all(
    tasks: Sequence[Task],
    out: Path,
    *,
    data: Path | None,
    limit: int | None,
    style: Style,
    twin_seed: int | None,
) -> tuple[list[Loaded], dict[str, str]]:
    """Every task with its samples; of several tasks those whose data are not to be had are left
    out, with the reason.

    Raises:
        LingshuError: the only task, or all of them, cannot be loaded.
    """
    loaded: list[Loaded] = []
    left_out: dict[str, str] = {}
    for task in tasks:
        try:
            loaded.append(load(task, data, out, limit=limit, style=style, twin_seed=twin_seed))
        except (InputError, ArtefactError, LookupError) as error:
            if len(tasks) == 1 or (len(left_out) == len(tasks) - 1 and not loaded):
                raise
            left_out[task.name] = one_line(error)
    return loaded, left_out


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks behind names of tasks and suites and paths to files.

    Raises:
        UnknownName: no such task.
        InputError: an empty list, a file without a TASK, or two tasks of one name.
    """
    found: list[Task] = []
    for name in [task for given in names for task in SUITES.get(given, (given,))]:
        if Path(name).is_dir() and len(Path(name).parts) > 1:
            raise InputError(
                f"{name} is a folder; to ask the questions in it, name the task vqa and --data"
                f" {name}."
            )
        task = shelves.part("tasks", name, "TASK")
        if not isinstance(task, Task):
            raise InputError(f"TASK in {name} is no Task; see docs/add-a-benchmark.md.")
        if not _FOLDER_NAME.fullmatch(task.name):
            raise InputError(
                f"the task name {task.name!r} cannot name a folder; use letters, digits, '.', '_'"
                " and '-'."
            )
        if task.name in {other.name for other in found}:
            raise InputError(
                f"{task.name} is named twice in {', '.join(names)}; name each task once."
            )
        found.append(task)
    if not found:
        raise InputError("no task is named; `lingshu list tasks` shows them.")
    return found


def load(
    task: Task,
    data: Path | None,
    out: Path,
    *,
    limit: int | None,
    style: Style = "direct",
    twin_seed: int | None = None,
) -> Loaded:
    """The first `limit` samples of a task, worded in `style`, and its drops by reason; of its twin
    where a seed is given.

    The samples wait in a file of `out` that is gone with the process: a benchmark may be larger
    than memory.

    Raises:
        InputError: it has no samples, not as many as its source states, or what its loader says is
            wrong.
    """
    from lingshu.evaluate.spool import Spool

    drops: list[Drop] = []

    def worded() -> Iterator[Sample]:
        for item in task.samples(data) if twin_seed is None else task.twin(twin_seed):
            if isinstance(item, Drop):
                drops.append(item)
                continue
            try:
                yield task.prompt(item, style) if task.prompt else item
            except InputError as error:
                drops.append(Drop(item.id, "no_wording", one_line(error)))

    # The first sample comes before the file: data that cannot be read leave no folder behind.
    found = worded()
    try:
        first = list(islice(found, 1))
        samples = Spool(islice(chain(first, found), limit), out) if first else ()
    except (LingshuError, ImportError):
        raise
    except Exception as error:
        raise InputError(f"the samples of {task.name} cannot be read: {fault(error)}.") from error
    if not samples:
        why = ", ".join(
            f"{reason} {count}" for reason, count in Counter(drop.reason for drop in drops).items()
        )
        raise InputError(
            f"{task.name} has no samples{f' (all dropped: {why})' if why else ''}; check --data."
        )
    if twin_seed is not None:
        # Made-up questions stand for no published set: no expected number, no published value
        # beside them.
        named = replace(
            task,
            title=f"{task.title}: made-up twin",
            n=None,
            published=None,
            revision=f"twin {twin_seed}",
        )
        return Loaded(named, samples, drops)
    if limit is None:
        task.check_count(len(samples), Counter(drop.reason for drop in drops))
    revision = task.revision or (task.resolve(data) if task.resolve else None)
    return Loaded(replace(task, revision=revision), samples, drops)


def facts(loaded: Loaded, protocols: Sequence[str] = ("strict",)) -> dict[str, Any]:
    """What the report says of a task besides its scores."""
    task = loaded.task
    return {
        "title": task.title,
        "source": task.source,
        "licence": task.licence,
        "revision": task.revision,
        "n": task.n,
        "by": list(task.by),
        "drops": loaded.reasons,
        "unverified": list(task.unverified),
        "published": None if task.published is None else list(task.published),
        "protocol": list(protocols),
        "quirks": {
            protocol: list(quirks(protocol)) for protocol in protocols if protocol in PROTOCOLS
        },
    }
