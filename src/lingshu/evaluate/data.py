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

from lingshu.core import registry
from lingshu.core.errors import (
    ArtifactError,
    InputError,
    LingshuError,
    MissingExtraError,
    UnknownNameError,
    describe_error,
    one_line,
)
from lingshu.core.types import Drop, PromptStyle, Sample, Task
from lingshu.evaluate.suites import SUITES
from lingshu.scoring.protocols.table import PROTOCOLS, quirks

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LoadedTask(NamedTuple):
    """A task with its samples and the rows that did not become samples."""

    task: Task
    samples: Sequence[Sample]
    drops: Sequence[Drop]

    @property
    def drop_reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


def load_all(
    tasks: Sequence[Task],
    out: Path,
    *,
    data: Path | None,
    limit: int | None,
    prompt_style: PromptStyle,
    synthetic_seed: int | None,
) -> tuple[list[LoadedTask], dict[str, str]]:
    """Every task with its samples; of several tasks those whose data are not to be had are left
    out, with the reason.

    Raises:
        LingshuError: the only task, or all of them, cannot be loaded.
    """
    loaded: list[LoadedTask] = []
    excluded: dict[str, str] = {}
    for task in tasks:
        try:
            loaded.append(
                load(
                    task,
                    data,
                    out,
                    limit=limit,
                    prompt_style=prompt_style,
                    synthetic_seed=synthetic_seed,
                )
            )
        except (InputError, ArtifactError, UnknownNameError, MissingExtraError) as error:
            if len(tasks) == 1 or (len(excluded) == len(tasks) - 1 and not loaded):
                raise
            excluded[task.name] = one_line(error)
    return loaded, excluded


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks behind names of tasks and suites and paths to files.

    Raises:
        UnknownName: no such task.
        InputError: an empty list, a file without a TASK, or two tasks of one name.
    """
    tasks: list[Task] = []
    for name in [task for requested in names for task in SUITES.get(requested, (requested,))]:
        if Path(name).is_dir() and len(Path(name).parts) > 1:
            raise InputError(
                f"{name} is a folder; to ask the questions in it, name the task vqa and --data"
                f" {name}."
            )
        task = registry.get_attribute("tasks", name, "TASK")
        if not isinstance(task, Task):
            raise InputError(f"TASK in {name} is no Task; see docs/add-a-benchmark.md.")
        if not _FOLDER_NAME.fullmatch(task.name):
            raise InputError(
                f"the task name {task.name!r} cannot name a folder; use letters, digits, '.', '_'"
                " and '-'."
            )
        if task.name in {existing.name for existing in tasks}:
            raise InputError(
                f"{task.name} is named twice in {', '.join(names)}; name each task once."
            )
        tasks.append(task)
    if not tasks:
        raise InputError("no task is named; `lingshu list tasks` shows them.")
    return tasks


def load(
    task: Task,
    data: Path | None,
    out: Path,
    *,
    limit: int | None,
    prompt_style: PromptStyle = "direct",
    synthetic_seed: int | None = None,
) -> LoadedTask:
    """The first `limit` samples of a task, worded in `style`, and its drops by reason; of its twin
    where a seed is given.

    The samples wait in a file of `out` that is gone with the process: a benchmark may be larger
    than memory.

    Raises:
        InputError: it has no samples, not as many as its source states, or what its loader says is
            wrong.
    """
    from lingshu.evaluate.spool import DiskSamples

    drops: list[Drop] = []

    def iter_prompted() -> Iterator[Sample]:
        for item in (
            task.samples(data) if synthetic_seed is None else task.synthetic(synthetic_seed)
        ):
            if isinstance(item, Drop):
                drops.append(item)
                continue
            try:
                yield task.prompt(item, prompt_style) if task.prompt else item
            except InputError as error:
                drops.append(Drop(item.id, "no_wording", one_line(error)))

    # The first sample comes before the file: data that cannot be read leave no folder behind.
    prompted = iter_prompted()
    try:
        first_samples = list(islice(prompted, 1))
        samples = (
            DiskSamples(islice(chain(first_samples, prompted), limit), out) if first_samples else ()
        )
    except (LingshuError, ImportError):
        raise
    except Exception as error:
        raise InputError(
            f"the samples of {task.name} cannot be read: {describe_error(error)}."
        ) from error
    if not samples:
        drop_text = ", ".join(
            f"{reason} {count}" for reason, count in Counter(drop.reason for drop in drops).items()
        )
        raise InputError(
            f"{task.name} has no samples{f' (all dropped: {drop_text})' if drop_text else ''}; check --data."
        )
    if synthetic_seed is not None:
        # Synthetic questions are not a published set: no expected number, no published value.
        provenance = replace(task.provenance, expected_n=None, revision=f"twin {synthetic_seed}")
        title = f"{task.title}: made-up twin"
        synthetic_task = replace(task, title=title, provenance=provenance, published=None)
        return LoadedTask(synthetic_task, samples, drops)
    if limit is None:
        drop_counts = Counter(drop.reason for drop in drops)
        task.provenance.check_count(task.name, len(samples), drop_counts)
    revision = task.provenance.revision
    if revision is None and task.resolve_revision:
        revision = task.resolve_revision(data)
    provenance = replace(task.provenance, revision=revision)
    return LoadedTask(replace(task, provenance=provenance), samples, drops)


def task_metadata(loaded: LoadedTask, protocols: Sequence[str] = ("strict",)) -> dict[str, Any]:
    """What the report says of a task besides its scores."""
    task = loaded.task
    return {
        "title": task.title,
        "source": task.provenance.source,
        "license": task.provenance.license,
        "revision": task.provenance.revision,
        "n": task.provenance.expected_n,
        "facets": list(task.facets),
        "drops": loaded.drop_reasons,
        "unverified_fields": list(task.provenance.unverified_fields),
        "published": None if task.published is None else list(task.published),
        "protocol": list(protocols),
        "known_issues": {
            protocol: list(quirks(protocol)) for protocol in protocols if protocol in PROTOCOLS
        },
    }
