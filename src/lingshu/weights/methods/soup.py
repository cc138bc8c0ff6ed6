"""Model soup: the mean of any number of fine-tunings of one model, by default with equal weights.

Wortsman et al. 2022, arXiv 2203.05482. The greedy soup, which keeps a model only if it helps, is
`weights/greedy.py`.
"""

from __future__ import annotations

from lingshu.weights.base import MergeMethod, weighted_mean, weighted_mean_pair


def method() -> MergeMethod:
    """The mean of two or more models."""
    return MergeMethod(weighted_mean, supports_lora=True, merge_pair=weighted_mean_pair)
