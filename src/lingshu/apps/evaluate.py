"""`lingshu eval`: ask a model a task's questions, score the replies and report; goes on where it was stopped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lingshu.core import shelves
from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Engine, Sample, Sampling, Style, Task
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.core.runcard import RunCard, write_run_card
from lingshu.recipes._suites import SUITES
from lingshu.scoring._protocols import PROTOCOLS, quirks

REASONED_TOKENS = 8192  # of the published protocol
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Loaded(NamedTuple):
    """A task with its samples and the rows that did not become samples, by reason."""

    task: Task
    samples: Sequence[Sample]
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
    style: Style = "direct",
    protocol: Literal["strict", "paper", "medevalkit", "all"] = "strict",
    twin: bool = False,
    batch_size: int = 16,
    concurrency: int = 16,
    threads: int | None = None,
    rank: int = 0,
    world: int = 1,
    agreement: tuple[str, ...] = (),
    allow_remote: bool = False,
) -> int:
    """Evaluate a model on one or more tasks. Run it again with the same --out to go on after an interruption.

    Writes OUT/report.html, report.md, report.json, and for each task OUT/TASK/replies.jsonl and scores.jsonl.

    Args:
        model: checkpoint folder, hub id, http(s)://host/v1#name, echo or echo:TEXT, or a .py file.
        tasks: names of tasks or suites (paper_multimodal, paper_text, paper_report, all, smoke) or paths to .py files, with commas between.
        out: folder for replies, scores and the report.
        limit: ask only the first LIMIT samples of each task.
        data: folder with offline data.
        seed: seed of sampling.
        max_tokens: longest reply; each task's own value if not given, 8192 for reasoned answers.
        temperature: 0 takes the likeliest token.
        style: ask for the bare answer (direct) or for reasoning before it (reasoned).
        protocol: how replies are graded; besides strict, also by published rules and their known faults, or all side by side.
        twin: ask a few made-up questions of the same shape in place of the benchmark; nothing is read or downloaded.
        batch_size: samples at a time, for a model in this process.
        concurrency: requests at a time, for a model behind an address.
        threads: CPU threads; the library's default if not given.
        rank: which of WORLD processes this one is, counted from 0; they share the questions of one --out.
        world: how many processes share the questions.
        agreement: a data-use agreement that covers the address; may be given several times.
        allow_remote: private samples that are not de-identified may be sent to the address.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} asks nothing; give 1 or more.")
    found = find_tasks(tasks)
    release = Release(frozenset(agreement), allow_remote)
    options = EngineOptions(batch_size=batch_size, threads=threads, concurrency=concurrency, release=release)
    loaded = [load(task, data, out, limit=limit, style=style, twin_seed=seed if twin else None) for task in found]
    protocols = PROTOCOLS if protocol == "all" else ("strict",) if protocol == "strict" else ("strict", protocol)
    ask = {each.task.name: _sampling(each.task, seed, max_tokens, temperature, style) for each in loaded}
    config = {
        "model": model,
        "tasks": [name.strip() for name in tasks.split(",")],
        "data": None if data is None else str(data),
        "limit": limit,
        "sampling": {name: asdict(sampling) for name, sampling in ask.items()},
        "style": style,
        "protocol": protocol,
        "twin": twin,
        "world": world,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "threads": threads,
        "agreement": list(agreement),
        "allow_remote": allow_remote,
    }
    from lingshu.apps.models import engine_for

    engine = engine_for(model, options)
    notes = {"model": engine.model, "digest": engine.digest, "tasks": {each.task.name: facts(each, protocols) for each in loaded}}
    write_run_card(out, RunCard("eval", config, seed, notes=notes))
    counts = Counter[str]()
    for each in loaded:
        counts.update(_run(each, engine, out, ask[each.task.name], release, protocols, rank=rank, world=world))
    if counts["elsewhere"]:
        print(f"{told(counts)}; {counts['elsewhere']} still with other processes, the last of which scores and reports")
        return 1 if counts["errors"] else 0
    write_run_card(out, RunCard("eval", config, seed, counts=dict(counts), notes=notes))
    return _report(out, counts)


def find_tasks(names: str) -> list[Task]:
    """The tasks of a comma-separated list of tasks and suites.

    Raises:
        UnknownName: no such task.
        InputError: an empty list, a file without a TASK, or two tasks of one name.
    """
    found: list[Task] = []
    parts = [part.strip() for part in names.split(",") if part.strip()]
    for name in [task for part in parts for task in SUITES.get(part, (part,))]:
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


def load(task: Task, data: Path | None, out: Path, *, limit: int | None, style: Style = "direct", twin_seed: int | None = None) -> Loaded:
    """The first `limit` samples of a task, worded in `style`, and its drops by reason; of its twin where a seed is given.

    The samples wait in a file of `out` that is gone with the process: a benchmark may be larger than memory.

    Raises:
        InputError: it has no samples, not as many as its source states, or what its loader says is wrong.
    """
    from lingshu.evaluate.spool import Spool

    drops = Counter[str]()

    def worded() -> Iterator[Sample]:
        for item in task.samples(data) if twin_seed is None else task.twin(twin_seed):
            if isinstance(item, Drop):
                drops[item.reason] += 1
            else:
                yield task.prompt(item, style) if task.prompt else item

    # The first sample comes before the file: data that cannot be read leave no folder behind.
    found = worded()
    first = list(islice(found, 1))
    samples = Spool(islice(chain(first, found), limit), out) if first else ()
    if not samples:
        why = ", ".join(f"{reason} {count}" for reason, count in drops.items())
        raise InputError(f"{task.name} has no samples{f' (all dropped: {why})' if why else ''}; check --data.")
    if twin_seed is not None:
        # Made-up questions stand for no published set: no expected number, no published value beside them.
        named = replace(task, title=f"{task.title}: made-up twin", n=None, published=None, revision=f"twin {twin_seed}")
        return Loaded(named, samples, dict(sorted(drops.items())))
    if limit is None:
        task.check_count(len(samples), drops)
    revision = task.revision or (task.resolve(data) if task.resolve else None)
    return Loaded(replace(task, revision=revision), samples, dict(sorted(drops.items())))


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
        "drops": dict(loaded.drops),
        "unverified": list(task.unverified),
        "published": None if task.published is None else list(task.published),
        "protocol": list(protocols),
        "quirks": {protocol: list(quirks(protocol)) for protocol in protocols},
    }


def _sampling(task: Task, seed: int, max_tokens: int | None, temperature: float, style: Style) -> Sampling:
    longest = max(REASONED_TOKENS, task.max_tokens) if style == "reasoned" and task.prompt else task.max_tokens
    return Sampling(max_tokens=max_tokens or longest, temperature=temperature, seed=seed)


def _run(
    loaded: Loaded, engine: Engine, out: Path, sampling: Sampling, release: Release, protocols: Sequence[str], *, rank: int, world: int
) -> dict[str, int]:
    from functools import partial

    from lingshu.evaluate import generate, score
    from lingshu.evaluate.progress import shown
    from lingshu.imaging.read import ShardReader, image_bytes

    task, samples, drops = loaded
    folder = out / task.name
    with shown(task.name) as progress, ShardReader() as shards:
        images = partial(image_bytes, shards=shards)
        made = generate.generate(
            task,
            samples,
            engine,
            folder,
            sampling=sampling,
            images=images,
            release=release,
            progress=progress,
            rank=rank,
            world=world,
        )
    counts = {"samples": made.samples, "answered_before": made.before, "asked": made.asked, "dropped": sum(drops.values())}
    elsewhere = generate.missing(folder) if world > 1 else 0
    if elsewhere:
        return counts | {"errors": made.errors, "elsewhere": elsewhere}
    rows = score.score(task, samples, folder, protocols=protocols)
    return counts | {"errors": sum(row["status"] == "error" for row in rows)}


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
