"""The plan of a training run as text for a terminal: what `lingshu train --check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lingshu.core.errors import ConfigError
from lingshu.train.config import TrainConfig

if TYPE_CHECKING:
    from lingshu.train.check import GroupCheck, OnGpus, RunCheck, StageCheck

# Fewer tokens than this in a forward pass leave a large GPU waiting for weights to arrive.
SHORT = 4096


def plan(
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
    from lingshu.train.check import check
    from lingshu.train.gpus import gpu as card
    from lingshu.train.lengths import Assumed

    if gpus is not None and (gpu is None or gpus < 1):
        raise ConfigError(
            f"--gpus {gpus} needs --gpu NAME and a number of at least 1, such as --gpu H100"
            " --gpus 8."
        )
    given = {"text_tokens": text_tokens, "image_tokens": image_tokens, "mfu": mfu}
    assumed = Assumed(**{name: value for name, value in given.items() if value is not None})
    return describe(config, check(config, assumed, gpu=card(gpu) if gpu else None, gpus=gpus or 1))


def describe(config: TrainConfig, plan: RunCheck) -> str:
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
        lines += [f"{'':<14}{line}" for line in _about(stage, plan)]
    if all(stage.on and stage.on.hours is not None for stage in plan.stages):
        fits = (
            ""
            if all(stage.on and stage.on.fits for stage in plan.stages)
            else ", if every stage did fit"
        )
        lines.append(
            f"in all {_time(sum(stage.on.hours or 0.0 for stage in plan.stages if stage.on))}{fits}"
        )
    recomputed, rewarded = (
        config.sharding.activation_checkpointing,
        any(stage.grpo for stage in config.stages),
    )
    lines += ["", *_assumptions(plan, recomputed=recomputed, rewarded=rewarded), "data:"]
    width = max(12, *(len(group.name) + 2 for group in plan.groups))
    return "\n".join(
        [*lines, *(f"  {group.name:<{width}}{_group(group)}" for group in plan.groups)]
    )


def _about(stage: StageCheck, plan: RunCheck) -> Iterator[str]:
    packed = ""
    if stage.unpacked_steps is not None:
        packed = (
            f", {stage.per_sequence:.1f} samples packed into a sequence ({stage.unpacked_steps:,}"
            " steps if none were)"
        )
    yield (
        f"steps {stage.steps_from}{packed}; at most {stage.tokens_per_step_at_most:,} tokens a step"
    )
    if stage.tokens is not None and stage.flops is not None:
        epoch = (
            ""
            if stage.tokens_per_epoch is None
            else f" ({_count(stage.tokens_per_epoch)} an epoch)"
        )
        executed = (
            f", {stage.flops.executed:.2e} with activations recomputed"
            if stage.flops.recomputed
            else ""
        )
        yield f"{_count(stage.tokens)} tokens{epoch}, {stage.flops.model:.2e} FLOPs{executed}"
    if stage.entity_weight != 1:
        yield f"tokens of entities weigh {stage.entity_weight:g}"
    if stage.unmarked:
        yield (
            f"NO entity is marked in {', '.join(stage.unmarked)}; mark them with the step"
            " mark_entities or label_entities"
        )
    if stage.on:
        yield from _on(stage, stage.on, plan.assumed.mfu)


def _on(stage: StageCheck, on: OnGpus, mfu: float) -> Iterator[str]:
    time = (
        f"{_time(on.hours_per_thousand)} a thousand samples"
        if on.hours is None
        else _time(on.hours)
    )
    if on.fits:
        fits = "fits"
    else:
        fits = "does NOT fit" + (
            "; no number of them would do"
            if on.enough is None
            else f"; {on.enough} of them would do"
        )
    memory = f"{fits}: at most {on.bytes / 1e9:.1f} of {on.gpu.memory / 1e9:.0f} GB"
    yield f"{on.gpus} x {on.gpu.name}: {time} at an MFU of {mfu:g}; {memory}"
    if on.busy < on.gpus:
        yield f"the batch gives work to {on.busy} of them only"
    if stage.per_sequence == 1.0 and stage.mean.tokens < SHORT:
        yield (
            f"forward passes of {stage.mean.tokens:,.0f} tokens a sample, unpacked, may reach much"
            " less than that MFU"
        )


def _assumptions(plan: RunCheck, *, recomputed: bool, rewarded: bool) -> Iterator[str]:
    kept = (
        "recomputed"
        if recomputed
        else "kept (sharding.activation_checkpointing=true recomputes them)"
    )
    yield (
        "Memory is an upper estimate: 16 bytes a trained parameter, 4 a frozen one, blocks gathered"
        " in turn, every sequence"
    )
    yield f"full, activations {kept}. A card counts as full at 90%."
    yield (
        "Hours leave out loading, saving and"
        f" evaluation{', and drawing the replies that are rewarded' if rewarded else ''}."
    )
    lengths = [group for group in plan.groups if not group.measured]
    if lengths:
        mean, names = lengths[0].mean, ", ".join(group.name for group in lengths)
        yield (
            f"Assumed for {names}: {mean.text:,.0f} text and {mean.image:,.0f} image tokens a"
            f" sample, {mean.supervised:,.0f} supervised."
        )
    if any(stage.on for stage in plan.stages):
        yield (
            f"Assumed: an MFU (the model's operations over the GPUs' peak) of {plan.assumed.mfu:g};"
            " nothing here was timed."
        )


def _group(group: GroupCheck) -> str:
    rows = (
        f"{group.rows:,} rows in {group.folder}"
        if group.rows is not None
        else f"not given; data.{group.name}=FOLDER"
    )
    expected = f", {group.expected:,} expected" if group.expected is not None else ""
    measured = ""
    if group.measured:
        which = "all" if group.measured == group.rows else f"the first {group.measured}"
        measured = (
            f"; of {which} rows a mean of {group.mean.text:,.1f} text and {group.mean.image:,.1f}"
            " image tokens"
        )
    dropped = "".join(f", {reason} {count} dropped" for reason, count in group.dropped.items())
    entities = f"; {group.entities.told()}" if group.entities else ""
    return f"{rows}{expected}{measured}{dropped}{entities}"


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def _time(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
