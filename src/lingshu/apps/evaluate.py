"""`lingshu eval`: ask a model a task's questions, score the replies and report; goes on where it was stopped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lingshu.core import shelves
from lingshu.core.errors import ArtefactError, InputError, LingshuError, fault, one_line
from lingshu.core.files import write_jsonl
from lingshu.core.nouns import Drop, Engine, Sample, Sampling, Style, Task
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.core.runcard import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.recipes._suites import SUITES
from lingshu.scoring._protocols import PROTOCOLS, quirks

Protocol = Literal["strict", "paper", "medevalkit", "all"]
REASONED_TOKENS = 8192  # of the published protocol
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Loaded(NamedTuple):
    """A task with its samples and the rows that did not become samples."""

    task: Task
    samples: Sequence[Sample]
    drops: Sequence[Drop]

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


@dataclass(frozen=True)
class EvalConfig:
    """What an evaluation was asked to do; the options of `evaluate` say what each means."""

    model: str
    tasks: tuple[str, ...]
    data: str | None
    limit: int | None
    seed: int
    max_tokens: int | None
    temperature: float
    style: Style
    protocol: Protocol
    twin: bool
    batch_size: int
    concurrency: int
    threads: int | None
    rank: int
    world: int
    agreement: tuple[str, ...]
    allow_remote: bool
    metric_weights: str | None

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols to grade by; strict is always among them."""
        if self.protocol == "all":
            return PROTOCOLS
        return ("strict",) if self.protocol == "strict" else ("strict", self.protocol)


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
    protocol: Protocol = "strict",
    twin: bool = False,
    batch_size: int = 16,
    concurrency: int = 16,
    threads: int | None = None,
    rank: int = 0,
    world: int = 1,
    agreement: tuple[str, ...] = (),
    allow_remote: bool = False,
    metric_weights: Path | None = None,
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
        metric_weights: folder with the models of report metrics; those that are not there are said to be unavailable.
    """
    names = tuple(part.strip() for part in tasks.split(",") if part.strip())
    decoding = (seed, max_tokens, temperature)
    work = (batch_size, concurrency, threads, rank, world)
    return run(
        EvalConfig(
            model,
            names,
            None if data is None else str(data),
            limit,
            *decoding,
            style,
            protocol,
            twin,
            *work,
            agreement,
            allow_remote,
            None if metric_weights is None else str(metric_weights),
        ),
        out,
    )


def run(config: EvalConfig, out: Path) -> int:
    """Load, ask, score and report; returns the exit code.

    Raises:
        LingshuError: anything that makes the whole run impossible; what was stored before stays.
    """
    from lingshu.apps.models import engine_for

    if config.limit is not None and config.limit < 1:
        raise InputError(f"--limit {config.limit} asks nothing; give 1 or more.")
    release = Release(frozenset(config.agreement), config.allow_remote)
    options = EngineOptions(batch_size=config.batch_size, threads=config.threads, concurrency=config.concurrency, release=release)
    loaded, left_out = load_all(find_tasks(config.tasks), config, out)
    ask = {each.task.name: _sampling(each.task, config) for each in loaded}
    engine = engine_for(config.model, options)
    earlier = earlier_tasks(out, engine)
    notes = {
        "model": engine.model,
        "digest": engine.digest,
        "tasks": earlier | {each.task.name: facts(each, config.protocols) for each in loaded},
        "left_out": left_out,
    }
    counts = Counter[str]()
    for each in loaded:
        counts.update(_run(each, engine, out, ask[each.task.name], release, config))
    if counts["elsewhere"]:
        print(f"{told(counts)}; {counts['elsewhere']} still with other processes, the last of which scores and reports")
        return 1 if counts["errors"] else 0
    # Only what is scored stands on the card: a run that failed or was killed puts no name to the scores of another.
    settings = {**asdict(config), "sampling": {name: asdict(sampling) for name, sampling in ask.items()}}
    write_run_card(out, RunCard("eval", settings, config.seed, counts=dict(counts), notes=notes))
    return _report(out, counts, [drop for each in loaded for drop in each.reasons.items()], left_out)


def earlier_tasks(out: Path, engine: Engine) -> dict[str, Any]:
    """What an earlier run in the same folder says of its tasks.

    Raises:
        InputError: it was another model's, or the same name with other weights.
    """
    if not (out / RUN_CARD).exists():
        return {}
    notes = read_run_card(out).get("notes", {})
    if not isinstance(notes, dict):
        raise ArtefactError(f"{out / RUN_CARD} is damaged (notes); choose another --out.")
    if (notes.get("model"), notes.get("digest")) != (engine.model, engine.digest):
        raise InputError(
            f"{out} holds an evaluation of {notes.get('model')!r} with other weights or of another name; choose another --out."
        )
    return dict(notes.get("tasks", {}))


def load_all(tasks: Sequence[Task], config: EvalConfig, out: Path) -> tuple[list[Loaded], dict[str, str]]:
    """Every task with its samples; of several tasks those whose data are not to be had are left out, with the reason.

    Raises:
        LingshuError: the only task, or all of them, cannot be loaded.
    """
    data = None if config.data is None else Path(config.data)
    twin_seed = config.seed if config.twin else None
    loaded: list[Loaded] = []
    left_out: dict[str, str] = {}
    for task in tasks:
        try:
            loaded.append(load(task, data, out, limit=config.limit, style=config.style, twin_seed=twin_seed))
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
        task = shelves.part("tasks", name, "TASK")
        if not isinstance(task, Task):
            raise InputError(f"TASK in {name} is no Task; see docs/add-a-benchmark.md.")
        if not _FOLDER_NAME.fullmatch(task.name):
            raise InputError(f"the task name {task.name!r} cannot name a folder; use letters, digits, '.', '_' and '-'.")
        if task.name in {other.name for other in found}:
            raise InputError(f"{task.name} is named twice in {', '.join(names)}; name each task once.")
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
        why = ", ".join(f"{reason} {count}" for reason, count in Counter(drop.reason for drop in drops).items())
        raise InputError(f"{task.name} has no samples{f' (all dropped: {why})' if why else ''}; check --data.")
    if twin_seed is not None:
        # Made-up questions stand for no published set: no expected number, no published value beside them.
        named = replace(task, title=f"{task.title}: made-up twin", n=None, published=None, revision=f"twin {twin_seed}")
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
        "quirks": {protocol: list(quirks(protocol)) for protocol in protocols},
    }


def _sampling(task: Task, config: EvalConfig) -> Sampling:
    longest = max(REASONED_TOKENS, task.max_tokens) if config.style == "reasoned" and task.prompt else task.max_tokens
    longest = longest if config.max_tokens is None else config.max_tokens
    return Sampling(max_tokens=longest, temperature=config.temperature, seed=config.seed)


def _run(loaded: Loaded, engine: Engine, out: Path, sampling: Sampling, release: Release, config: EvalConfig) -> dict[str, int]:
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
            rank=config.rank,
            world=config.world,
        )
    write_jsonl(folder / "drops.jsonl", (asdict(drop) for drop in drops))
    counts = {"samples": made.samples, "answered_before": made.before, "asked": made.asked, "dropped": len(drops)}
    elsewhere = generate.missing(folder) if config.world > 1 else 0
    if elsewhere:
        return counts | {"errors": made.errors, "elsewhere": elsewhere}
    weights = None if config.metric_weights is None else Path(config.metric_weights)
    scored = score.score(task, samples, folder, protocols=config.protocols, weights=weights)
    return counts | {"errors": scored.errors}


def _report(out: Path, counts: Mapping[str, int], drops: Sequence[tuple[str, int]], left_out: Mapping[str, str]) -> int:
    from lingshu.apps.report import text_table
    from lingshu.evaluate import report

    built = report.build(out)
    report.write(out, built)
    if built.warning:
        print(f"WARNING: {built.warning}")
    print(text_table(report.HEADER, report.overview(built)))
    print(told(counts))
    if drops:
        print("dropped: " + ", ".join(f"{reason} {count}" for reason, count in drops) + " (drops.jsonl beside the replies names them)")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    print(f"report: {out / report.REPORT_HTML}")
    return 1 if counts.get("errors") or left_out else 0


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
