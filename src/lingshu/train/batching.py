"""The order in which a stage takes its samples, single or packed, and the batches of that order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lingshu.models.processor import EncodedSample
from lingshu.train.config import Stage
from lingshu.train.data import StageData

# The sequences of one optimizer step; each is a tuple of sample indices, one unless packed.
IndexBatch = list[tuple[int, ...]]
Batch = Sequence[Sequence[EncodedSample]]
WINDOW_BATCHES = 16  # samples are sorted by length inside windows of this many batches
PACK_WINDOW = 4096  # samples packed together: enough to fill packs, few enough to keep epochs mixed


class BatchSource(Protocol):
    """The batches of a stage: a function of seed, step, and the weights that a state restores.

    `total` counts the optimizer steps of the whole stage; a call returns the batch of step `start`
    and every later one; `metrics` are for the next row of the log.
    """

    @property
    def data(self) -> StageData: ...
    @property
    def total(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    def __call__(self, start: int) -> Iterator[Batch]: ...
    def is_resumable_at(self, step: int) -> bool: ...


@dataclass(frozen=True)
class GroupedPlan:
    """One sample per sequence, batches of similar length, a new mixture each epoch."""

    lengths: tuple[int, ...]
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.lengths) // self.batch)

    def steps(self, epochs: float) -> int:
        return max(1, round(epochs * self.steps_per_epoch))

    def batches(self, start: int) -> Iterator[IndexBatch]:
        epoch, offset = divmod(start, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[offset:]
            epoch, offset = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[IndexBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        # Fewer samples than one batch: take them all, and some twice.
        if len(order) < self.batch:
            order = np.resize(order, self.batch)
        lengths = np.asarray(self.lengths)
        batches = []
        window = WINDOW_BATCHES * self.batch
        for start in range(0, len(order), window):
            indices = order[start : start + window]
            indices = indices[np.argsort(lengths[indices], kind="stable")]
            # The remainder of an epoch is left out, a different one in each epoch.
            batches += [
                [(index,) for index in indices[i : i + self.batch].tolist()]
                for i in range(0, len(indices) - self.batch + 1, self.batch)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class PackedPlan:
    """Several samples per sequence, up to `capacity` tokens; `batch` counts sequences."""

    lengths: tuple[int, ...]
    capacity: int
    batch: int
    seed: int

    def steps(self, epochs: float) -> int:
        n_full, fraction = int(epochs), epochs - int(epochs)
        steps = sum(len(self._epoch(e)) for e in range(n_full))
        return max(1, steps + round(fraction * len(self._epoch(n_full))))

    def batches(self, start: int) -> Iterator[IndexBatch]:
        epoch = 0
        # Epochs differ in their number of packs, so those before `start` are planned again, which
        # reads nothing.
        while start >= len(batches := self._epoch(epoch)):
            start, epoch = start - len(batches), epoch + 1
        while True:
            yield from self._epoch(epoch)[start:]
            start, epoch = 0, epoch + 1

    def _epoch(self, epoch: int) -> list[IndexBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths)).tolist()
        packs: list[tuple[int, ...]] = []
        for start in range(0, len(order), PACK_WINDOW):
            window = order[start : start + PACK_WINDOW]
            packs += [
                tuple(window[i] for i in pack)
                for pack in best_fit([self.lengths[i] for i in window], self.capacity)
            ]
        packs = [packs[i] for i in rng.permutation(len(packs))]
        if len(packs) < self.batch:
            return [[packs[i % len(packs)] for i in range(self.batch)]]
        # The remainder of an epoch is left out, a different one in each epoch.
        return [
            packs[i : i + self.batch] for i in range(0, len(packs) - self.batch + 1, self.batch)
        ]


@dataclass(frozen=True)
class SupervisedBatches:
    """Batches of supervised data; `shard_batch` selects this process's share before it is read."""

    data: StageData
    stage: Stage
    plan: GroupedPlan | PackedPlan
    shard_batch: Callable[[IndexBatch], IndexBatch] = list
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.stage.steps or self.plan.steps(self.stage.epochs)

    def __call__(self, start: int) -> Iterator[Batch]:
        for batch in self.plan.batches(start):
            yield [[self.data.sample(i) for i in sequence] for sequence in self.shard_batch(batch)]

    def is_resumable_at(self, step: int) -> bool:  # noqa: ARG002
        return True


def supervised_batches(
    data: StageData,
    stage: Stage,
    seed: int,
    *,
    shard_batch: Callable[[IndexBatch], IndexBatch] = list,
) -> SupervisedBatches:
    """The supervised data of a stage in its order: packed, or grouped by length."""
    lengths = tuple(map(len, data.encodings))
    plan = (
        PackedPlan(lengths, stage.max_tokens, stage.batch, seed)
        if stage.packing
        else GroupedPlan(lengths, stage.batch, seed)
    )
    return SupervisedBatches(data, stage, plan, shard_batch)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes where the least sufficient space is left.

    Returns indices into `lengths` by pack; an item longer than `capacity` gets its own pack.
    """
    packs: list[list[int]] = []
    free_space: list[tuple[int, int]] = []  # (space left, pack), sorted
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        position = bisect_left(free_space, (lengths[item], -1))
        if position == len(free_space):
            packs.append([item])
            n_free, pack = capacity, len(packs) - 1
        else:
            n_free, pack = free_space.pop(position)
            packs[pack].append(item)
        insort(free_space, (n_free - lengths[item], pack))
    return packs
