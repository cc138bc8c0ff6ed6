"""An evaluation: every task is generated, scored, judged if requested, reported; it can resume.

The caller loads the tasks (evaluate/data.py) and opens the engines.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lingshu.core.cached_client import Budget
from lingshu.core.config import to_plain
from lingshu.core.errors import (
    ArtifactError,
    EngineError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    one_line,
)
from lingshu.core.files import write_jsonl
from lingshu.core.progress import progress_bar
from lingshu.core.run_card import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.core.types import (
    CheckpointOptions,
    DataPolicy,
    Engine,
    EngineOptions,
    PromptStyle,
    Sampling,
    Task,
    VllmOptions,
    engine_notes,
    engine_settings,
)
from lingshu.evaluate import controls
from lingshu.evaluate.data import LoadedTask, LoadedTasks, find_tasks, load, task_metadata
from lingshu.evaluate.generate import count_pending, generate
from lingshu.evaluate.judge import is_judgeable, judge, open_judge_client
from lingshu.evaluate.judgments import JUDGE, HumanLabel, read_labels
from lingshu.evaluate.report import build
from lingshu.evaluate.report.model import EvaluationReport
from lingshu.evaluate.score import score, scores_file
from lingshu.evaluate.store import seal_run
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import ShardReader, image_bytes
from lingshu.scoring.protocols.table import PROTOCOLS

COT_MAX_TOKENS = 8192  # of the published protocol
KEY_VARIABLE = "LINGSHU_JUDGE_API_KEY"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges, how much it may take, what it may see, and whose labels it is compared with."""

    model: Annotated[str | None, Parameter(name="--judge")] = None
    "Model that judges the replies, named as MODEL is; its verdicts are cached."
    key_file: Annotated[Path | None, Parameter(name="--judge-key-file")] = None
    "File with the judge's key; else LINGSHU_JUDGE_API_KEY, else the key of any address."
    budget: Annotated[int | None, Parameter(name="--judge-budget")] = None
    "Tokens that the verdicts on one task may take in all."
    max_tokens: Annotated[int, Parameter(name="--judge-max-tokens")] = 2048
    "Maximum length of a judge's answer, its reasoning included."
    human_labels: Annotated[Path | None, Parameter(name="--judge-human-labels")] = None
    "JSONL of human verdicts {id, verdict or met}, to measure the judge's agreement with them."
    agreement: Annotated[tuple[str, ...], Parameter(name="--judge-agreement")] = ()
    "A data-use agreement that covers the judge's address; may be given several times."
    allow_remote: Annotated[bool, Parameter(name="--judge-allow-remote")] = False
    "Allow private samples that are not de-identified to be sent to the judge's address."

    @property
    def data_policy(self) -> DataPolicy:
        """What the judge's address may see, whatever the model's may."""
        return DataPolicy(frozenset(self.agreement), self.allow_remote)

    def check(self) -> list[HumanLabel]:
        """The human labels, read before the judge starts, whose work may take hours.

        Raises:
            InputError: options of a judge without one, a bound below 1, or labels that cannot be
                read.
        """
        if self.model is None and self != JudgeConfig(max_tokens=self.max_tokens):
            raise InputError(
                "options of a judge are given, but no judge; name it with --judge MODEL."
            )
        for option, value in (("budget", self.budget), ("max-tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise InputError(f"--judge-{option} {value} allows nothing; give 1 or more.")
        return [] if self.human_labels is None else read_labels(self.human_labels)

    def engine_options(self, options: EngineOptions) -> EngineOptions:
        """The model's options with the judge's own key and data policy, and a judge in this process
        opened by its defaults.

        Raises:
            InputError: the key file cannot be read.
        """
        return replace(
            options,
            data_policy=self.data_policy,
            api_key=self._api_key(),
            checkpoint=CheckpointOptions(),
            vllm=VllmOptions(),
            top_log_probs=0,
        )

    def _api_key(self) -> str | None:
        if self.key_file is None:
            return os.environ.get(KEY_VARIABLE) or None
        try:
            key = self.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--judge-key-file {self.key_file} cannot be read ({type(error).__name__}); give a"
                " text file that holds the key."
            ) from error
        if not key:
            raise InputError(f"--judge-key-file {self.key_file} is empty; write the key into it.")
        return key


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What an evaluation does."""

    limit: int | None = None
    "Evaluate only the first LIMIT samples of each task."
    data: Path | None = None
    "Folder with offline data."
    seed: int = 0
    "Seed of sampling."
    max_tokens: int | None = None
    "Maximum length of a reply; each task's own if not given, 8192 for chain-of-thought answers."
    temperature: float = 0.0
    "Sampling temperature; 0 is greedy."
    prompt_style: PromptStyle = "direct"
    "Request the bare answer (direct) or reasoning before it (cot)."
    protocol: Literal["strict", "paper", "medevalkit", "all"] = "strict"
    "How replies are graded; in addition to strict by published rules and their known issues, or all."
    synthetic: bool = False
    "Evaluate on a few synthetic samples of the same form; nothing is read or downloaded."
    batch_size: int = 16
    "Samples at a time, for a model in this process."
    concurrency: int = 16
    "Requests at a time, for a model behind an address."
    threads: int | None = None
    "CPU threads; the library's default if not given."
    rank: int = 0
    "Which of WORLD_SIZE processes this one is, from 0; they share the samples of one --out."
    world_size: int = 1
    "Number of processes that share the samples."
    agreement: tuple[str, ...] = ()
    "A data-use agreement that covers the address; may be given several times."
    allow_remote: bool = False
    "Allow private samples that are not de-identified to be sent to the address."
    metric_weights: Path | None = None
    "Folder with the models of report metrics; metrics without theirs are reported as unavailable."
    no_thumbnails: bool = False
    "Keep no small images for the report, and remove those of an earlier run in OUT."
    controls: str | None = None
    "Repeat the task under other conditions: blind, shuffle, constant, wording, none_of_the_above, comma-separated."
    top_log_probs: int = 0
    """Probabilities a token to ask of an address or vLLM, at most 20, for the confidence in the
    report (0: none). A model in this process always gives its own."""
    n_shuffles: int = 3
    "Number of other option orders in which the control shuffle presents each item."
    checkpoint: Annotated[CheckpointOptions, Parameter(name="*")] = field(
        default_factory=CheckpointOptions
    )
    vllm: VllmOptions = field(default_factory=VllmOptions)
    judge: Annotated[JudgeConfig, Parameter(name="*")] = field(default_factory=JudgeConfig)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols to grade by; strict is always among them."""
        if self.protocol == "all":
            return PROTOCOLS
        return ("strict",) if self.protocol == "strict" else ("strict", self.protocol)

    def task_protocols(self, task: Task) -> tuple[str, ...]:
        """Those of a task in the order of the report: the judge leads where it alone can score."""
        if self.judge.model is None:
            return self.protocols
        return (JUDGE, *self.protocols) if task.criteria else (*self.protocols, JUDGE)

    @property
    def data_policy(self) -> DataPolicy:
        return DataPolicy(frozenset(self.agreement), self.allow_remote)

    @property
    def engine_options(self) -> EngineOptions:
        return EngineOptions(
            batch_size=self.batch_size,
            threads=self.threads,
            concurrency=self.concurrency,
            data_policy=self.data_policy,
            checkpoint=self.checkpoint,
            vllm=self.vllm,
            top_log_probs=self.top_log_probs,
        )

    def check(self) -> None:
        """
        Raises:
            InputError: an option without a meaning.
        """
        for option, value in (("limit", self.limit), ("n-shuffles", self.n_shuffles)):
            if value is not None and value < 1:
                raise InputError(f"--{option} {value} evaluates nothing; give 1 or more.")
        # Before a model is loaded; without --max-tokens each task has its own.
        Sampling(1 if self.max_tokens is None else self.max_tokens, self.temperature)
        controls.parse_controls(self.controls)
        self.judge.check()

    def load_tasks(self, names: Sequence[str], out: Path) -> LoadedTasks:
        """The named tasks with their samples; of several tasks, unavailable ones are excluded.

        Raises:
            LingshuError: the only task, or all of them, cannot be loaded.
        """
        tasks = find_tasks(names)
        options: Any = {"limit": self.limit, "prompt_style": self.prompt_style}
        options["synthetic_seed"] = self.seed if self.synthetic else None
        loaded: list[LoadedTask] = []
        excluded: dict[str, str] = {}
        for task in tasks:
            try:
                loaded.append(load(task, self.data, out, **options))
            except (InputError, ArtifactError, UnknownNameError, MissingExtraError) as error:
                if len(excluded) == len(tasks) - 1:
                    raise
                excluded[task.name] = one_line(error)
        return LoadedTasks(names, loaded, excluded)

    def sampling(self, task: Task) -> Sampling:
        max_tokens = task.max_tokens if self.max_tokens is None else self.max_tokens
        if self.max_tokens is None and self.prompt_style == "cot" and task.prompt:
            max_tokens = max(COT_MAX_TOKENS, task.max_tokens)
        return Sampling(max_tokens, self.temperature, seed=self.seed)


@dataclass(frozen=True)
class EvalOutcome:
    """What a run did; no `report` while others still generate. `messages` are of the judge."""

    counts: Counter[str]
    drops: Counter[str]
    excluded: dict[str, str]
    messages: tuple[str, ...] = ()
    report: EvaluationReport | None = None

    @property
    def has_failures(self) -> bool:
        failures = ("errors", "awaiting_judge", "control_errors")
        return any(map(self.counts.get, failures)) or (
            bool(self.excluded) and self.report is not None
        )


def run(
    model: str,
    engine: Engine,
    loaded: LoadedTasks,
    out: Path,
    config: EvalConfig,
    *,
    judge_engine: Engine | None = None,
) -> EvalOutcome:
    """Generate, score and report; `model` is the name that the caller opened `engine` by.

    Raises:
        LingshuError: anything that makes the whole run impossible; what was stored before stays.
    """
    previous_tasks = _read_previous_tasks(out, engine)
    task_runs = []
    for task in loaded.tasks:
        task_runs.append(_TaskRun(task, out / task.task.name, config))
        task_runs[-1].generate(engine)
        task_runs[-1].score()
    for task_run in task_runs:
        # Other processes continued while this one generated the next task: the last one to finish
        # must see that all tasks are complete.
        if task_run.counts["n_pending"]:
            task_run.score()
    counts, drops = Counter[str](), Counter[str]()
    for task_run in task_runs:
        counts.update(task_run.counts)
        drops.update(task_run.task.drop_reasons)
    if counts["n_pending"]:
        return EvalOutcome(counts, drops, loaded.excluded)
    messages: list[str] = []
    if judge_engine is not None:
        counts["awaiting_judge"], messages = _judge_all(judge_engine, config, loaded.tasks, out)
    tasks = {
        task.task.name: task_metadata(task, config.task_protocols(task.task))
        | {"max_tokens": config.sampling(task.task).max_tokens, "limit": config.limit}
        for task in loaded.tasks
    }
    notes = {
        "model": engine.model,
        "digest": engine.digest,
        "tasks": previous_tasks | tasks,
        "excluded": loaded.excluded,
    }
    if engine_settings(engine):
        notes["engine"] = engine_settings(engine) | {"notes": list(engine_notes(engine))}
    settings = {
        "model": model,
        "tasks": loaded.names,
        **to_plain(config),
        "sampling": {task.task.name: asdict(config.sampling(task.task)) for task in loaded.tasks},
    }
    counts_on_card = {name: count for name, count in counts.items() if name != "n_pending"}
    # Written last: a run that failed or was killed does not describe the scores of another.
    write_run_card(out, RunCard("eval", settings, config.seed, counts=counts_on_card, notes=notes))
    seal_run(out, previous_tasks | tasks)
    report = build.build(out)
    build.write(out, report)
    return EvalOutcome(counts, drops, loaded.excluded, tuple(messages), report)


def _read_previous_tasks(out: Path, engine: Engine) -> dict[str, Any]:
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


class _TaskRun:
    """One task of a run with its controls."""

    def __init__(self, task: LoadedTask, folder: Path, config: EvalConfig) -> None:
        self.task, self.folder, self.config = task, folder, config
        self.counts = Counter[str]()
        self.controls: list[controls.Control] = []

    def generate(self, engine: Engine) -> None:
        """Generate this process's share of the task and of its controls."""
        config, task = self.config, self.task.task
        names = controls.parse_controls(config.controls)
        with ShardReader() as shards:
            common = {
                "sampling": config.sampling(task),
                "images": partial(image_bytes, shards=shards),
                "data_policy": config.data_policy,
                "rank": config.rank,
                "world_size": config.world_size,
            }
            with progress_bar(task.name) as progress:
                generated = generate(
                    task,
                    self.task.samples,
                    engine,
                    self.folder,
                    progress=progress,
                    thumbnails=not config.no_thumbnails,
                    **common,
                )
            write_jsonl(self.folder / "drops.jsonl", map(asdict, self.task.drops))
            self.counts.update(generated.counts(), dropped=len(self.task.drops))
            if not names:
                return
            with ImageCache(shards=shards) as images:
                self.controls = controls.prepare(
                    names,
                    self.task,
                    self.folder,
                    header=images.header,
                    n_shuffles=config.n_shuffles,
                    seed=config.seed,
                    prompt_style=config.prompt_style,
                )
            generated = controls.generate_all(self.controls, task, engine, self.folder, **common)
            self.counts.update(generated.counts("control_"))

    def score(self) -> None:
        """Score the task and its controls, or count in `n_pending` what others still generate."""
        task, samples = self.task.task, self.task.samples
        folder, config = self.folder, self.config
        self.counts["n_pending"] = 0
        if config.world_size > 1:
            folders = (folder, *controls.folders(self.controls, folder))
            self.counts["n_pending"] = sum(map(count_pending, folders))
        if self.counts["n_pending"]:
            return
        options = {"protocols": config.protocols, "weights": config.metric_weights}
        self.counts["errors"] = score(task, samples, folder, **options).n_errors
        if self.controls:
            n_errors = controls.score_all(self.controls, task, samples, folder)
            self.counts["control_errors"] = n_errors


def _judge_all(
    engine: Engine, config: EvalConfig, tasks: Sequence[LoadedTask], out: Path
) -> tuple[int, list[str]]:
    """Judge every task's scored replies; how many have no verdict, and lines on the results.

    Raises:
        EngineError: the judge cannot answer at all; verdicts so far are kept.
        InputError: a label that does not fit its task.
    """
    labels = config.judge.check()
    n_missing = n_labeled = 0
    usage, lines = Counter[str](), []
    for loaded in tasks:
        task, samples = loaded.task, loaded.samples
        if not any(is_judgeable(task, sample) for sample in samples):
            scores_file(out / task.name, JUDGE).unlink(missing_ok=True)
            lines.append(
                f"{task.title}: nothing to judge; reports are measured, and others have no gold"
            )
            continue
        client = open_judge_client(
            engine,
            out / task.name,
            budget=Budget(config.judge.budget),
            data_policy=config.judge.data_policy,
            engine_retries=config.engine_options.retries if engine.endpoint else 0,
        )
        with client, progress_bar(f"judge {task.name}") as progress:
            try:
                summary = judge(
                    task,
                    samples,
                    out / task.name,
                    client,
                    sampling=Sampling(max_tokens=config.judge.max_tokens),
                    labels=labels,
                    progress=progress,
                )
            except EngineError as error:
                source = f" Its key comes from --judge-key-file or {KEY_VARIABLE}."
                raise EngineError(
                    f"the judge: {one_line(error)}{source if 'key' in str(error) else ''}"
                ) from error
            usage.update({name: int(n) for name, n in client.counts().items() if name != "cost"})
        lines.append(f"{task.title}: {summary.result.summary_text}")
        n_missing += summary.result.n_failed
        n_labeled += summary.n_labeled
    if usage:
        lines.append(", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in usage.items()))
    if n_labeled < len(labels):
        lines.append(
            f"{len(labels) - n_labeled} labels are of replies that were not judged, or do not have"
            " the form that their task needs"
        )
    return n_missing, [f"judge: {line}" for line in lines]
