"""WiSE-FT: interpolation between a fine-tuned model, given first, and the model it was tuned from.

Wortsman et al. 2022, arXiv 2109.01903: trades some of the fine-tuning's gain for the robustness of
its start.
"""

from __future__ import annotations

from lingshu.weights.base import MergeMethod, weighted_mean, weighted_mean_pair


def method() -> MergeMethod:
    """W times the fine-tuned model plus 1 − W times its start."""
    return MergeMethod(weighted_mean, max_models=2, merge_pair=weighted_mean_pair)
