"""`lingshu eval`: ask a model a task's questions, score the replies and report; goes on where it
was stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lingshu.apps import _controls
from lingshu.apps._eval_data import Loaded, facts, find_tasks, load_all
from lingshu.apps._judging import MAX_TOKENS as JUDGE_TOKENS
from lingshu.apps._judging import Judging, judge_all, judging, open_judge
from lingshu.apps._judging import protocols as protocols_of
from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.files import write_jsonl
from lingshu.core.nouns import Engine, Sampling, Style, Task
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.core.runcard import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.scoring._protocols import PROTOCOLS

Protocol = Literal["strict", "paper", "medevalkit", "all"]
REASONED_TOKENS = 8192  # of the published protocol


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
    thumbnails: bool = True
    judge: Judging | None = None
    controls: tuple[str, ...] = ()
    shuffles: int = 3

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
    no_thumbnails: bool = False,
    judge: str | None = None,
    judge_key_file: Path | None = None,
    judge_budget: int | None = None,
    judge_max_tokens: int = JUDGE_TOKENS,
    judge_labels: Path | None = None,
    judge_agreement: tuple[str, ...] = (),
    judge_allow_remote: bool = False,
    controls: str | None = None,
    shuffles: int = 3,
) -> int:
    """Evaluate a model on one or more tasks. Run it again with the same --out to go on after an
    interruption.

    Writes OUT/report.html, report.md, report.json, and for each task OUT/TASK/replies.jsonl and
    scores.jsonl.

    Args:
        model: checkpoint folder, hub id, http(s)://host/v1#name, echo or echo:TEXT, or a .py file.
        tasks: names of tasks or suites (paper_multimodal, paper_text, paper_report, all, smoke) or
            paths to .py files, with commas between.
        out: folder for replies, scores and the report.
        limit: ask only the first LIMIT samples of each task.
        data: folder with offline data.
        seed: seed of sampling.
        max_tokens: longest reply; each task's own value if not given, 8192 for reasoned answers.
        temperature: 0 takes the likeliest token.
        style: ask for the bare answer (direct) or for reasoning before it (reasoned).
        protocol: how replies are graded; besides strict, also by published rules and their known
            faults, or all side by side.
        twin: ask a few made-up questions of the same shape in place of the benchmark; nothing is
            read or downloaded.
        batch_size: samples at a time, for a model in this process.
        concurrency: requests at a time, for a model behind an address.
        threads: CPU threads; the library's default if not given.
        rank: which of WORLD processes this one is, counted from 0; they share the questions of one
            --out.
        world: how many processes share the questions.
        agreement: a data-use agreement that covers the address; may be given several times.
        allow_remote: private samples that are not de-identified may be sent to the address.
        metric_weights: folder with the models of report metrics; those that are not there are said
            to be unavailable.
        no_thumbnails: keep no small pictures of the images for the report, and remove those of an
            earlier run in OUT.
        judge: a model that judges the replies, named as MODEL is; what it said is remembered and
            not asked again.
        judge_key_file: file with the judge's key; else LINGSHU_JUDGE_API_KEY, else what any address
            gets.
        judge_budget: tokens that the verdicts on one task may take in all.
        judge_max_tokens: longest answer of the judge, its reasoning included.
        judge_labels: JSONL of people's verdicts {id, verdict or met}, to tell how far the judge
            agrees with them.
        judge_agreement: a data-use agreement that covers the judge's address; may be given several
            times.
        judge_allow_remote: private samples that are not de-identified may be sent to the judge's
            address.
        controls: ask the same questions under other conditions as well: blind, shuffle, constant,
            wording, with commas between.
        shuffles: other orders of the options that the control shuffle asks each item in.
    """
    names = tuple(part.strip() for part in tasks.split(",") if part.strip())
    decoding = (seed, max_tokens, temperature)
    work = (batch_size, concurrency, threads, rank, world)
    judged = judging(
        judge,
        key_file=judge_key_file,
        budget=judge_budget,
        max_tokens=judge_max_tokens,
        labels=judge_labels,
        agreement=judge_agreement,
        allow_remote=judge_allow_remote,
    )
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
            not no_thumbnails,
            judged,
            _controls.named(controls),
            shuffles,
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
    if config.shuffles < 1:
        raise InputError(f"--shuffles {config.shuffles} asks nothing; give 1 or more.")
    release = Release(frozenset(config.agreement), config.allow_remote)
    options = EngineOptions(
        batch_size=config.batch_size,
        threads=config.threads,
        concurrency=config.concurrency,
        release=release,
    )
    data, twin_seed = (
        None if config.data is None else Path(config.data),
        config.seed if config.twin else None,
    )
    tasks = find_tasks(config.tasks)
    loaded, left_out = load_all(
        tasks, out, data=data, limit=config.limit, style=config.style, twin_seed=twin_seed
    )
    ask = {each.task.name: _sampling(each.task, config) for each in loaded}
    engine = engine_for(config.model, options)
    judge = None if config.judge is None else open_judge(config.judge, options)
    earlier = earlier_tasks(out, engine)
    notes = {
        "model": engine.model,
        "digest": engine.digest,
        "tasks": (
            earlier
            | {each.task.name: _told_of(each, config, ask[each.task.name]) for each in loaded}
        ),
        "left_out": left_out,
    }
    counts = Counter[str]()
    waiting: list[Callable[[], dict[str, int]]] = []
    for each in loaded:
        made, scored = _ask(each, engine, out, ask[each.task.name], release, config)
        found = scored()
        counts.update(made if "elsewhere" in found else {**made, **found})
        waiting += [scored] if "elsewhere" in found else []
    for scored in waiting:
        # Other processes went on while this one asked the next task: whoever comes last must see
        # that all are complete.
        counts.update(scored())
    if counts["elsewhere"]:
        print(
            f"{told(counts)}; {counts['elsewhere']} still with other processes, the last of which"
            " scores and reports"
        )
        return 1 if counts["errors"] or counts["control_errors"] else 0
    if judge is not None:
        counts["unjudged"] = judge_all(judge, loaded, out)
    # Only what is scored stands on the card: a run that failed or was killed puts no name to the
    # scores of another.
    settings = {
        **asdict(config),
        "sampling": {name: asdict(sampling) for name, sampling in ask.items()},
    }
    write_run_card(out, RunCard("eval", settings, config.seed, counts=dict(counts), notes=notes))
    return _report(
        out, counts, [drop for each in loaded for drop in each.reasons.items()], left_out
    )


def _told_of(loaded: Loaded, config: EvalConfig, sampling: Sampling) -> dict[str, Any]:
    """What the run card says of a task; with how it was asked, which the configuration of a later
    command says nothing of.
    """
    protocols = protocols_of(loaded.task, config.protocols, config.judge)
    return facts(loaded, protocols) | {"max_tokens": sampling.max_tokens, "limit": config.limit}


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
            f"{out} holds an evaluation of {notes.get('model')!r} with other weights or of another"
            " name; choose another --out."
        )
    return dict(notes.get("tasks", {}))


def _sampling(task: Task, config: EvalConfig) -> Sampling:
    longest = (
        max(REASONED_TOKENS, task.max_tokens)
        if config.style == "reasoned" and task.prompt
        else task.max_tokens
    )
    longest = longest if config.max_tokens is None else config.max_tokens
    return Sampling(max_tokens=longest, temperature=config.temperature, seed=config.seed)


def _ask(
    loaded: Loaded,
    engine: Engine,
    out: Path,
    sampling: Sampling,
    release: Release,
    config: EvalConfig,
) -> tuple[dict[str, int], Callable[[], dict[str, int]]]:
    """Ask this process's share; the counts, and what scores the task, or counts under `elsewhere`
    what other processes still owe.
    """
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
            thumbnails=config.thumbnails,
        )
    write_jsonl(folder / "drops.jsonl", (asdict(drop) for drop in drops))
    counts = {
        "samples": made.samples,
        "answered_before": made.before,
        "asked": made.asked,
        "dropped": len(drops),
    }
    controls, asked = _controls.ask(
        loaded, engine, folder, config, sampling=sampling, release=release
    )
    asked_errors = {"errors": made.errors} | (
        {"control_errors": asked.pop("control_errors")} if controls else {}
    )

    def scored() -> dict[str, int]:
        elsewhere = (
            generate.missing(folder) + _controls.missing(controls, folder)
            if config.world > 1
            else 0
        )
        if elsewhere:
            return {**asked_errors, "elsewhere": elsewhere}
        weights = None if config.metric_weights is None else Path(config.metric_weights)
        found = score.score(task, samples, folder, protocols=config.protocols, weights=weights)
        return {"errors": found.errors} | _controls.score(controls, loaded, folder)

    return {**counts, **asked}, scored


def _report(
    out: Path,
    counts: Mapping[str, int],
    drops: Sequence[tuple[str, int]],
    left_out: Mapping[str, str],
) -> int:
    from lingshu.apps.report import brief, text_table
    from lingshu.evaluate import report

    built = report.build(out)
    report.write(out, built)
    if built.warning:
        print(f"WARNING: {built.warning}")
    print(text_table(report.HEADER, report.overview(built)))
    print(brief(built), end="")
    print(told(counts))
    if "control_questions" in counts:
        print(_controls.told(counts))
    if drops:
        print(
            "dropped: "
            + ", ".join(f"{reason} {count}" for reason, count in drops)
            + " (drops.jsonl beside the replies names them)"
        )
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    print(f"report: {out / report.REPORT_HTML}")
    return 1 if any(map(counts.get, ("errors", "unjudged", "control_errors"))) or left_out else 0


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
