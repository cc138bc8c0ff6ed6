"""What a training run would take, before anything is downloaded or trained: parameters, steps,
memory, hours, data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from lingshu.models.model_spec import Part
from lingshu.models.specs import ModelShapes, load_shapes
from lingshu.train.batch_plan import PackedPlan
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.cost import (
    Flops,
    MeanLengths,
    estimate_flops,
    estimate_memory,
    trained_parameters,
)
from lingshu.train.data import read_group_card
from lingshu.train.entity_weights import EntityCounts
from lingshu.train.gpu_table import Gpu
from lingshu.train.length_stats import AssumedLengths, LengthStats, measure_lengths

REPORTED_GPU_COUNTS = (1, 8, 32)
# numbers of GPUs to look for the least one that would do
POWERS_OF_TWO = tuple(2**power for power in range(13))
# The share of a sequence that best-fit packing fills where samples are much shorter than it.
PACKING_EFFICIENCY = 0.99


@dataclass(frozen=True)
class DataGroupEstimate:
    """A data group: rows found, None while no folder is given; rows expected, None where the recipe
    does not say.

    `mean` is that of `measured` rows, or assumed where `measured` is 0. `dropped` counts those that
    cannot be used; `lengths` holds the others where all rows were measured. `entities` is what is
    marked in those that were.
    """

    name: str
    folder: str | None
    rows: int | None
    expected: int | None
    mean: MeanLengths
    measured_rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    entities: EntityCounts | None = None

    @property
    def n_usable(self) -> int | None:
        """Rows to train on, as far as is known."""
        if self.rows is None:
            return self.expected
        return (
            round(self.rows * (1 - sum(self.dropped.values()) / self.measured_rows))
            if self.measured_rows
            else self.rows
        )


@dataclass(frozen=True)
class GpuEstimate:
    """A stage on GPUs of one kind. `busy` of `gpus` get work: a batch is shared out by
    micro-batches.

    `hours` is None while the data are unknown, `hours_per_thousand` samples is not; `enough` is the
    least power of two of them that holds the stage, None where no number does.
    """

    gpu: Gpu
    gpus: int
    busy_gpus: int
    bytes: int
    fits: bool
    min_gpus: int | None
    hours: float | None
    hours_per_thousand: float


@dataclass(frozen=True)
class StageEstimate:
    """A stage: trained parameters by part (0 = frozen), steps (None while the data are unknown),
    bytes on each GPU by number of GPUs with weights, gradients and moments sharded over all of
    them.

    `mean` is its mean sample, and `flops_per_sample` what that takes; `per_sequence` samples are
    packed into a sequence. `samples` counts them over the whole stage, `samples_per_epoch` in one
    pass over the data; in reinforcement learning a sample is a reply. `unpacked_steps` would be the
    steps of a stage that packs if it did not. `unmarked` are data groups that were read and hold no
    entity, in a stage that weighs entities.
    """

    name: str
    trained: dict[Part, int]
    steps: int | None
    steps_source: str
    max_tokens_per_step: int
    bytes_per_gpu: dict[int, int]
    mean: MeanLengths
    samples_per_sequence: float
    unpacked_steps: int | None
    samples_per_epoch: float | None
    samples: float | None
    flops_per_sample: Flops
    gpu_estimate: GpuEstimate | None
    entity_weight: float = 1.0
    unmarked: tuple[str, ...] = ()

    @property
    def tokens(self) -> float | None:
        return None if self.samples is None else self.samples * self.mean.tokens

    @property
    def tokens_per_epoch(self) -> float | None:
        return None if self.samples_per_epoch is None else self.samples_per_epoch * self.mean.tokens

    @property
    def flops(self) -> Flops | None:
        return None if self.samples is None else self.flops_per_sample.scale(self.samples)


@dataclass(frozen=True)
class RunEstimate:
    shapes: ModelShapes
    stages: tuple[StageEstimate, ...]
    groups: tuple[DataGroupEstimate, ...]
    assumed: AssumedLengths

    @property
    def missing_groups(self) -> list[str]:
        """Data groups that still need a folder."""
        return [group.name for group in self.groups if group.folder is None]


def estimate_run(
    config: TrainConfig,
    assumed: AssumedLengths | None = None,
    *,
    gpu: Gpu | None = None,
    gpus: int = 1,
) -> RunEstimate:
    """Plan a run from its configuration alone; data folders that are given are checked, counted and
    measured.

    Raises:
        ArtefactError, InputError: a model whose sizes are not on file, or a folder that cannot be
            used.
        TrainingError: a folder without a sample that can be used.
    """
    assumed = assumed or AssumedLengths()
    model_shapes = load_shapes(config.model)
    rows = {
        name: read_group_card(Path(folder)).rows
        for name, folder in config.data.items()
        if folder is not None
    }
    measured = measure_lengths(
        config, {name: Path(config.data[name] or "") for name in rows}, model_shapes.tower
    )
    default = assumed.mean(config.pixels, model_shapes.tower)
    groups = {
        name: _estimate_group(name, config, rows.get(name), measured.get(name), default)
        for name in config.data
    }
    stages = tuple(
        _estimate_stage(
            config,
            stage_index,
            model_shapes,
            [groups[name] for name in stage.data],
            assumed.mfu,
            gpu,
            gpus,
        )
        for stage_index, stage in enumerate(config.stages)
    )
    return RunEstimate(model_shapes, stages, tuple(groups.values()), assumed)


def _estimate_group(
    name: str,
    config: TrainConfig,
    rows: int | None,
    measured: LengthStats | None,
    default: MeanLengths,
) -> DataGroupEstimate:
    folder, expected = config.data[name], config.expected.get(name)
    if measured is None:
        return DataGroupEstimate(name, folder, rows, expected, default)
    lengths = measured.lengths if measured.rows == rows else None
    return DataGroupEstimate(
        name,
        folder,
        rows,
        expected,
        measured.mean,
        measured.rows,
        measured.drops,
        lengths,
        measured.entities,
    )


def _estimate_stage(
    config: TrainConfig,
    number: int,
    model_shapes: ModelShapes,
    groups: Sequence[DataGroupEstimate],
    mfu: float,
    gpu: Gpu | None,
    gpus: int,
) -> StageEstimate:
    stage, sharding = config.stages[number], config.sharding
    mean = _weighted_mean(groups)
    samples_per_sequence = (
        max(1.0, PACKING_EFFICIENCY * stage.max_tokens / mean.tokens) if stage.packing else 1.0
    )
    usable_rows = [group.n_usable for group in groups]
    rows = None if None in usable_rows else sum(number or 0 for number in usable_rows)
    steps = _steps(stage, groups, rows, samples_per_sequence, config.seed * 1000 + number)
    num_generations = stage.grpo.num_generations if stage.grpo else 1
    samples = (
        None if steps is None else steps * stage.batch * samples_per_sequence * num_generations
    )
    sample_flops = estimate_flops(
        stage, model_shapes, mean, recompute=sharding.activation_checkpointing
    )
    sizes = {
        count: estimate_memory(stage, model_shapes, count, sharding=sharding).total
        for count in {*REPORTED_GPU_COUNTS, gpus, *POWERS_OF_TWO}
    }
    return StageEstimate(
        name=stage.name,
        trained=trained_parameters(stage, model_shapes),
        steps=steps,
        steps_source=_describe_steps_source(stage, groups, rows),
        max_tokens_per_step=stage.batch * stage.max_tokens * num_generations,
        bytes_per_gpu={count: sizes[count] for count in REPORTED_GPU_COUNTS},
        mean=mean,
        samples_per_sequence=samples_per_sequence,
        unpacked_steps=None
        if rows is None or stage.steps or not stage.packing
        else _epoch_steps(stage.epochs, rows, stage.batch),
        samples_per_epoch=None if rows is None else float(rows * num_generations),
        samples=samples,
        flops_per_sample=sample_flops,
        gpu_estimate=None
        if gpu is None
        else _estimate_gpus(stage, sizes, sample_flops, samples, gpu, gpus, mfu),
        entity_weight=stage.objective.entity_weight,
        unmarked=tuple(
            group.name
            for group in groups
            if group.measured_rows and group.entities is None and stage.objective.entity_weight != 1
        ),
    )


def _weighted_mean(groups: Sequence[DataGroupEstimate]) -> MeanLengths:
    """The mean sample of several groups, by their rows; groups of unknown size count alike."""
    row_counts = [group.n_usable for group in groups]
    weights = (
        [1.0] * len(groups)
        if None in row_counts or not any(row_counts)
        else [float(n_rows or 0) for n_rows in row_counts]
    )
    values = {
        f.name: sum(
            weight * getattr(group.mean, f.name)
            for weight, group in zip(weights, groups, strict=True)
        )
        / sum(weights)
        for f in fields(MeanLengths)
    }
    return MeanLengths(**values)


def _steps(
    stage: Stage,
    groups: Sequence[DataGroupEstimate],
    rows: int | None,
    samples_per_sequence: float,
    seed: int,
) -> int | None:
    if stage.steps is not None:
        return stage.steps
    lengths = [group.lengths for group in groups]
    if stage.packing and None not in lengths:
        all_lengths = tuple(length for part in lengths for length in part or ())
        return PackedPlan(all_lengths, stage.max_tokens, stage.batch, seed).steps(stage.epochs)
    return (
        None
        if rows is None
        else _epoch_steps(stage.epochs, rows / samples_per_sequence, stage.batch)
    )


def _epoch_steps(epochs: float, sequences: float, batch: int) -> int:
    return max(1, round(epochs * max(1, int(sequences) // batch)))


def _describe_steps_source(
    stage: Stage, groups: Sequence[DataGroupEstimate], rows: int | None
) -> str:
    if stage.steps is not None:
        return "from the recipe"
    if rows is None:
        return "unknown until the data are given"
    return (
        "from the data found"
        if all(group.rows is not None for group in groups)
        else "from the rows expected"
    )


def _estimate_gpus(
    stage: Stage,
    sizes: Mapping[int, int],
    sample: Flops,
    samples: float | None,
    gpu: Gpu,
    gpus: int,
    mfu: float,
) -> GpuEstimate:
    busy_gpus = min(
        gpus, stage.batch * (stage.grpo.num_generations if stage.grpo else 1) // stage.micro_batch
    )
    hours_per_sample = sample.model / (busy_gpus * gpu.peak_flops * mfu) / 3600
    min_gpus = next((count for count in POWERS_OF_TWO if gpu.has_capacity(sizes[count])), None)
    hours = None if samples is None else hours_per_sample * samples
    return GpuEstimate(
        gpu,
        gpus,
        busy_gpus,
        sizes[gpus],
        gpu.has_capacity(sizes[gpus]),
        min_gpus,
        hours,
        1000 * hours_per_sample,
    )
