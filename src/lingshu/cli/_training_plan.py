"""The plan of a training run as text for a terminal: what `lingshu train --check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lingshu.core.errors import ConfigError
from lingshu.train.config import TrainConfig

if TYPE_CHECKING:
    from lingshu.train.estimate import DataGroupEstimate, GpuEstimate, RunEstimate, StageEstimate

# Fewer tokens than this in a forward pass leave a large GPU waiting for weights to arrive.
MIN_EFFICIENT_TOKENS = 4096


def format_plan(
    config: TrainConfig,
    *,
    gpu: str | None,
    gpus: int | None,
    mfu: float | None,
    text_tokens: float | None,
    image_tokens: float | None,
) -> str:
    """Plan a run and tell it; a value of None is left to the plan.

    Raises:
        UnknownName: a GPU that is not on file.
        ConfigError: a number that cannot be planned with.
        ArtefactError, InputError, TrainingError: a model or data folder that cannot be used.
    """
    from lingshu.train.estimate import estimate_run
    from lingshu.train.gpu_table import find_gpu as find_gpu_by_name
    from lingshu.train.length_stats import AssumedLengths

    if gpus is not None and (gpu is None or gpus < 1):
        raise ConfigError(
            f"--gpus {gpus} needs --gpu NAME and a number of at least 1, such as --gpu H100"
            " --gpus 8."
        )
    explicit = {"text_tokens": text_tokens, "image_tokens": image_tokens, "mfu": mfu}
    assumed = AssumedLengths(
        **{name: value for name, value in explicit.items() if value is not None}
    )
    return format_estimate(
        config,
        estimate_run(config, assumed, gpu=find_gpu_by_name(gpu) if gpu else None, gpus=gpus or 1),
    )


def format_estimate(config: TrainConfig, plan: RunEstimate) -> str:
    """The plan of a run as text for a terminal."""
    parts = ", ".join(
        f"{name} {count / 1e6:,.1f} M" for name, count in plan.shapes.parameters.items()
    )
    model = config.model if isinstance(config.model, str) else f"tiny {config.model.family}"
    lines = [f"{config.name}: {model}, {plan.shapes.total / 1e9:.3f} B parameters ({parts})"]
    if not plan.shapes.verified:
        lines.append(
            "The sizes of this model were not seen in a public file; check them against its"
            " config.json."
        )
    lines += [
        "",
        (
            f"{'stage':<14}{'trained':<30}{'steps':>10}   memory a GPU with states sharded over 1 /"
            " 8 / 32 GPUs"
        ),
    ]
    for stage in plan.stages:
        trained = "+".join(name for name, count in stage.trained.items() if count)
        steps = "?" if stage.steps is None else f"{stage.steps:,}"
        memory = " / ".join(f"{size / 1e9:.1f}" for size in stage.bytes_per_gpu.values()) + " GB"
        lines.append(f"{stage.name:<14}{trained:<30}{steps:>10}   {memory}")
        lines += [f"{'':<14}{line}" for line in _stage_lines(stage, plan)]
    if all(stage.gpu_estimate and stage.gpu_estimate.hours is not None for stage in plan.stages):
        fits = (
            ""
            if all(stage.gpu_estimate and stage.gpu_estimate.fits for stage in plan.stages)
            else ", if every stage did fit"
        )
        lines.append(
            f"in all {_format_hours(sum(stage.gpu_estimate.hours or 0.0 for stage in plan.stages if stage.gpu_estimate))}{fits}"
        )
    recompute, has_grpo = (
        config.sharding.activation_checkpointing,
        any(stage.grpo for stage in config.stages),
    )
    lines += ["", *_assumptions(plan, recompute=recompute, has_grpo=has_grpo), "data:"]
    width = max(12, *(len(group.name) + 2 for group in plan.groups))
    return "\n".join(
        [*lines, *(f"  {group.name:<{width}}{_group_line(group)}" for group in plan.groups)]
    )


def _stage_lines(stage: StageEstimate, plan: RunEstimate) -> Iterator[str]:
    packing_note = ""
    if stage.unpacked_steps is not None:
        packing_note = (
            f", {stage.samples_per_sequence:.1f} samples packed into a sequence ({stage.unpacked_steps:,}"
            " steps if none were)"
        )
    yield (
        f"steps {stage.steps_source}{packing_note}; at most {stage.max_tokens_per_step:,} tokens a step"
    )
    if stage.tokens is not None and stage.flops is not None:
        epoch = (
            ""
            if stage.tokens_per_epoch is None
            else f" ({_format_count(stage.tokens_per_epoch)} an epoch)"
        )
        executed = (
            f", {stage.flops.executed:.2e} with activations recomputed"
            if stage.flops.recomputed
            else ""
        )
        yield f"{_format_count(stage.tokens)} tokens{epoch}, {stage.flops.model:.2e} FLOPs{executed}"
    if stage.entity_weight != 1:
        yield f"tokens of entities weigh {stage.entity_weight:g}"
    if stage.unmarked:
        yield (
            f"NO entity is marked in {', '.join(stage.unmarked)}; mark them with the step"
            " mark_entities or label_entities"
        )
    if stage.gpu_estimate:
        yield from _gpu_lines(stage, stage.gpu_estimate, plan.assumed.mfu)


def _gpu_lines(stage: StageEstimate, gpu_estimate: GpuEstimate, mfu: float) -> Iterator[str]:
    time = (
        f"{_format_hours(gpu_estimate.hours_per_thousand)} a thousand samples"
        if gpu_estimate.hours is None
        else _format_hours(gpu_estimate.hours)
    )
    if gpu_estimate.fits:
        fits = "fits"
    else:
        fits = "does NOT fit" + (
            "; no number of them would do"
            if gpu_estimate.min_gpus is None
            else f"; {gpu_estimate.min_gpus} of them would do"
        )
    memory = f"{fits}: at most {gpu_estimate.bytes / 1e9:.1f} of {gpu_estimate.gpu.memory_bytes / 1e9:.0f} GB"
    yield f"{gpu_estimate.gpus} x {gpu_estimate.gpu.name}: {time} at an MFU of {mfu:g}; {memory}"
    if gpu_estimate.busy_gpus < gpu_estimate.gpus:
        yield f"the batch gives work to {gpu_estimate.busy_gpus} of them only"
    if stage.samples_per_sequence == 1.0 and stage.mean.tokens < MIN_EFFICIENT_TOKENS:
        yield (
            f"forward passes of {stage.mean.tokens:,.0f} tokens a sample, unpacked, may reach much"
            " less than that MFU"
        )


def _assumptions(plan: RunEstimate, *, recompute: bool, has_grpo: bool) -> Iterator[str]:
    activations = (
        "recomputed"
        if recompute
        else "kept (sharding.activation_checkpointing=true recomputes them)"
    )
    yield (
        "Memory is an upper estimate: 16 bytes a trained parameter, 4 a frozen one, blocks gathered"
        " in turn, every sequence"
    )
    yield f"full, activations {activations}. A card counts as full at 90%."
    yield (
        "Hours leave out loading, saving and"
        f" evaluation{', and drawing the replies that are rewarded' if has_grpo else ''}."
    )
    lengths = [group for group in plan.groups if not group.measured_rows]
    if lengths:
        mean, names = lengths[0].mean, ", ".join(group.name for group in lengths)
        yield (
            f"Assumed for {names}: {mean.text:,.0f} text and {mean.image:,.0f} image tokens a"
            f" sample, {mean.supervised:,.0f} supervised."
        )
    if any(stage.gpu_estimate for stage in plan.stages):
        yield (
            f"Assumed: an MFU (the model's operations over the GPUs' peak) of {plan.assumed.mfu:g};"
            " nothing here was timed."
        )


def _group_line(group: DataGroupEstimate) -> str:
    rows = (
        f"{group.rows:,} rows in {group.folder}"
        if group.rows is not None
        else f"not given; data.{group.name}=FOLDER"
    )
    expected = f", {group.expected:,} expected" if group.expected is not None else ""
    measured = ""
    if group.measured_rows:
        which = "all" if group.measured_rows == group.rows else f"the first {group.measured_rows}"
        measured = (
            f"; of {which} rows a mean of {group.mean.text:,.1f} text and {group.mean.image:,.1f}"
            " image tokens"
        )
    dropped = "".join(f", {reason} {count} dropped" for reason, count in group.dropped.items())
    entities = f"; {group.entities.summary()}" if group.entities else ""
    return f"{rows}{expected}{measured}{dropped}{entities}"


def _format_count(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _format_hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
