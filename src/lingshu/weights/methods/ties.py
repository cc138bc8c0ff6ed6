"""TIES: of what each model added to the base the largest values are kept, a sign is elected for
each, those of that sign are averaged.

Yadav et al. 2023, arXiv 2306.01708: trim, elect sign, disjoint merge. Where the votes of both signs
are equal, the base stays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ConfigError
from lingshu.weights.method import Block, Blocks, Method, weighted_sum

# bits; a positive float32 compares as its bits do, so two rounds of counting find any rank exactly
HALF = 16


class Thresholds(NamedTuple):
    """For each model, the smallest size of a value that is kept."""

    sizes: tuple[float, ...]


def size(delta: Tensor) -> Tensor:
    return delta.abs().to(torch.float32)


def survey(blocks: Blocks, density: float) -> Thresholds:
    """The size of the value of rank `density` in each model, without holding or sorting a tensor."""
    upper, total = _counted(blocks, None)
    keep = [max(1, math.ceil(density * count)) for count in total]
    bins = [_rank(counts, wanted) for counts, wanted in zip(upper, keep, strict=True)]
    lower, _ = _counted(blocks, [number for number, _ in bins])
    bits = [
        (number << HALF) + _rank(counts, left)[0]
        for counts, (number, left) in zip(lower, bins, strict=True)
    ]
    return Thresholds(tuple(torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist()))


def _counted(blocks: Blocks, within: list[int] | None) -> tuple[list[Tensor], list[int]]:
    """Of each model, how many values have each upper half of bits; or of those `within` one, each
    lower half.
    """
    counts: list[Tensor] = []
    total: list[int] = []
    for block in blocks():
        deltas = block.deltas()
        counts = counts or [torch.zeros(1 << HALF, dtype=torch.int64) for _ in deltas]
        total = total or [0] * len(deltas)
        for model, delta in enumerate(deltas):
            bits = size(delta).view(torch.int32)
            upper = bits >> HALF
            chosen = upper if within is None else bits[upper == within[model]] & ((1 << HALF) - 1)
            counts[model] += torch.bincount(chosen, minlength=1 << HALF)
            total[model] += len(delta)
    return counts, total


def _rank(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin that holds the value of rank `wanted`, counted from the largest, and its rank inside
    the bin.
    """
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, wanted))
    return len(counts) - 1 - place, wanted - (int(above[place - 1]) if place else 0)


def merge(block: Block, scale: float) -> Tensor:
    assert isinstance(block.facts, Thresholds) and block.base is not None
    pairs = zip(block.deltas(), block.facts.sizes, strict=True)
    trimmed = [delta.mul_(size(delta) >= threshold) for delta, threshold in pairs]
    elected = weighted_sum(trimmed, block.weights).sign_()
    agreeing = [(delta.sign() == elected).logical_and_(delta != 0) for delta in trimmed]
    total = weighted_sum(
        [delta * agrees for delta, agrees in zip(trimmed, agreeing, strict=True)], block.weights
    )
    votes = weighted_sum([agrees.to(total.dtype) for agrees in agreeing], block.weights)
    mean = torch.where(
        votes > 0, total / votes.clamp(min=torch.finfo(total.dtype).tiny), torch.zeros_like(total)
    )
    return mean.mul_(scale).add_(block.base)


def method(*, density: float = 0.2, scale: float = 1.0) -> Method:
    """Base + `scale` times the mean of agreeing values, of which the share `density` (above 0, at
    most 1) is kept.
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density is {density}; it must be above 0 and at most 1.")
    if not math.isfinite(scale):
        raise ConfigError(f"scale is {scale}; it must be a finite number.")
    return Method(
        lambda block: merge(block, scale),
        lambda blocks: survey(blocks, density),
        base=True,
        ends=False,
    )
