"""`lingshu eval` as a function of keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingshu.cli import eval as command
from lingshu.evaluate.run import EvalConfig, JudgeConfig


def evaluate(model: str, tasks: str, *, out: Path, **options: Any) -> int:
    """The exit code; options of the judge are `judge`, `judge_budget` and so on."""
    judge = {name: options.pop(name) for name in [*options] if name.startswith("judge")}
    names = {name: "model" if name == "judge" else name.removeprefix("judge_") for name in judge}
    judge_config = JudgeConfig(**{names[name]: value for name, value in judge.items()})
    config = EvalConfig(judge=judge_config, **options)
    return command.evaluate(model, tasks, out=out, config=config)
