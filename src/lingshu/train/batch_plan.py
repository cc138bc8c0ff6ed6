"""The order of samples: which ones each step takes, one by one or packed, as a function of seed and
step alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# The sequences of one optimiser step; each is a tuple of sample indices, several of them only where
# samples are packed.
Batch = list[tuple[int, ...]]
# Samples are sorted by length inside windows of this many batches.
WINDOW_BATCHES = 16
# Samples that are packed together at a time: enough to fill packs well, few enough to keep the
# epoch mixed.
PACK_WINDOW = 4096


class BatchPlan(Protocol):
    """Which samples each step takes, a pure function of seed and step: a run resumes by its step
    number alone.
    """

    def steps(self, epochs: float) -> int:
        """Optimiser steps in so many passes over the data, at least 1."""
        ...

    def batches(self, start: int) -> Iterator[Batch]:
        """The batch of step `start` and every later one, without end."""
        ...


@dataclass(frozen=True)
class GroupedPlan:
    """One sample a sequence, samples of similar length in a batch: little padding, yet a fresh
    mixture each epoch.
    """

    lengths: tuple[int, ...]
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.lengths) // self.batch)

    def steps(self, epochs: float) -> int:
        return max(1, round(epochs * self.steps_per_epoch))

    def batches(self, start: int) -> Iterator[Batch]:
        """The batch of step `start` and every later one, without end."""
        epoch, offset = divmod(start, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[offset:]
            epoch, offset = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[Batch]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        # Fewer samples than one batch: take them all, and some twice.
        if len(order) < self.batch:
            order = np.resize(order, self.batch)
        lengths = np.asarray(self.lengths)
        batches = []
        window = WINDOW_BATCHES * self.batch
        for start in range(0, len(order), window):
            window_indices = order[start : start + window]
            window_indices = window_indices[np.argsort(lengths[window_indices], kind="stable")]
            # The remainder of an epoch is left out, a different one in each epoch.
            batches += [
                [(index,) for index in window_indices[i : i + self.batch].tolist()]
                for i in range(0, len(window_indices) - self.batch + 1, self.batch)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class PackedPlan:
    """Several samples a sequence, up to `capacity` tokens; `batch` counts sequences."""

    lengths: tuple[int, ...]
    capacity: int
    batch: int
    seed: int

    def steps(self, epochs: float) -> int:
        n_full_epochs, fraction = int(epochs), epochs - int(epochs)
        return max(
            1,
            sum(len(self._epoch(e)) for e in range(n_full_epochs))
            + round(fraction * len(self._epoch(n_full_epochs))),
        )

    def batches(self, start: int) -> Iterator[Batch]:
        epoch = 0
        # Epochs differ in their number of packs, so those before `start` are planned again; that
        # takes no reading.
        while start >= len(batches := self._epoch(epoch)):
            start, epoch = start - len(batches), epoch + 1
        while True:
            yield from self._epoch(epoch)[start:]
            start, epoch = 0, epoch + 1

    def _epoch(self, epoch: int) -> list[Batch]:
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


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes where the least room is left that still
    takes it.

    Positions of `lengths` by pack; every pack sums to at most `capacity`. An item longer than that
    has a pack of its own.
    """
    packs: list[list[int]] = []
    free_space: list[tuple[int, int]] = []  # (room left, pack), sorted
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
