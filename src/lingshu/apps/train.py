"""`lingshu train`: a recipe or a configuration file, typed overrides, and the loop."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError
from lingshu.core.shelves import part
from lingshu.train.config import TrainConfig

STOPPED = 75  # "try again later" of sysexits.h: the state is saved, the run is not done

if TYPE_CHECKING:
    from lingshu.train.check import RunCheck


def train(
    recipe: str,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path | None = None,
    check: bool = False,
    resume: bool = False,
) -> int:
    """Train one stage or a chain of stages.

    Parameters
    ----------
    recipe
        A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a .yaml or .json file.
    changes
        Typed overrides such as model=CHECKPOINT, data.train=FOLDER, stages.deep.steps=100, seed=1.
    out
        Folder of the run; needed unless --check is given.
    check
        Print parameters, steps, memory and data that the run needs, and stop.
    resume
        Go on with a run that was interrupted.
    """
    config = read_config(recipe, changes)
    if check:
        from lingshu.train.check import check as plan

        print(describe(config, plan(config)))
        return 0
    if out is None:
        raise ConfigError("--out is missing; name a folder for the run, or pass --check to plan only.")
    from lingshu.train.log import SUMMARY, progress_line
    from lingshu.train.loop import train as run
    from lingshu.train.stage import Stopped

    try:
        with progress_line() as progress, asked_to_stop() as stop:
            checkpoint = run(config, out, resume=resume, progress=progress, stop=stop)
    except Stopped as where:
        print(f"stopped at {where}; go on with --resume", file=sys.stderr)
        return STOPPED
    dropped = 0
    for stage in json.loads((out / SUMMARY).read_text(encoding="utf-8"))["stages"]:
        dropped += sum(stage["dropped"].values())
        losses = f"loss {stage['first_loss']:.3f} -> {stage['last_loss']:.3f}"
        print(f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s, {losses}, {_drops(stage['dropped'])}")
    print(f"checkpoint: {checkpoint}")
    return 1 if dropped else 0


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A question that is answered with yes once SIGTERM came, as a cluster sends it before it takes a node away."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


def _drops(dropped: dict[str, int]) -> str:
    return "no sample dropped" if not dropped else "dropped " + ", ".join(f"{reason} {count}" for reason, count in dropped.items())


def read_config(recipe: str, changes: tuple[str, ...]) -> TrainConfig:
    """The configuration of a recipe or file with its overrides applied.

    Raises:
        ConfigError, InputError, UnknownName: what is wrong and what was perhaps meant.
    """
    if recipe.endswith((".yaml", ".yml", ".json")):
        config = configuration.from_plain(TrainConfig, configuration.read_plain(Path(recipe)))
    else:
        made = part("recipes", recipe, "recipe")
        config = made() if callable(made) else None
        if not isinstance(config, TrainConfig):
            raise ConfigError(f"{recipe!r} is no training recipe; see `lingshu list recipes`.")
    return configuration.override(config, changes)


def describe(config: TrainConfig, plan: RunCheck) -> str:
    """The plan of a run as text for a terminal."""
    parts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in plan.shapes.parameters.items())
    model = config.model if isinstance(config.model, str) else f"tiny {config.model.family}"
    lines = [f"{config.name}: {model}, {plan.shapes.total / 1e9:.3f} B parameters ({parts})"]
    if not plan.shapes.verified:
        lines.append("The sizes of this model were not seen in a public file; check them against its config.json.")
    lines += ["", f"{'stage':<12}{'trained':<30}{'steps':>10}   memory a GPU with states sharded over 1 / 8 / 32 GPUs"]
    for stage in plan.stages:
        trained = "+".join(name for name, count in stage.trained.items() if count)
        steps = "?" if stage.steps is None else f"{stage.steps:,}"
        memory = " / ".join(f"{size / 2**30:.1f} GiB" for size in stage.bytes_per_gpu.values())
        lines.append(f"{stage.name:<12}{trained:<30}{steps:>10}   {memory}")
        lines.append(f"{'':<12}steps from {stage.steps_from}; at most {stage.tokens_per_step_at_most:,} tokens a step")
    lines += ["", "Memory is an estimate: 16 bytes a trained parameter, 4 a frozen one, recomputed activations. data:"]
    for group in plan.groups:
        rows = f"{group.rows:,} rows in {group.folder}" if group.rows is not None else f"not given; data.{group.name}=FOLDER"
        expected = f", {group.expected:,} expected" if group.expected is not None else ""
        lines.append(f"  {group.name:<12}{rows}{expected}")
    return "\n".join(lines)
