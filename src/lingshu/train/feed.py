"""Where the batches of a stage come from: data in the order of a plan, or replies that the model
itself was rewarded for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lingshu.models.processor import Encoded
from lingshu.train.config import Stage
from lingshu.train.data import StageData
from lingshu.train.entities import EntityCounts
from lingshu.train.plan import Batch, GroupedPlan, PackedPlan, Plan


class Feed(Protocol):
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
    def named_drops(self) -> Sequence[str]: ...
    @property
    def entities(self) -> EntityCounts | None:
        """What is marked in the data, None where nothing is."""
        ...

    def batches(self, start: int) -> Iterator[Sequence[Sequence[Encoded]]]:
        """The batch of step `start` and every later one; each is a list of sequences of one or,
        packed, several samples.
        """
        ...

    def may_save(self, done: int) -> bool:
        """Whether a state saved after `done` steps can be gone on from."""
        ...

    def told(self) -> Mapping[str, float]:
        """Numbers for the log's next row, besides those of the optimiser's step."""
        ...


@dataclass(frozen=True)
class DataFeed:
    """Supervised data; any step can be gone on from.

    `share` cuts this process's part out of a batch before it is read.
    """

    data: StageData
    stage: Stage
    plan: Plan
    share: Callable[[Batch], Batch] = list

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
    def named_drops(self) -> Sequence[str]:
        return self.data.named_drops

    @property
    def entities(self) -> EntityCounts | None:
        return self.data.entities

    def batches(self, start: int) -> Iterator[Sequence[Sequence[Encoded]]]:
        for batch in self.plan.batches(start):
            yield [[self.data.sample(i) for i in sequence] for sequence in self.share(batch)]

    def may_save(self, done: int) -> bool:
        del done
        return True

    def told(self) -> Mapping[str, float]:
        return {}


def data_feed(
    data: StageData, stage: Stage, seed: int, *, share: Callable[[Batch], Batch] = list
) -> DataFeed:
    """Supervised data of a stage in its order: packed, or grouped by length."""
    lengths = tuple(map(len, data.texts))
    plan = (
        PackedPlan(lengths, stage.max_tokens, stage.batch, seed)
        if stage.packing
        else GroupedPlan(lengths, stage.batch, seed)
    )
    return DataFeed(data, stage, plan, share)
