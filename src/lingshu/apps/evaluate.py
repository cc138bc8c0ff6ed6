"""`lingshu eval`: ask a model a task's questions, score the replies and report; goes on where it was stopped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core import shelves
from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Engine, Sample, Sampling, Task
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.core.runcard import RunCard, write_run_card

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Loaded(NamedTuple):
    """A task with its samples and the rows that did not become samples, by reason."""

    task: Task
    samples: list[Sample]
    drops: Mapping[str, int]


def evaluate(
    model: str,
    tasks: str,
    /,
    *,
    out: Path,
    limit: int | None = None,
    data: Path | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 16,
    concurrency: int = 16,
    threads: int | None = None,
    agreement: tuple[str, ...] = (),
    allow_remote: bool = False,
) -> int:
    """Evaluate a model on one or more tasks. Run it again with the same --out to go on after an interruption.

    Writes OUT/report.html, report.md, report.json, and for each task OUT/TASK/replies.jsonl and scores.jsonl.

    Args:
        model: checkpoint folder, hub id, http(s)://host/v1#name, echo or echo:TEXT, or a .py file.
        tasks: names of tasks or paths to .py files, separated by commas.
        out: folder for replies, scores and the report.
        limit: ask only the first LIMIT samples of each task.
        data: folder with offline data.
        seed: seed of sampling.
        max_tokens: longest reply; each task's own value if not given.
        temperature: 0 takes the likeliest token.
        batch_size: samples at a time, for a model in this process.
        concurrency: requests at a time, for a model behind an address.
        threads: CPU threads; the library's default if not given.
        agreement: a data-use agreement that covers the address; may be given several times.
        allow_remote: private samples that are not de-identified may be sent to the address.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} asks nothing; give 1 or more.")
    found = find_tasks(tasks)
    release = Release(frozenset(agreement), allow_remote)
    options = EngineOptions(batch_size=batch_size, threads=threads, concurrency=concurrency, release=release)
    loaded = [load(task, data, limit=limit) for task in found]
    config = {
        "model": model,
        "tasks": [name.strip() for name in tasks.split(",")],
        "data": None if data is None else str(data),
        "limit": limit,
        "sampling": {task.name: asdict(_sampling(task, seed, max_tokens, temperature)) for task in found},
        "batch_size": batch_size,
        "concurrency": concurrency,
        "threads": threads,
        "agreement": list(agreement),
        "allow_remote": allow_remote,
    }
    from lingshu.apps.models import engine_for

    engine = engine_for(model, options)
    notes = {"model": engine.model, "digest": engine.digest, "tasks": {each.task.name: facts(each) for each in loaded}}
    write_run_card(out, RunCard("eval", config, seed, notes=notes))
    counts = Counter[str]()
    for each in loaded:
        counts.update(_run(each, engine, out, _sampling(each.task, seed, max_tokens, temperature), release))
    write_run_card(out, RunCard("eval", config, seed, counts=dict(counts), notes=notes))
    return _report(out, counts)


def find_tasks(names: str) -> list[Task]:
    """The tasks of a comma-separated list.

    Raises:
        UnknownName: no such task.
        InputError: an empty list, a file without a TASK, or two tasks of one name.
    """
    found: list[Task] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        task = shelves.part("tasks", name, "TASK")
        if not isinstance(task, Task):
            raise InputError(f"TASK in {name} is no Task; see docs/add-a-benchmark.md.")
        if not _FOLDER_NAME.fullmatch(task.name):
            raise InputError(f"the task name {task.name!r} cannot name a folder; use letters, digits, '.', '_' and '-'.")
        if task.name in {other.name for other in found}:
            raise InputError(f"{task.name} is named twice in {names!r}; name each task once.")
        found.append(task)
    if not found:
        raise InputError("no task is named; `lingshu list tasks` shows them.")
    return found


def load(task: Task, data: Path | None, *, limit: int | None) -> Loaded:
    """The first `limit` samples of a task, and its drops by reason.

    Raises:
        InputError: it has no samples, or what its loader says is wrong.
    """
    samples: list[Sample] = []
    drops = Counter[str]()
    for item in task.samples(data):
        if isinstance(item, Drop):
            drops[item.reason] += 1
            continue
        samples.append(item)
        if len(samples) == limit:
            break
    if not samples:
        why = ", ".join(f"{reason} {count}" for reason, count in drops.items())
        raise InputError(f"{task.name} has no samples{f' (all dropped: {why})' if why else ''}; check --data.")
    return Loaded(task, samples, dict(sorted(drops.items())))


def facts(loaded: Loaded) -> dict[str, Any]:
    """What the report says of a task besides its scores."""
    task = loaded.task
    return {
        "title": task.title,
        "source": task.source,
        "licence": task.licence,
        "revision": task.revision,
        "n": task.n,
        "by": list(task.by),
        "drops": dict(loaded.drops),
    }


def _sampling(task: Task, seed: int, max_tokens: int | None, temperature: float) -> Sampling:
    return Sampling(max_tokens=max_tokens or task.max_tokens, temperature=temperature, seed=seed)


def _run(loaded: Loaded, engine: Engine, out: Path, sampling: Sampling, release: Release) -> dict[str, int]:
    from functools import partial

    from lingshu.evaluate import generate, score
    from lingshu.evaluate.progress import shown
    from lingshu.imaging.read import ShardReader, image_bytes

    task, samples, drops = loaded
    folder = out / task.name
    with shown(task.name) as progress, ShardReader() as shards:
        images = partial(image_bytes, shards=shards)
        made = generate.generate(task, samples, engine, folder, sampling=sampling, images=images, release=release, progress=progress)
    rows = score.score(task, samples, folder)
    errors = sum(row["status"] == "error" for row in rows)
    return {"samples": made.samples, "answered_before": made.before, "asked": made.asked, "errors": errors, "dropped": sum(drops.values())}


def _report(out: Path, counts: Mapping[str, int]) -> int:
    from lingshu.apps.report import text_table
    from lingshu.evaluate import report

    built = report.build(out)
    report.write(out, built)
    if built.warning:
        print(f"WARNING: {built.warning}")
    print(text_table(report.HEADER, report.overview(built)))
    print(told(counts))
    print(f"report: {out / report.REPORT_HTML}")
    return 1 if counts.get("errors") else 0


def told(counts: Mapping[str, int]) -> str:
    """The counts of a run on one line."""
    labels: Sequence[tuple[str, str]] = (
        ("samples", "samples"),
        ("asked", "asked now"),
        ("answered_before", "answered before"),
        ("dropped", "dropped"),
        ("errors", "errors"),
    )
    return ", ".join(f"{counts.get(key, 0)} {label}" for key, label in labels)
