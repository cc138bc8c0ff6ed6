"""Task arithmetic: the base plus the weighted sum of what each model added to it.

Ilharco et al. 2023, arXiv 2212.04089. Weights need not sum to 1; a negative one removes what a
model learned.
"""

from __future__ import annotations

from torch import Tensor

from lingshu.weights.base import MergeMethod, TensorBlock, weighted_sum


def merge(block: TensorBlock) -> Tensor:
    deltas = block.deltas()
    assert block.base is not None
    return weighted_sum(deltas, block.weights).add_(block.base)


def method() -> MergeMethod:
    """Base + sum of weight times (model − base)."""
    return MergeMethod(merge, needs_base=True, convex_weights=False, supports_lora=True)
