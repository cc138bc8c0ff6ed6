"""What a reply is worth: its form, its answer by a scorer of the scoring shelf, and the guards
against empty length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from lingshu.core.registry import get_attribute
from lingshu.core.types import Sample, Scorer
from lingshu.scoring.format import extract_answer
from lingshu.train.config import Reward

NGRAM_SIZE = 4  # tokens; shorter runs recur in any prose


class RewardResult(NamedTuple):
    """A reply's reward and what it came from; `accuracy` is the score of its answer, 0 where none
    could be read.
    """

    reward: float
    format: float
    accuracy: float
    truncated: bool
    repetitive: bool


def load_scorer(reward: Reward) -> Scorer:
    """The scorer that a reward names.

    Raises:
        UnknownName, InputError: no such scorer.
    """
    return cast(Scorer, get_attribute("scoring", reward.scorer, "score"))


def compute_reward(
    config: Reward,
    scorer: Scorer,
    sample: Sample,
    text: str,
    token_ids: Sequence[int],
    *,
    truncated: bool,
) -> RewardResult:
    """What a reply is worth; its answer is read out of its shape before the scorer sees it, so
    nothing around it counts.
    """
    repetitive = repetition(token_ids) > config.max_repetition
    answer = extract_answer(text) if config.format else text
    if truncated or repetitive or answer is None:
        return RewardResult(0.0, 0.0, 0.0, truncated, repetitive)
    format_score = 1.0 if config.format else 0.0
    accuracy = scorer(sample, answer).value or 0.0
    return RewardResult(
        config.format * format_score + config.accuracy * accuracy,
        format_score,
        accuracy,
        truncated,
        repetitive,
    )


def repetition(token_ids: Sequence[int]) -> float:
    """The share of runs of RUN tokens that occurred before in the same reply; 0 for a reply too
    short for two.
    """
    ngrams = [tuple(token_ids[i : i + NGRAM_SIZE]) for i in range(len(token_ids) - NGRAM_SIZE + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
