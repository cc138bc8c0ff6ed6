"""`lingshu train`: a recipe or a configuration file, typed overrides, and the loop."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lingshu.cli._training_plan import format_plan
from lingshu.core import config as configuration
from lingshu.core.errors import ConfigError
from lingshu.core.registry import get_attribute
from lingshu.train.config import TrainConfig

EXIT_STOPPED = 75  # "try again later" of sysexits.h: the state is saved, the run is not done


def train(
    recipe: str,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path | None = None,
    check: bool = False,
    gpu: str | None = None,
    gpus: int | None = None,
    mfu: float | None = None,
    text_tokens: float | None = None,
    image_tokens: float | None = None,
    resume: bool = False,
) -> int:
    """Train one stage or a chain of stages.

    Parameters
    ----------
    recipe
        A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a .yaml or
        .json file.
    changes
        Typed overrides such as model=CHECKPOINT, data.train=FOLDER, stages.deep.steps=100, seed=1.
    out
        Folder of the run; needed unless --check is given.
    check
        Print parameters, steps, tokens, memory and data that the run needs, and stop.
    gpu
        With --check: hours on this card and whether it fits there, such as H100 or A100-80GB.
    gpus
        With --gpu: how many of them.
    mfu
        With --check: the share of the GPUs' peak that the model's own operations reach; 0.4 where
        it is not given.
    text_tokens
        With --check: mean text tokens of a sample, where the data are not there to be measured.
    image_tokens
        With --check: mean image tokens of a sample, where the data are not there to be measured.
    resume
        Go on with a run that was interrupted.
    """
    config = read_config(recipe, changes)
    if check:
        print(
            format_plan(
                config,
                gpu=gpu,
                gpus=gpus,
                mfu=mfu,
                text_tokens=text_tokens,
                image_tokens=image_tokens,
            )
        )
        return 0
    if (gpu, gpus, mfu, text_tokens, image_tokens) != (None,) * 5:
        raise ConfigError(
            "--gpu, --gpus, --mfu, --text-tokens and --image-tokens are for planning; pass --check"
            " with them."
        )
    if out is None:
        raise ConfigError(
            "--out is missing; name a folder for the run, or pass --check to plan only."
        )
    from lingshu.train.distributed import init_distributed
    from lingshu.train.log import SUMMARY_FILE, progress_line
    from lingshu.train.loop import train as run
    from lingshu.train.trainer import StopRequested

    with (
        init_distributed(config.device) as dist_context,
        progress_line() if dist_context.is_main else nullcontext() as progress,
        stop_on_sigterm() as stop,
    ):
        try:
            checkpoint = run(
                config, out, resume=resume, progress=progress, stop=stop, dist_context=dist_context
            )
        except StopRequested as error:
            if dist_context.is_main:
                print(f"stopped at {error}; go on with --resume", file=sys.stderr)
            return EXIT_STOPPED
    if not dist_context.is_main:
        return 0
    exit_code = _print_summary(
        json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))["stages"], checkpoint
    )
    # torchrun takes any other code for a failure: it would end the other processes, or start all of
    # them again.
    return 0 if dist_context.is_distributed else exit_code


def _print_summary(stages: Sequence[Mapping[str, Any]], checkpoint: Path) -> int:
    """Say what each stage did; the exit code is 1 where samples were dropped."""
    dropped = 0
    for stage in stages:
        dropped += sum(stage["dropped"].values())
        losses = f"loss {stage['first_loss']:.3f} -> {stage['last_loss']:.3f}"
        entities = stage.get("entities")
        entity_note = (
            f", entities {100 * entities['fraction']:.2f}% of supervised tokens" if entities else ""
        )
        print(
            f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s, {losses},"
            f" {_format_drops(stage['dropped'])}{entity_note}"
        )
    print(f"checkpoint: {checkpoint}")
    return 1 if dropped else 0


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """A question that is answered with yes once SIGTERM came, as a cluster sends it before it takes
    a node away.
    """
    received: list[int] = []
    previous_handler = signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _format_drops(dropped: dict[str, int]) -> str:
    return (
        "no sample dropped"
        if not dropped
        else "dropped " + ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    )


def read_config(recipe: str, changes: tuple[str, ...]) -> TrainConfig:
    """The configuration of a recipe or file with its overrides applied.

    Raises:
        ConfigError, InputError, UnknownName: what is wrong and what was perhaps meant.
    """
    if recipe.endswith((".yaml", ".yml", ".json")):
        config = configuration.from_plain(TrainConfig, configuration.read_plain(Path(recipe)))
    else:
        build_recipe = get_attribute("recipes", recipe, "recipe")
        config = build_recipe() if callable(build_recipe) else None
        if not isinstance(config, TrainConfig):
            raise ConfigError(f"{recipe!r} is no training recipe; see `lingshu list recipes`.")
    return configuration.override(config, changes)
