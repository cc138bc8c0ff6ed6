"""What a training run would take, before anything is downloaded or trained: parameters, steps, memory, data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lingshu.models.known import Shapes, shapes
from lingshu.models.spec import PARTS, Part
from lingshu.train.config import Stage, TrainConfig
from lingshu.train.data import check_group

GPUS = (1, 8, 32)
# Bytes a parameter: master weight, gradient and two Adam moments in float32; a frozen one keeps its weight only.
TRAINED_BYTES, FROZEN_BYTES = 4 + 4 + 8, 4
# Hidden states kept for each layer with recomputed activations (bfloat16), and the working set of one layer in them.
LAYER_BYTES, WORKING_STATES = 2, 34
LOGIT_BYTES = 4 * 3  # float32 logits, their softmax and its gradient


@dataclass(frozen=True)
class GroupCheck:
    """A data group: rows found, None while no folder is given; rows expected, None where the recipe does not say."""

    name: str
    folder: str | None
    rows: int | None
    expected: int | None


@dataclass(frozen=True)
class StageCheck:
    """A stage: trained parameters by part (0 = frozen), steps (None while the data are unknown), bytes on each GPU by
    number of GPUs with weights, gradients and moments sharded over all of them and activations recomputed."""

    name: str
    trained: dict[Part, int]
    steps: int | None
    steps_from: str
    tokens_per_step_at_most: int
    bytes_per_gpu: dict[int, int]


@dataclass(frozen=True)
class RunCheck:
    shapes: Shapes
    stages: tuple[StageCheck, ...]
    groups: tuple[GroupCheck, ...]

    @property
    def missing(self) -> list[str]:
        """Data groups that still need a folder."""
        return [group.name for group in self.groups if group.folder is None]


def check(config: TrainConfig) -> RunCheck:
    """Plan a run from its configuration alone; data folders that are given are checked and counted.

    Raises:
        ArtefactError, InputError: a model whose sizes are not on file, or a folder that cannot be used.
    """
    found = shapes(config.model)
    groups = {name: _group(name, folder, config) for name, folder in config.data.items()}
    stages = tuple(_stage(stage, found, groups) for stage in config.stages)
    return RunCheck(found, stages, tuple(groups.values()))


def _group(name: str, folder: str | None, config: TrainConfig) -> GroupCheck:
    rows = None if folder is None else check_group(Path(folder)).rows
    return GroupCheck(name, folder, rows, config.expected.get(name))


def _stage(stage: Stage, found: Shapes, groups: dict[str, GroupCheck]) -> StageCheck:
    trained: dict[Part, int] = {part: found.parameters[part] if getattr(stage.rates, part) is not None else 0 for part in PARTS}
    if stage.lora:
        trained |= {part: stage.lora.rank * found.linear_sides[part] for part in stage.lora.parts}
    steps, origin = _steps(stage, [groups[name] for name in stage.data])
    bytes_per_gpu = {gpus: _bytes(stage, found, sum(trained.values()), gpus) for gpus in GPUS}
    return StageCheck(stage.name, trained, steps, origin, stage.batch * stage.max_tokens, bytes_per_gpu)


def _steps(stage: Stage, groups: list[GroupCheck]) -> tuple[int | None, str]:
    if stage.steps is not None:
        return stage.steps, "the recipe"
    rows = [group.rows if group.rows is not None else group.expected for group in groups]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None, "unknown until the data are given"
    origin = "the data found" if all(group.rows is not None for group in groups) else "the rows expected"
    steps = max(1, round(stage.epochs * max(1, sum(known) // stage.batch)))
    return steps, origin + (", before packing makes it fewer" if stage.packing else "")


def _bytes(stage: Stage, found: Shapes, trained: int, gpus: int) -> int:
    states = (trained * TRAINED_BYTES + (found.total - trained) * FROZEN_BYTES) // gpus
    tokens = stage.micro_batch * stage.max_tokens
    activations = tokens * found.hidden * LAYER_BYTES * (found.layers + WORKING_STATES)
    return states + activations + tokens * found.vocabulary * LOGIT_BYTES
