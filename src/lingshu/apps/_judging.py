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

from lingshu.apps._eval_data import Loaded
from lingshu.core.errors import EngineError, InputError, one_line
from lingshu.core.nouns import Engine, Sampling, Task
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release

KEY_VARIABLE = "LINGSHU_JUDGE_API_KEY"
MAX_TOKENS = 2048  # room for a model that reasons before its verdict


@dataclass(frozen=True)
class Judging:
    """Who judges, how much it may take, what it may see, and whose labels it is compared with."""

    model: str
    key_file: str | None = None
    budget: int | None = None
    max_tokens: int = MAX_TOKENS
    labels: str | None = None
    agreement: tuple[str, ...] = ()
    allow_remote: bool = False

    @property
    def release(self) -> Release:
        """What the judge's address may see; what was allowed for the model's is not allowed for the
        judge's.
        """
        return Release(frozenset(self.agreement), self.allow_remote)


class Judge(NamedTuple):
    """An opened judge."""

    engine: Engine
    config: Judging
    options: EngineOptions


def judging(
    model: str | None,
    *,
    key_file: Path | None,
    budget: int | None,
    max_tokens: int,
    labels: Path | None,
    agreement: tuple[str, ...],
    allow_remote: bool,
) -> Judging | None:
    """The judge that the command line names, None without one.

    Raises:
        InputError: options of a judge without one, or a bound below 1.
    """
    if model is None:
        if key_file or budget is not None or labels or agreement or allow_remote:
            raise InputError(
                "options of a judge are given and no judge; name it with --judge MODEL."
            )
        return None
    for name, value in (("--judge-budget", budget), ("--judge-max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value} allows nothing; give 1 or more.")
    paths = (None if path is None else str(path) for path in (key_file, labels))
    return Judging(model, next(paths), budget, max_tokens, next(paths), agreement, allow_remote)


def open_judge(config: Judging, options: EngineOptions) -> Judge:
    """Open the judge's engine with a key and a release of its own; all else is as for the model.

    Raises:
        InputError: the key file or the file of labels cannot be read.
        LingshuError: what the engine says is wrong with its name.
    """
    from dataclasses import replace

    from lingshu.apps.models import engine_for
    from lingshu.evaluate._judged import read_labels

    if config.labels is not None:
        read_labels(Path(config.labels))  # at the door: the judge's work may take hours
    own = replace(options, release=config.release, api_key=_key(config.key_file))
    return Judge(engine_for(config.model, own), config, own)


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


def protocols(task: Task, named: Sequence[str], config: Judging | None) -> tuple[str, ...]:
    """The protocols of a task in the order of the report: the judge leads where it alone can score."""
    if config is None:
        return tuple(named)
    return ("judge", *named) if task.criteria is not None else (*named, "judge")


def judge_all(judge: Judge, tasks: Sequence[Loaded], out: Path) -> int:
    """Judge the scored replies of every task and print a line for each; returns how many replies
    are left without a verdict.

    Raises:
        EngineError: the judge cannot answer at all; verdicts so far are kept.
        InputError: a label that does not fit its task.
    """
    from lingshu.core.calls import Budget
    from lingshu.evaluate._judged import JUDGE, read_labels
    from lingshu.evaluate._judged_sections import agreement_text, range_text
    from lingshu.evaluate.judge import judge as judge_task
    from lingshu.evaluate.judge import judgeable, open_calls
    from lingshu.evaluate.progress import shown
    from lingshu.evaluate.score import scores_file

    config, repeats = judge.config, judge.options.retries if judge.engine.endpoint else 0
    labels = [] if config.labels is None else read_labels(Path(config.labels))
    missing = labelled = 0
    ledger = Counter[str]()
    for task, samples, _ in tasks:
        if not any(judgeable(task, sample) for sample in samples):
            scores_file(out / task.name, JUDGE).unlink(missing_ok=True)
            print(
                f"judge: {task.title}: nothing to judge; reports are measured, and others have no"
                " gold"
            )
            continue
        calls = open_calls(
            judge.engine,
            out / task.name,
            budget=Budget(config.budget),
            release=config.release,
            repeats=repeats,
        )
        with calls, shown(f"judge {task.name}") as progress:
            sampling = Sampling(max_tokens=config.max_tokens)
            try:
                found = judge_task(
                    task,
                    samples,
                    out / task.name,
                    calls,
                    sampling=sampling,
                    labels=labels,
                    progress=progress,
                )
            except EngineError as error:
                key = (
                    f" Its key comes from --judge-key-file or {KEY_VARIABLE}."
                    if "key" in str(error)
                    else ""
                )
                raise EngineError(f"the judge: {one_line(error)}{key}") from error
            ledger.update(_whole(calls.ledger()))
        failed = found.judged.failed
        why = (
            ", without a verdict:"
            f" {', '.join(f'{reason} {count}' for reason, count in failed.items())}"
            if failed
            else ""
        )
        agreed = agreement_text(found.judged)
        print(
            f"judge: {task.title}: {found.judged.judged} of {found.judged.asked} judged{why}."
            f" {range_text(found.judged)}{agreed}"
        )
        missing, labelled = missing + sum(failed.values()), labelled + found.labelled
    if ledger:
        print(
            "judge: "
            + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in ledger.items())
        )
    if labelled < len(labels):
        print(
            f"judge: {len(labels) - labelled} labels are of replies that were not asked, or have"
            " not the form that their task needs"
        )
    return missing


def _whole(ledger: Mapping[str, int | float]) -> dict[str, int]:
    return {name: int(count) for name, count in ledger.items() if name != "cost"}
