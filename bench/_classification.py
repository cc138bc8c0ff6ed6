"""Measures of a binary classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from lingshu.evaluate.statistics import macro


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """The probability that a positive item has a higher score than a negative one, ties counting
    half (Hanley and McNeil 1982); None with one class only.
    """
    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if values.shape != labels.shape:
        raise ValueError(f"{values.size} scores and {labels.size} labels")
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = mid_ranks[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def balanced_accuracy(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float | None:
    """The mean over the gold classes of the share that was predicted right; None without items."""
    n_total = Counter(gold)
    n_correct = Counter(
        label for label, guess in zip(gold, predicted, strict=True) if label == guess
    )
    return macro([n_correct[label] / count for label, count in n_total.items()])
