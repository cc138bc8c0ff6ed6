"""Spherical interpolation: along the arc between two tensors, taken as vectors, not the chord.

Shoemake 1985, "Animating rotation with quaternion curves". The mean of two vectors is shorter than
both; the arc keeps their length. Fine-tunings of one model are nearly parallel, where arc and chord
are the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lingshu.weights.base import BlockIterator, MergeMethod, TensorBlock, weighted_sum

PARALLEL = 1e-6  # below this sine the arc equals the chord, or, of opposite vectors, is undefined


class Angle(NamedTuple):
    """The angle between the two tensors in radians."""

    radians: float


def prepare(blocks: BlockIterator) -> Angle:
    dot = first = second = 0.0
    for block in blocks():
        a, b = (model.to(torch.float64) for model in block.models)
        dot, first, second = dot + float(a @ b), first + float(a @ a), second + float(b @ b)
    length = math.sqrt(first * second)
    return Angle(math.acos(max(-1.0, min(1.0, dot / length))) if length else 0.0)


def merge(block: TensorBlock) -> Tensor:
    assert isinstance(block.prepared, Angle)
    angle = block.prepared.radians
    if math.sin(angle) < PARALLEL:
        return weighted_sum(block.models, block.weights)
    weights = [math.sin(weight * angle) / math.sin(angle) for weight in block.weights]
    return weighted_sum(block.models, weights)


def method() -> MergeMethod:
    """The point at fraction W of the arc from B to A, tensor by tensor."""
    return MergeMethod(merge, prepare, max_models=2)
