"""Linear interpolation: the weighted mean of the models, W·A + (1−W)·B for two.

Frankle et al. 2020, arXiv 1912.05671; the fusion of two fine-tunings in MOFT.
"""

from __future__ import annotations

from lingshu.weights.method import Method, mean, mean_of_pair


def method() -> Method:
    """The weighted mean of two or more models."""
    return Method(mean, factors=True, pair=mean_of_pair)
