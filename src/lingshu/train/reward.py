"""What a reply is worth: its form, its answer by a scorer of the scoring shelf, and the guards
against empty length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from lingshu.core.nouns import Sample, Scorer
from lingshu.core.shelves import part
from lingshu.scoring.format import answer_of
from lingshu.train.config import Reward

RUN = 4  # tokens; shorter runs recur in any prose


class Judged(NamedTuple):
    """A reply's reward and what it came from; `accuracy` is the score of its answer, 0 where none
    could be read.
    """

    reward: float
    format: float
    accuracy: float
    cut: bool
    repeated: bool


def scorer_of(reward: Reward) -> Scorer:
    """The scorer that a reward names.

    Raises:
        UnknownName, InputError: no such scorer.
    """
    return cast(Scorer, part("scoring", reward.scorer, "score"))


def judge(
    config: Reward,
    scorer: Scorer,
    sample: Sample,
    text: str,
    token_ids: Sequence[int],
    *,
    cut: bool,
) -> Judged:
    """What a reply is worth; its answer is read out of its shape before the scorer sees it, so
    nothing around it counts.
    """
    repeated = repetition(token_ids) > config.most_repeated
    answer = answer_of(text) if config.format else text
    if cut or repeated or answer is None:
        return Judged(0.0, 0.0, 0.0, cut, repeated)
    form = 1.0 if config.format else 0.0
    accuracy = scorer(sample, answer).value or 0.0
    return Judged(config.format * form + config.accuracy * accuracy, form, accuracy, cut, repeated)


def repetition(token_ids: Sequence[int]) -> float:
    """The share of runs of RUN tokens that occurred before in the same reply; 0 for a reply too
    short for two.
    """
    runs = [tuple(token_ids[i : i + RUN]) for i in range(len(token_ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
