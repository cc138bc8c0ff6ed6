"""What a training run would take, before anything is downloaded or trained: parameters, steps,
memory, hours, data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from lingshu.models.known import Shapes, shapes
from lingshu.models.spec import Part
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.cost import Flops, Mean, flops, memory, trained_parameters
from lingshu.train.data import check_group
from lingshu.train.entities import EntityCounts
from lingshu.train.gpus import Gpu
from lingshu.train.lengths import Assumed, Measured, measure
from lingshu.train.plan import PackedPlan

GPUS = (1, 8, 32)
# numbers of GPUs to look for the least one that would do
DOUBLED = tuple(2**power for power in range(13))
# The share of a sequence that best-fit packing fills where samples are much shorter than it.
FILL = 0.99


@dataclass(frozen=True)
class GroupCheck:
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
    mean: Mean
    measured: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    entities: EntityCounts | None = None

    @property
    def usable(self) -> int | None:
        """Rows to train on, as far as is known."""
        if self.rows is None:
            return self.expected
        return (
            round(self.rows * (1 - sum(self.dropped.values()) / self.measured))
            if self.measured
            else self.rows
        )


@dataclass(frozen=True)
class OnGpus:
    """A stage on GPUs of one kind. `busy` of `gpus` get work: a batch is shared out by
    micro-batches.

    `hours` is None while the data are unknown, `hours_per_thousand` samples is not; `enough` is the
    least power of two of them that holds the stage, None where no number does.
    """

    gpu: Gpu
    gpus: int
    busy: int
    bytes: int
    fits: bool
    enough: int | None
    hours: float | None
    hours_per_thousand: float


@dataclass(frozen=True)
class StageCheck:
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
    steps_from: str
    tokens_per_step_at_most: int
    bytes_per_gpu: dict[int, int]
    mean: Mean
    per_sequence: float
    unpacked_steps: int | None
    samples_per_epoch: float | None
    samples: float | None
    flops_per_sample: Flops
    on: OnGpus | None
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
        return None if self.samples is None else self.flops_per_sample.times(self.samples)


@dataclass(frozen=True)
class RunCheck:
    shapes: Shapes
    stages: tuple[StageCheck, ...]
    groups: tuple[GroupCheck, ...]
    assumed: Assumed

    @property
    def missing(self) -> list[str]:
        """Data groups that still need a folder."""
        return [group.name for group in self.groups if group.folder is None]


def check(
    config: TrainConfig, assumed: Assumed | None = None, *, gpu: Gpu | None = None, gpus: int = 1
) -> RunCheck:
    """Plan a run from its configuration alone; data folders that are given are checked, counted and
    measured.

    Raises:
        ArtefactError, InputError: a model whose sizes are not on file, or a folder that cannot be
            used.
        TrainingError: a folder without a sample that can be used.
    """
    assumed = assumed or Assumed()
    found = shapes(config.model)
    rows = {
        name: check_group(Path(folder)).rows
        for name, folder in config.data.items()
        if folder is not None
    }
    measured = measure(config, {name: Path(config.data[name] or "") for name in rows}, found.tower)
    default = assumed.mean(config.pixels, found.tower)
    groups = {
        name: _group(name, config, rows.get(name), measured.get(name), default)
        for name in config.data
    }
    stages = tuple(
        _stage(config, number, found, [groups[name] for name in stage.data], assumed.mfu, gpu, gpus)
        for number, stage in enumerate(config.stages)
    )
    return RunCheck(found, stages, tuple(groups.values()), assumed)


def _group(
    name: str, config: TrainConfig, rows: int | None, measured: Measured | None, default: Mean
) -> GroupCheck:
    folder, expected = config.data[name], config.expected.get(name)
    if measured is None:
        return GroupCheck(name, folder, rows, expected, default)
    lengths = measured.lengths if measured.rows == rows else None
    return GroupCheck(
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


def _stage(
    config: TrainConfig,
    number: int,
    found: Shapes,
    groups: Sequence[GroupCheck],
    mfu: float,
    gpu: Gpu | None,
    gpus: int,
) -> StageCheck:
    stage, sharding = config.stages[number], config.sharding
    mean = _mixed(groups)
    per_sequence = max(1.0, FILL * stage.max_tokens / mean.tokens) if stage.packing else 1.0
    usable = [group.usable for group in groups]
    rows = None if None in usable else sum(number or 0 for number in usable)
    steps = _steps(stage, groups, rows, per_sequence, config.seed * 1000 + number)
    copies = stage.grpo.copies if stage.grpo else 1
    samples = None if steps is None else steps * stage.batch * per_sequence * copies
    per_sample = flops(stage, found, mean, recompute=sharding.activation_checkpointing)
    sizes = {
        count: memory(stage, found, count, sharding=sharding).total
        for count in {*GPUS, gpus, *DOUBLED}
    }
    return StageCheck(
        name=stage.name,
        trained=trained_parameters(stage, found),
        steps=steps,
        steps_from=_origin(stage, groups, rows),
        tokens_per_step_at_most=stage.batch * stage.max_tokens * copies,
        bytes_per_gpu={count: sizes[count] for count in GPUS},
        mean=mean,
        per_sequence=per_sequence,
        unpacked_steps=None
        if rows is None or stage.steps or not stage.packing
        else _whole(stage.epochs, rows, stage.batch),
        samples_per_epoch=None if rows is None else float(rows * copies),
        samples=samples,
        flops_per_sample=per_sample,
        on=None if gpu is None else _on(stage, sizes, per_sample, samples, gpu, gpus, mfu),
        entity_weight=stage.objective.entity_weight,
        unmarked=tuple(
            group.name
            for group in groups
            if group.measured and group.entities is None and stage.objective.entity_weight != 1
        ),
    )


def _mixed(groups: Sequence[GroupCheck]) -> Mean:
    """The mean sample of several groups, by their rows; groups of unknown size count alike."""
    known = [group.usable for group in groups]
    weights = (
        [1.0] * len(groups)
        if None in known or not any(known)
        else [float(number or 0) for number in known]
    )
    values = {
        f.name: sum(
            weight * getattr(group.mean, f.name)
            for weight, group in zip(weights, groups, strict=True)
        )
        / sum(weights)
        for f in fields(Mean)
    }
    return Mean(**values)


def _steps(
    stage: Stage, groups: Sequence[GroupCheck], rows: int | None, per_sequence: float, seed: int
) -> int | None:
    if stage.steps is not None:
        return stage.steps
    lengths = [group.lengths for group in groups]
    if stage.packing and None not in lengths:
        every = tuple(length for part in lengths for length in part or ())
        return PackedPlan(every, stage.max_tokens, stage.batch, seed).steps(stage.epochs)
    return None if rows is None else _whole(stage.epochs, rows / per_sequence, stage.batch)


def _whole(epochs: float, sequences: float, batch: int) -> int:
    return max(1, round(epochs * max(1, int(sequences) // batch)))


def _origin(stage: Stage, groups: Sequence[GroupCheck], rows: int | None) -> str:
    if stage.steps is not None:
        return "from the recipe"
    if rows is None:
        return "unknown until the data are given"
    return (
        "from the data found"
        if all(group.rows is not None for group in groups)
        else "from the rows expected"
    )


def _on(
    stage: Stage,
    sizes: Mapping[int, int],
    sample: Flops,
    samples: float | None,
    gpu: Gpu,
    gpus: int,
    mfu: float,
) -> OnGpus:
    busy = min(gpus, stage.batch * (stage.grpo.copies if stage.grpo else 1) // stage.micro_batch)
    hours_each = sample.model / (busy * gpu.peak * mfu) / 3600
    enough = next((count for count in DOUBLED if gpu.holds(sizes[count])), None)
    hours = None if samples is None else hours_each * samples
    return OnGpus(
        gpu, gpus, busy, sizes[gpus], gpu.holds(sizes[gpus]), enough, hours, 1000 * hours_each
    )
