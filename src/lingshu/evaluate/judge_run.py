"""`lingshu eval --judge`: opens the judge, has it judge every task that was scored, and tells what
came of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lingshu.core.data_policy import DataPolicy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import EngineError, InputError, one_line
from lingshu.core.types import Engine, Sampling, Task
from lingshu.evaluate.data import LoadedTask

KEY_VARIABLE = "LINGSHU_JUDGE_API_KEY"
MAX_TOKENS = 2048  # room for a model that reasons before its verdict


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges, how much it may take, what it may see, and whose labels it is compared with."""

    model: str
    key_file: str | None = None
    budget: int | None = None
    max_tokens: int = MAX_TOKENS
    human_labels: str | None = None
    agreement: tuple[str, ...] = ()
    allow_remote: bool = False

    @property
    def data_policy(self) -> DataPolicy:
        """What the judge's address may see; what was allowed for the model's is not allowed for the
        judge's.
        """
        return DataPolicy(frozenset(self.agreement), self.allow_remote)


class OpenedJudge(NamedTuple):
    """An opened judge."""

    engine: Engine
    config: JudgeConfig
    options: EngineOptions


def parse_judge_options(
    model: str | None,
    *,
    key_file: Path | None,
    budget: int | None,
    max_tokens: int,
    human_labels: Path | None,
    agreement: tuple[str, ...],
    allow_remote: bool,
) -> JudgeConfig | None:
    """The judge that the command line names, None without one.

    Raises:
        InputError: options of a judge without one, or a bound below 1.
    """
    if model is None:
        if key_file or budget is not None or human_labels or agreement or allow_remote:
            raise InputError(
                "options of a judge are given and no judge; name it with --judge MODEL."
            )
        return None
    for name, value in (("--judge-budget", budget), ("--judge-max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value} allows nothing; give 1 or more.")
    paths = (None if path is None else str(path) for path in (key_file, human_labels))
    return JudgeConfig(model, next(paths), budget, max_tokens, next(paths), agreement, allow_remote)


def open_judge(config: JudgeConfig, options: EngineOptions) -> OpenedJudge:
    """Open the judge's engine with a key and a release of its own; all else is as for the model.

    Raises:
        InputError: the key file or the file of labels cannot be read.
        LingshuError: what the engine says is wrong with its name.
    """
    from dataclasses import replace

    from lingshu.evaluate.judgments import read_labels
    from lingshu.inference.engines import open_engine

    if config.human_labels is not None:
        read_labels(Path(config.human_labels))  # at the door: the judge's work may take hours
    judge_options = replace(options, data_policy=config.data_policy, api_key=_key(config.key_file))
    return OpenedJudge(open_engine(config.model, judge_options), config, judge_options)


def _key(file: str | None) -> str | None:
    """The judge's key: from its file, else from the environment; None leaves it to the engine."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--judge-key-file {file} cannot be read ({type(error).__name__}); give a text file"
            " that holds the key."
        ) from error
    if not key:
        raise InputError(f"--judge-key-file {file} is empty; write the key into it.")
    return key


def protocols(task: Task, requested: Sequence[str], config: JudgeConfig | None) -> tuple[str, ...]:
    """The protocols of a task in the order of the report: the judge leads where it alone can score."""
    if config is None:
        return tuple(requested)
    return ("judge", *requested) if task.criteria is not None else (*requested, "judge")


def judge_all(judge: OpenedJudge, tasks: Sequence[LoadedTask], out: Path) -> int:
    """Judge the scored replies of every task and print a line for each; returns how many replies
    are left without a verdict.

    Raises:
        EngineError: the judge cannot answer at all; verdicts so far are kept.
        InputError: a label that does not fit its task.
    """
    from lingshu.core.cached_client import Budget
    from lingshu.core.progress import progress_bar
    from lingshu.evaluate.judge import is_judgeable, open_judge_client
    from lingshu.evaluate.judge import judge as judge_task
    from lingshu.evaluate.judgments import JUDGE, read_labels
    from lingshu.evaluate.score import scores_file

    config, n_repeats = judge.config, judge.options.retries if judge.engine.endpoint else 0
    all_labels = [] if config.human_labels is None else read_labels(Path(config.human_labels))
    n_missing = n_labeled = 0
    usage = Counter[str]()
    for task, samples, _ in tasks:
        if not any(is_judgeable(task, sample) for sample in samples):
            scores_file(out / task.name, JUDGE).unlink(missing_ok=True)
            print(
                f"judge: {task.title}: nothing to judge; reports are measured, and others have no"
                " gold"
            )
            continue
        calls = open_judge_client(
            judge.engine,
            out / task.name,
            budget=Budget(config.budget),
            data_policy=config.data_policy,
            n_repeats=n_repeats,
        )
        with calls, progress_bar(f"judge {task.name}") as progress:
            sampling = Sampling(max_tokens=config.max_tokens)
            try:
                summary = judge_task(
                    task,
                    samples,
                    out / task.name,
                    calls,
                    sampling=sampling,
                    labels=all_labels,
                    progress=progress,
                )
            except EngineError as error:
                key = (
                    f" Its key comes from --judge-key-file or {KEY_VARIABLE}."
                    if "key" in str(error)
                    else ""
                )
                raise EngineError(f"the judge: {one_line(error)}{key}") from error
            usage.update(_token_counts(calls.counts()))
        failed = summary.result.failed
        failure_text = (
            ", without a verdict:"
            f" {', '.join(f'{reason} {count}' for reason, count in failed.items())}"
            if failed
            else ""
        )
        agreement = summary.result.agreement_text
        print(
            f"judge: {task.title}: {summary.result.n_judged} of {summary.result.n_requested} judged{failure_text}."
            f" {summary.result.score_text}{agreement}"
        )
        n_missing, n_labeled = n_missing + sum(failed.values()), n_labeled + summary.n_labeled
    if usage:
        print(
            "judge: "
            + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in usage.items())
        )
    if n_labeled < len(all_labels):
        print(
            f"judge: {len(all_labels) - n_labeled} labels are of replies that were not asked, or have"
            " not the form that their task needs"
        )
    return n_missing


def _token_counts(usage: Mapping[str, int | float]) -> dict[str, int]:
    return {name: int(count) for name, count in usage.items() if name != "cost"}
