"""Where the batches of a stage come from: data in the order of a plan, or replies that the model
itself was rewarded for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lingshu.models.processor import EncodedSample
from lingshu.train.batch_plan import Batch, BatchPlan, GroupedPlan, PackedPlan
from lingshu.train.config import Stage
from lingshu.train.data import StageData
from lingshu.train.entity_weights import EntityCounts


class BatchSource(Protocol):
    """The batches of a stage, a pure function of seed, step, and the weights that a state brings
    back.
    """

    @property
    def total(self) -> int:
        """Optimiser steps of the whole stage."""
        ...

    @property
    def samples(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Tokens of all samples, once each."""
        ...

    @property
    def drops(self) -> Mapping[str, int]: ...
    @property
    def drop_examples(self) -> Sequence[str]: ...
    @property
    def entities(self) -> EntityCounts | None:
        """What is marked in the data, None where nothing is."""
        ...

    def batches(self, start: int) -> Iterator[Sequence[Sequence[EncodedSample]]]:
        """The batch of step `start` and every later one; each is a list of sequences of one or,
        packed, several samples.
        """
        ...

    def is_resumable_at(self, done: int) -> bool:
        """Whether a state saved after `done` steps can be gone on from."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Numbers for the log's next row, besides those of the optimiser's step."""
        ...


@dataclass(frozen=True)
class SupervisedBatches:
    """Supervised data; any step can be gone on from.

    `share` cuts this process's part out of a batch before it is read.
    """

    data: StageData
    stage: Stage
    plan: BatchPlan
    shard_batch: Callable[[Batch], Batch] = list

    @property
    def total(self) -> int:
        return self.stage.steps or self.plan.steps(self.stage.epochs)

    @property
    def samples(self) -> int:
        return len(self.data)

    @property
    def tokens(self) -> int:
        return self.data.tokens

    @property
    def drops(self) -> Mapping[str, int]:
        return self.data.drops

    @property
    def drop_examples(self) -> Sequence[str]:
        return self.data.drop_examples

    @property
    def entities(self) -> EntityCounts | None:
        return self.data.entities

    def batches(self, start: int) -> Iterator[Sequence[Sequence[EncodedSample]]]:
        for batch in self.plan.batches(start):
            yield [[self.data.sample(i) for i in sequence] for sequence in self.shard_batch(batch)]

    def is_resumable_at(self, done: int) -> bool:
        del done
        return True

    def metrics(self) -> Mapping[str, float]:
        return {}


def supervised_batches(
    data: StageData, stage: Stage, seed: int, *, shard_batch: Callable[[Batch], Batch] = list
) -> SupervisedBatches:
    """Supervised data of a stage in its order: packed, or grouped by length."""
    lengths = tuple(map(len, data.encodings))
    plan = (
        PackedPlan(lengths, stage.max_tokens, stage.batch, seed)
        if stage.packing
        else GroupedPlan(lengths, stage.batch, seed)
    )
    return SupervisedBatches(data, stage, plan, shard_batch)
