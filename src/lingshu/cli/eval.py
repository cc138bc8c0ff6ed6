"""`lingshu eval`: ask a model a task's questions, score the replies and report; goes on where it
was stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lingshu.core.artifacts import REPORT_HTML
from lingshu.core.data_policy import DataPolicy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import write_jsonl
from lingshu.core.run_card import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.core.types import Engine, PromptStyle, Sampling, Task
from lingshu.evaluate import control_options
from lingshu.evaluate.data import LoadedTask, find_tasks, load_all, task_metadata
from lingshu.evaluate.judge_run import MAX_TOKENS as JUDGE_TOKENS
from lingshu.evaluate.judge_run import JudgeConfig, judge_all, open_judge, parse_judge_options
from lingshu.evaluate.judge_run import protocols as task_protocols
from lingshu.scoring.protocols.table import PROTOCOLS

ProtocolOption = Literal["strict", "paper", "medevalkit", "all"]
COT_MAX_TOKENS = 8192  # of the published protocol


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
    prompt_style: PromptStyle
    protocol: ProtocolOption
    synthetic: bool
    batch_size: int
    concurrency: int
    threads: int | None
    rank: int
    world_size: int
    agreement: tuple[str, ...]
    allow_remote: bool
    metric_weights: str | None
    thumbnails: bool = True
    judge: JudgeConfig | None = None
    controls: tuple[str, ...] = ()
    n_shuffles: int = 3

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
    prompt_style: PromptStyle = "direct",
    protocol: ProtocolOption = "strict",
    synthetic: bool = False,
    batch_size: int = 16,
    concurrency: int = 16,
    threads: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    agreement: tuple[str, ...] = (),
    allow_remote: bool = False,
    metric_weights: Path | None = None,
    no_thumbnails: bool = False,
    judge: str | None = None,
    judge_key_file: Path | None = None,
    judge_budget: int | None = None,
    judge_max_tokens: int = JUDGE_TOKENS,
    judge_human_labels: Path | None = None,
    judge_agreement: tuple[str, ...] = (),
    judge_allow_remote: bool = False,
    controls: str | None = None,
    n_shuffles: int = 3,
) -> int:
    """Evaluate a model on one or more tasks. Run it again with the same --out to go on after an
    interruption.

    Writes OUT/report.html, build.md, build.json, and for each task OUT/TASK/replies.jsonl and
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
        no_thumbnails: keep no small pictures of the images for the build, and remove those of an
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
    execution = (batch_size, concurrency, threads, rank, world_size)
    judge_config = parse_judge_options(
        judge,
        key_file=judge_key_file,
        budget=judge_budget,
        max_tokens=judge_max_tokens,
        human_labels=judge_human_labels,
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
            prompt_style,
            protocol,
            synthetic,
            *execution,
            agreement,
            allow_remote,
            None if metric_weights is None else str(metric_weights),
            not no_thumbnails,
            judge_config,
            control_options.parse_option(controls),
            n_shuffles,
        ),
        out,
    )


def run(config: EvalConfig, out: Path) -> int:
    """Load, ask, score and report; returns the exit code.

    Raises:
        LingshuError: anything that makes the whole run impossible; what was stored before stays.
    """
    from lingshu.inference.engines import open_engine

    if config.limit is not None and config.limit < 1:
        raise InputError(f"--limit {config.limit} asks nothing; give 1 or more.")
    if config.n_shuffles < 1:
        raise InputError(f"--n-shuffles {config.n_shuffles} asks nothing; give 1 or more.")
    data_policy = DataPolicy(frozenset(config.agreement), config.allow_remote)
    options = EngineOptions(
        batch_size=config.batch_size,
        threads=config.threads,
        concurrency=config.concurrency,
        data_policy=data_policy,
    )
    data, synthetic_seed = (
        None if config.data is None else Path(config.data),
        config.seed if config.synthetic else None,
    )
    tasks = find_tasks(config.tasks)
    loaded, excluded = load_all(
        tasks,
        out,
        data=data,
        limit=config.limit,
        prompt_style=config.prompt_style,
        synthetic_seed=synthetic_seed,
    )
    sampling_by_task = {
        loaded_task.task.name: _sampling(loaded_task.task, config) for loaded_task in loaded
    }
    engine = open_engine(config.model, options)
    judge = None if config.judge is None else open_judge(config.judge, options)
    previous_tasks = read_previous_tasks(out, engine)
    notes = {
        "model": engine.model,
        "digest": engine.digest,
        "tasks": (
            previous_tasks
            | {
                loaded_task.task.name: _run_card_entry(
                    loaded_task, config, sampling_by_task[loaded_task.task.name]
                )
                for loaded_task in loaded
            }
        ),
        "excluded": excluded,
    }
    counts = Counter[str]()
    pending_scorers: list[Callable[[], dict[str, int]]] = []
    for loaded_task in loaded:
        task_counts, score_task = _generate_task(
            loaded_task, engine, out, sampling_by_task[loaded_task.task.name], data_policy, config
        )
        score_counts = score_task()
        counts.update(
            task_counts if "n_remote_pending" in score_counts else {**task_counts, **score_counts}
        )
        pending_scorers += [score_task] if "n_remote_pending" in score_counts else []
    for score_task in pending_scorers:
        # Other processes went on while this one asked the next task: whoever comes last must see
        # that all are complete.
        counts.update(score_task())
    if counts["n_remote_pending"]:
        print(
            f"{summary_line(counts)}; {counts['n_remote_pending']} still with other processes, the last of which"
            " scores and reports"
        )
        return 1 if counts["errors"] or counts["control_errors"] else 0
    if judge is not None:
        counts["awaiting_judge"] = judge_all(judge, loaded, out)
    # Only what is scored stands on the card: a run that failed or was killed puts no name to the
    # scores of another.
    run_settings = {
        **asdict(config),
        "sampling": {name: asdict(sampling) for name, sampling in sampling_by_task.items()},
    }
    write_run_card(
        out, RunCard("eval", run_settings, config.seed, counts=dict(counts), notes=notes)
    )
    return _report(
        out,
        counts,
        [drop for loaded_task in loaded for drop in loaded_task.drop_reasons.items()],
        excluded,
    )


def _run_card_entry(loaded: LoadedTask, config: EvalConfig, sampling: Sampling) -> dict[str, Any]:
    """What the run card says of a task; with how it was asked, which the configuration of a later
    command says nothing of.
    """
    protocols = task_protocols(loaded.task, config.protocols, config.judge)
    return task_metadata(loaded, protocols) | {
        "max_tokens": sampling.max_tokens,
        "limit": config.limit,
    }


def read_previous_tasks(out: Path, engine: Engine) -> dict[str, Any]:
    """What an earlier run in the same folder says of its tasks.

    Raises:
        InputError: it was another model's, or the same name with other weights.
    """
    if not (out / RUN_CARD).exists():
        return {}
    notes = read_run_card(out).get("notes", {})
    if not isinstance(notes, dict):
        raise ArtifactError(f"{out / RUN_CARD} is damaged (notes); choose another --out.")
    if (notes.get("model"), notes.get("digest")) != (engine.model, engine.digest):
        raise InputError(
            f"{out} holds an evaluation of {notes.get('model')!r} with other weights or of another"
            " name; choose another --out."
        )
    return dict(notes.get("tasks", {}))


def _sampling(task: Task, config: EvalConfig) -> Sampling:
    max_tokens = (
        max(COT_MAX_TOKENS, task.max_tokens)
        if config.prompt_style == "cot" and task.prompt
        else task.max_tokens
    )
    max_tokens = max_tokens if config.max_tokens is None else config.max_tokens
    return Sampling(max_tokens=max_tokens, temperature=config.temperature, seed=config.seed)


def _generate_task(
    loaded: LoadedTask,
    engine: Engine,
    out: Path,
    sampling: Sampling,
    data_policy: DataPolicy,
    config: EvalConfig,
) -> tuple[dict[str, int], Callable[[], dict[str, int]]]:
    """Ask this process's share; the counts, and what scores the task, or counts under `n_remote_pending`
    what other processes still owe.
    """
    from functools import partial

    from lingshu.core.progress import progress_bar
    from lingshu.evaluate import generate, score
    from lingshu.imaging.read import ShardReader, image_bytes

    task, samples, drops = loaded
    folder = out / task.name
    with progress_bar(task.name) as progress, ShardReader() as shards:
        images = partial(image_bytes, shards=shards)
        generated = generate.generate(
            task,
            samples,
            engine,
            folder,
            sampling=sampling,
            images=images,
            data_policy=data_policy,
            progress=progress,
            rank=config.rank,
            world_size=config.world_size,
            thumbnails=config.thumbnails,
        )
    write_jsonl(folder / "drops.jsonl", (asdict(drop) for drop in drops))
    counts = {
        "samples": generated.n_samples,
        "answered_before": generated.n_answered_before,
        "requested": generated.n_requested,
        "dropped": len(drops),
    }
    controls, control_counts = control_options.generate_controls(
        loaded, engine, folder, config, sampling=sampling, data_policy=data_policy
    )
    generation_errors = {"errors": generated.n_errors} | (
        {"control_errors": control_counts.pop("control_errors")} if controls else {}
    )

    def score_task() -> dict[str, int]:
        n_remote_pending = (
            generate.count_pending(folder) + control_options.count_pending(controls, folder)
            if config.world_size > 1
            else 0
        )
        if n_remote_pending:
            return {**generation_errors, "n_remote_pending": n_remote_pending}
        weights = None if config.metric_weights is None else Path(config.metric_weights)
        scores = score.score(task, samples, folder, protocols=config.protocols, weights=weights)
        return {"errors": scores.n_errors} | control_options.score(controls, loaded, folder)

    return {**counts, **control_counts}, score_task


def _report(
    out: Path,
    counts: Mapping[str, int],
    drops: Sequence[tuple[str, int]],
    excluded: Mapping[str, str],
) -> int:
    from lingshu.evaluate.report import build

    report_result = build.build(out)
    build.write(out, report_result)
    print(build.as_text(report_result), end="")
    print(summary_line(counts))
    if "control_questions" in counts:
        print(control_options.summary_line(counts))
    if drops:
        print(
            "dropped: "
            + ", ".join(f"{reason} {count}" for reason, count in drops)
            + " (drops.jsonl beside the replies names them)"
        )
    for name, reason in excluded.items():
        print(f"left out: {name}: {reason}")
    print(f"report: {out / REPORT_HTML}")
    return (
        1 if any(map(counts.get, ("errors", "awaiting_judge", "control_errors"))) or excluded else 0
    )


def summary_line(counts: Mapping[str, int]) -> str:
    """The counts of a run on one line."""
    labels: Sequence[tuple[str, str]] = (
        ("samples", "samples"),
        ("requested", "asked now"),
        ("answered_before", "answered before"),
        ("dropped", "dropped"),
        ("errors", "errors"),
    )
    return ", ".join(f"{counts.get(key, 0)} {label}" for key, label in labels)
