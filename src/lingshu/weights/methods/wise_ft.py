"""WiSE-FT: interpolation between a fine-tuned model, given first, and the model it was tuned from.

Wortsman et al. 2022, arXiv 2109.01903: some of the fine-tuning's gain is given for the robustness
of its start.
"""

from __future__ import annotations

from lingshu.weights.method import Method, mean, mean_of_pair


def method() -> Method:
    """W times the fine-tuned model plus 1 − W times its start."""
    return Method(mean, most=2, pair=mean_of_pair)
