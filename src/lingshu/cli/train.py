"""`lingshu train`: a recipe or a configuration file, typed overrides, and the loop or its plan."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lingshu.cli.options import Flat
from lingshu.core.config import override, read_recipe
from lingshu.core.errors import ConfigError
from lingshu.train.config import PlanOptions, TrainConfig

if TYPE_CHECKING:
    from lingshu.train.estimate import DataGroupEstimate, GpuEstimate, RunEstimate, StageEstimate

EXIT_STOPPED = 75  # "try again later" of sysexits.h: the state is saved, the run is not done
# Fewer tokens than this in a forward pass leave a large GPU waiting for weights to arrive.
MIN_EFFICIENT_TOKENS = 4096
NO_PLAN = PlanOptions()


def train(
    recipe: str,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path | None = None,
    check: bool = False,
    resume: bool = False,
    plan: Flat[PlanOptions] = NO_PLAN,
) -> int:
    """Train one stage or a chain of stages.

    Args:
        recipe: A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a
            .yaml or .json file.
        changes: Typed overrides such as model=CHECKPOINT, data.train=FOLDER, stages.deep.steps=100,
            seed=1.
        out: Folder of the run; needed unless --check is given.
        check: Print parameters, steps, tokens, memory and data that the run needs, and stop.
        resume: Continue an interrupted run.
    """
    config = override(read_recipe(recipe, TrainConfig, what="a training recipe"), changes)
    if check:
        print(format_plan(config, plan))
        return 0
    if plan != NO_PLAN:
        raise ConfigError(
            "--gpu, --gpus, --mfu, --text-tokens and --image-tokens are for planning; pass --check"
            " with them."
        )
    if out is None:
        raise ConfigError(
            "--out is missing; name a folder for the run, or pass --check to plan only."
        )
    from lingshu.analysis.run_page import with_page, write_run_page
    from lingshu.train.distributed import init_distributed
    from lingshu.train.log import SUMMARY_FILE
    from lingshu.train.loop import StopRequested
    from lingshu.train.loop import train as run
    from lingshu.train.progress import progress_line

    with (
        init_distributed(config.device) as dist_context,
        progress_line() if dist_context.is_main else nullcontext() as progress,
        stop_on_sigterm() as stop,
    ):
        if progress is not None:
            progress = with_page(progress, out)
        try:
            checkpoint = run(
                config, out, resume=resume, progress=progress, stop=stop, dist_context=dist_context
            )
        except StopRequested as error:
            if dist_context.is_main:
                print(f"stopped at {error}; continue with --resume", file=sys.stderr)
            return EXIT_STOPPED
    if not dist_context.is_main:
        return 0
    stages = json.loads((out / SUMMARY_FILE).read_text(encoding="utf-8"))["stages"]
    write_run_page(out)
    has_drops = _print_summary(stages, checkpoint)
    # torchrun takes any other code for a failure: it would end or restart the other processes.
    return 0 if dist_context.is_distributed else int(has_drops)


def _print_summary(stages: Sequence[Mapping[str, Any]], checkpoint: Path) -> bool:
    """Print what each stage did; whether samples were dropped."""
    for stage in stages:
        drops = ", ".join(f"{reason} {count}" for reason, count in stage["dropped"].items())
        line = (
            f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s,"
            f" loss {stage['first_loss']:.3f} -> {stage['last_loss']:.3f},"
            f" {f'dropped {drops}' if drops else 'no sample dropped'}"
        )
        if entities := stage.get("entities"):
            line += f", entities {100 * entities['fraction']:.2f}% of supervised tokens"
        if failures := stage.get("tracker_failures"):
            counts = ", ".join(f"{name} {count}" for name, count in failures.items())
            line += f", steps that a tracker did not take: {counts}"
        print(line)
    print(f"checkpoint: {checkpoint}")
    return any(sum(stage["dropped"].values()) for stage in stages)


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM was received, which a cluster sends before it takes a node away."""
    received: list[int] = []
    previous_handler = signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def format_plan(config: TrainConfig, options: PlanOptions) -> str:
    """The plan of a run as text for a terminal.

    Raises:
        UnknownNameError: an unknown GPU.
        ConfigError: a number that cannot be planned with.
        ArtifactError, InputError, TrainingError: a model or data folder that cannot be used.
    """
    from lingshu.train.estimate import AssumedLengths, estimate_run, find_gpu

    gpu, gpus = options.gpu, options.gpus
    if gpus is not None and (gpu is None or gpus < 1):
        raise ConfigError(
            f"--gpus {gpus} needs --gpu NAME and a number of at least 1, such as --gpu H100"
            " --gpus 8."
        )
    given = {name: getattr(options, name) for name in ("text_tokens", "image_tokens", "mfu")}
    assumed = AssumedLengths(**{name: n for name, n in given.items() if n is not None})
    run = estimate_run(config, assumed, gpu=find_gpu(gpu) if gpu else None, gpus=gpus or 1)
    parts = ", ".join(f"{name} {n / 1e6:,.1f} M" for name, n in run.shapes.parameters.items())
    model = config.model if isinstance(config.model, str) else f"tiny {config.model.family}"
    lines = [f"{config.name}: {model}, {run.shapes.total / 1e9:.3f} B parameters ({parts})"]
    if not run.shapes.verified:
        lines.append(
            "The sizes of this model were not seen in a public file; check them against its"
            " config.json."
        )
    memory_title = "memory per GPU with states sharded over 1 / 8 / 32 GPUs"
    lines += ["", f"{'stage':<14}{'trained':<30}{'steps':>10}   {memory_title}"]
    for stage in run.stages:
        trained = "+".join(name for name, count in stage.trained.items() if count)
        steps = "?" if stage.steps is None else f"{stage.steps:,}"
        memory = " / ".join(f"{size / 1e9:.1f}" for size in stage.bytes_per_gpu.values()) + " GB"
        lines.append(f"{stage.name:<14}{trained:<30}{steps:>10}   {memory}")
        lines += [f"{'':<14}{line}" for line in _stage_lines(stage, run.assumed.mfu)]
    estimates = [stage.gpu_estimate for stage in run.stages if stage.gpu_estimate]
    hours = [estimate.hours for estimate in estimates if estimate.hours is not None]
    if hours and len(hours) == len(run.stages):
        fits = "" if all(estimate.fits for estimate in estimates) else ", if every stage did fit"
        lines.append(f"in total {_format_hours(sum(hours))}{fits}")
    lines += ["", *_assumptions(config, run), "data:"]
    width = max(12, *(len(group.name) + 2 for group in run.groups))
    lines += [f"  {group.name:<{width}}{_group_line(group)}" for group in run.groups]
    return "\n".join(lines)


def _stage_lines(stage: StageEstimate, mfu: float) -> Iterator[str]:
    packing = ""
    if stage.unpacked_steps is not None:
        packing = (
            f", {stage.samples_per_sequence:.1f} samples packed per sequence"
            f" ({stage.unpacked_steps:,} steps without packing)"
        )
    tokens_per_step = f"at most {stage.max_tokens_per_step:,} tokens per step"
    yield f"steps {stage.steps_source}{packing}; {tokens_per_step}"
    if stage.tokens is not None and stage.flops is not None:
        line = f"{_format_count(stage.tokens)} tokens"
        if stage.tokens_per_epoch is not None:
            line += f" ({_format_count(stage.tokens_per_epoch)} per epoch)"
        line += f", {stage.flops.model:.2e} FLOPs"
        if stage.flops.recomputed:
            line += f", {stage.flops.executed:.2e} with activations recomputed"
        yield line
    if (weight := stage.stage.objective.entity_weight) != 1:
        yield f"tokens of entities weigh {weight:g}"
    if stage.unmarked:
        yield (
            f"NO entity is marked in {', '.join(stage.unmarked)}; mark them with the step"
            " mark_entities or label_entities"
        )
    if stage.gpu_estimate:
        yield from _gpu_lines(stage, stage.gpu_estimate, mfu)


def _gpu_lines(stage: StageEstimate, estimate: GpuEstimate, mfu: float) -> Iterator[str]:
    time = f"{_format_hours(estimate.hours_per_thousand)} per thousand samples"
    if estimate.hours is not None:
        time = _format_hours(estimate.hours)
    if estimate.fits:
        fits = "fits"
    elif estimate.min_gpus is None:
        fits = "does NOT fit; no number of them would be enough"
    else:
        fits = f"does NOT fit; {estimate.min_gpus} of them would be enough"
        if estimate.min_gpus > stage.shards(estimate.min_gpus):
            fits += f" with sharding.shard_size={estimate.min_gpus}"
    used, available = estimate.bytes / 1e9, estimate.gpu.memory_bytes / 1e9
    yield (
        f"{estimate.gpus} x {estimate.gpu.name}: {time} at an MFU of {mfu:g}; {fits}: at most"
        f" {used:.1f} of {available:.0f} GB"
    )
    if estimate.gpus > 1:
        sent = stage.communication(estimate.gpus, estimate.gpu.memory_bytes)
        inside = (sent.gathered + sent.scattered) / 1e9
        yield (
            f"computed, not measured: an update moves {inside:,.1f} GB through each GPU among"
            f" {stage.shards(estimate.gpus)} that share a copy, {sent.summed / 1e9:,.1f} GB between"
            " copies"
        )
    if estimate.busy_gpus < estimate.gpus:
        yield f"the batch gives work to only {estimate.busy_gpus} of them"
    if stage.samples_per_sequence == 1.0 and stage.mean.tokens < MIN_EFFICIENT_TOKENS:
        yield (
            f"forward passes of {stage.mean.tokens:,.0f} tokens per sample, unpacked, may reach"
            " much less than that MFU"
        )


def _assumptions(config: TrainConfig, run: RunEstimate) -> Iterator[str]:
    activations = "kept (sharding.activation_checkpointing=true recomputes them)"
    if config.sharding.activation_checkpointing:
        activations = "recomputed"
    yield (
        "Memory is an upper estimate: 16 bytes per trained parameter, 4 per frozen one (2 or less"
        " under LoRA, see lora.base), blocks"
        " gathered in turn, every sequence"
    )
    yield f"full, activations {activations}. A card counts as full at 90%."
    sampling = ", and sampling the rewarded replies" if any(s.grpo for s in config.stages) else ""
    yield f"Hours leave out loading, saving and evaluation{sampling}."
    if assumed := [group for group in run.groups if not group.measured_rows]:
        mean, names = assumed[0].mean, ", ".join(group.name for group in assumed)
        yield (
            f"Assumed for {names}: {mean.text:,.0f} text and {mean.image:,.0f} image tokens per"
            f" sample, {mean.supervised:,.0f} supervised."
        )
    if any(stage.gpu_estimate for stage in run.stages):
        yield (
            f"Assumed: an MFU (the model's operations over the GPUs' peak) of {run.assumed.mfu:g};"
            " nothing here was timed."
        )


def _group_line(group: DataGroupEstimate) -> str:
    line = f"not given; data.{group.name}=FOLDER"
    if group.rows is not None:
        line = f"{group.rows:,} rows in {group.folder}"
    if group.expected is not None:
        line += f", {group.expected:,} expected"
    if group.measured_rows:
        which = "all" if group.measured_rows == group.rows else f"the first {group.measured_rows}"
        line += f"; of {which} rows a mean of {group.mean.text:,.1f} text and"
        line += f" {group.mean.image:,.1f} image tokens"
    line += "".join(f", {reason} {n} dropped" for reason, n in group.dropped.items())
    return line + (f"; {group.entities.summary()}" if group.entities else "")


def _format_count(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _format_hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
