"""Linear interpolation: the weighted mean of the models, W·A + (1−W)·B for two.

Frankle et al. 2020, arXiv 1912.05671; the fusion of two fine-tunings in MOFT.
"""

from __future__ import annotations

from lingshu.weights.base import MergeMethod, weighted_mean, weighted_mean_pair


def method() -> MergeMethod:
    """The weighted mean of two or more models."""
    return MergeMethod(weighted_mean, supports_lora=True, merge_pair=weighted_mean_pair)
