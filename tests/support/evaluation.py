"""`lingshu eval` and `lingshu report` as functions of keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingshu.cli import eval as eval_command
from lingshu.cli import report as report_command
from lingshu.evaluate.run import EvalConfig, JudgeConfig


def evaluate(model: str, tasks: str, *, out: Path, **options: Any) -> int:
    """The exit code; options of the judge are `judge`, `judge_budget` and so on."""
    judge = {name: options.pop(name) for name in [*options] if name.startswith("judge")}
    names = {name: "model" if name == "judge" else name.removeprefix("judge_") for name in judge}
    judge_config = JudgeConfig(**{names[name]: value for name, value in judge.items()})
    config = EvalConfig(judge=judge_config, **options)
    return eval_command.evaluate(model, tasks, out=out, config=config)


def report(*runs: Path, **options: Any) -> int:
    return report_command.report(*runs, config=report_command.ReportConfig(**options))
