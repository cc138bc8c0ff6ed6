"""TIES: the largest changes to the base are kept, and averaged where they agree in sign.

Yadav et al. 2023, arXiv 2306.01708: trim, elect sign, disjoint merge. Where the votes of both signs
are equal, the base is unchanged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lingshu.core.errors import ConfigError
from lingshu.weights.base import BlockIterator, MergeMethod, TensorBlock, weighted_sum

# Positive float32 compare as their bits, so counting each half of the bits finds any rank.
HALF_BITS = 16


class Thresholds(NamedTuple):
    """For each model, the smallest magnitude that is kept."""

    magnitudes: tuple[float, ...]


def magnitude(delta: Tensor) -> Tensor:
    return delta.abs().to(torch.float32)


def prepare(blocks: BlockIterator, density: float) -> Thresholds:
    """The magnitude at rank `density` of each model, without holding or sorting a tensor."""
    upper, total = _histograms(blocks, None)
    ranks = [max(1, math.ceil(density * count)) for count in total]
    bins = [_find_bin(counts, rank) for counts, rank in zip(upper, ranks, strict=True)]
    lower, _ = _histograms(blocks, [bin_index for bin_index, _ in bins])
    bits = [
        (bin_index << HALF_BITS) + _find_bin(counts, rank_in_bin)[0]
        for counts, (bin_index, rank_in_bin) in zip(lower, bins, strict=True)
    ]
    return Thresholds(tuple(torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist()))


def _histograms(
    blocks: BlockIterator, upper_bins: list[int] | None
) -> tuple[list[Tensor], list[int]]:
    """Counts of the upper bins of bits per model, or of the lower bins within `upper_bins`."""
    counts: list[Tensor] = []
    total: list[int] = []
    for block in blocks():
        deltas = block.deltas()
        counts = counts or [torch.zeros(1 << HALF_BITS, dtype=torch.int64) for _ in deltas]
        total = total or [0] * len(deltas)
        for model, delta in enumerate(deltas):
            bits = magnitude(delta).view(torch.int32)
            upper = bits >> HALF_BITS
            bins = upper
            if upper_bins is not None:
                bins = bits[upper == upper_bins[model]] & ((1 << HALF_BITS) - 1)
            counts[model] += torch.bincount(bins, minlength=1 << HALF_BITS)
            total[model] += len(delta)
    return counts, total


def _find_bin(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of the value of `rank`, counted from the largest, and its rank inside the bin."""
    cumulative = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(cumulative, rank))
    return len(counts) - 1 - position, rank - (int(cumulative[position - 1]) if position else 0)


def merge(block: TensorBlock, scale: float) -> Tensor:
    assert isinstance(block.prepared, Thresholds) and block.base is not None
    pairs = zip(block.deltas(), block.prepared.magnitudes, strict=True)
    trimmed = [delta.mul_(magnitude(delta) >= threshold) for delta, threshold in pairs]
    elected_sign = weighted_sum(trimmed, block.weights).sign_()
    masks = [(delta.sign() == elected_sign).logical_and_(delta != 0) for delta in trimmed]
    agreeing = [delta * mask for delta, mask in zip(trimmed, masks, strict=True)]
    total = weighted_sum(agreeing, block.weights)
    votes = weighted_sum([mask.to(total.dtype) for mask in masks], block.weights)
    tiny = torch.finfo(total.dtype).tiny
    mean = torch.where(votes > 0, total / votes.clamp(min=tiny), torch.zeros_like(total))
    return mean.mul_(scale).add_(block.base)


def method(*, density: float = 0.2, scale: float = 1.0) -> MergeMethod:
    """Base + `scale` times the mean of agreeing values; the fraction `density` of them is kept."""
    if not 0 < density <= 1:
        raise ConfigError(f"density is {density}; it must be above 0 and at most 1.")
    if not math.isfinite(scale):
        raise ConfigError(f"scale is {scale}; it must be a finite number.")
    return MergeMethod(
        lambda block: merge(block, scale),
        lambda blocks: prepare(blocks, density),
        needs_base=True,
        copy_endpoints=False,
    )
