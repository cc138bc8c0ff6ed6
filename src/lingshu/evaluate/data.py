"""The data of an evaluation: the tasks behind names, their samples and their metadata."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core import registry
from lingshu.core.errors import (
    InputError,
    LingshuError,
    describe_error,
    one_line,
)
from lingshu.core.types import Drop, PromptStyle, Sample, Task
from lingshu.evaluate.spool import DiskSamples
from lingshu.scoring.protocols.table import PROTOCOLS, quirks

# The three paper suites are the columns of the Lingshu paper's tables. No suite holds two sets that
# share questions: SLAKE is one task and HealthBench the full set, while their parts are tasks of
# their own. PSV2026 repeats questions of PathVQA, SLAKE and VQA-RAD, and is in none.
_PAPER = {
    "paper_multimodal": "mmmu_med_test vqa_rad slake path_vqa pmc_vqa omnimedvqa medxpertqa_mm",
    "paper_text": (
        "mmlu_med pubmedqa medmcqa medqa_usmle medbullets_op4 medbullets_op5 medxpertqa_text"
        " supergpqa_med"
    ),
    "paper_report": "mimic_cxr chexpert_plus iu_xray_296",
}
_ADDITIONAL = (
    "mmmu_med_val pmc_vqa_clean medframeqa rad_restruct medqa_mcmle cmb cmexam cmmlu_med healthbench"
    " iu_xray"
)
# Small, open, no judge: one benchmark of each kind of question.
_SMOKE = "vqa_rad slake mmmu_med_val pubmedqa medqa_usmle iu_xray"
SUITES: dict[str, tuple[str, ...]] = {
    name: tuple(tasks.split())
    for name, tasks in {
        **_PAPER,
        "all": " ".join((*_PAPER.values(), _ADDITIONAL)),
        "smoke": _SMOKE,
    }.items()
}
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LoadedTask(NamedTuple):
    """A task, its samples, the dropped rows, and the samples again before the task's prompt."""

    task: Task
    samples: Sequence[Sample]
    drops: Sequence[Drop]
    original_samples: Callable[[], Iterator[Sample]]

    @property
    def drop_reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


class LoadedTasks(NamedTuple):
    """The tasks of an evaluation as named, and why the data of `excluded` ones is unavailable."""

    names: Sequence[str]
    tasks: Sequence[LoadedTask]
    excluded: dict[str, str]


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks behind names of tasks and suites and paths to files.

    Raises:
        UnknownNameError: no such task.
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
            raise InputError(f"TASK in {name} is not a Task; see docs/add-a-benchmark.md.")
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
    """The first `limit` samples of a task with its prompt, or synthetic ones for a seed.

    The samples are in a file of `out` that is removed with the process: a benchmark may be larger
    than memory.

    Raises:
        InputError: it has no samples, not as many as its source states, or what its loader says is
            wrong.
    """
    drops: list[Drop] = []

    def items() -> Iterable[Sample | Drop]:
        return task.samples(data) if synthetic_seed is None else task.synthetic(synthetic_seed)

    def iter_prompted() -> Iterator[Sample]:
        for item in items():
            if isinstance(item, Drop):
                drops.append(item)
                continue
            try:
                yield task.prompt(item, prompt_style) if task.prompt else item
            except InputError as error:
                drops.append(Drop(item.id, "no_wording", one_line(error)))

    # The first sample comes before the file: data that cannot be read leaves no folder behind.
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
    loaded = LoadedTask(
        task, samples, drops, lambda: (item for item in items() if isinstance(item, Sample))
    )
    if not samples:
        reasons = ", ".join(f"{reason} {n}" for reason, n in loaded.drop_reasons.items())
        raise InputError(
            f"{task.name} has no samples{f' (all dropped: {reasons})' if reasons else ''}; check"
            " --data."
        )
    provenance = task.provenance
    if synthetic_seed is not None:
        # Synthetic samples are not a published set: no expected number, no published value.
        provenance = replace(provenance, expected_n=None, revision=f"synthetic {synthetic_seed}")
        title = f"{task.title}: synthetic samples"
        task = replace(task, title=title, provenance=provenance, published=None)
        return loaded._replace(task=task)
    if limit is None:
        provenance.check_count(task.name, len(samples), loaded.drop_reasons)
    if provenance.revision is None and task.resolve_revision:
        provenance = replace(provenance, revision=task.resolve_revision(data))
    return loaded._replace(task=replace(task, provenance=provenance))


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
