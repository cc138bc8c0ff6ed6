"""DARE: most of what each model added to the base is dropped at random, the rest is rescaled.

Yu et al. 2024, arXiv 2311.03099. What is dropped depends only on the seed, the tensor's name and
the index of the model.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lingshu.core.errors import ConfigError
from lingshu.weights.base import MergeMethod, TensorBlock, weighted_sum


def keep_mask(block: TensorBlock, model: int, drop: float) -> Tensor:
    """Which elements of a block stay: each with probability 1 − drop."""
    text = f"{block.seed}\0{block.name}\0{model}\0{block.start}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(block.models[model]), generator=generator, dtype=torch.float32) >= drop


def method(*, drop: float = 0.9) -> MergeMethod:
    """Base + sum of weight times what `drop` (0 to below 1) leaves of (model − base)."""
    if not 0 <= drop < 1:
        raise ConfigError(f"drop is {drop}; it must be 0 or more and below 1.")

    def merge(block: TensorBlock) -> Tensor:
        assert block.base is not None
        deltas = block.deltas()
        for model, delta in enumerate(deltas):
            delta.mul_(keep_mask(block, model, drop))
        weights = [weight / (1 - drop) for weight in block.weights]
        return weighted_sum(deltas, weights).add_(block.base)

    return MergeMethod(merge, needs_base=True, convex_weights=False, copy_endpoints=False)
