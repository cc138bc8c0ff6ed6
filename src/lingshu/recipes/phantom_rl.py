"""Reinforcement learning in small: a tiny model that answers in two styles learns to answer in the
rewarded one.

Expected (docs/benchmarks.md): the sampled reward rises by at least 0.2 within two minutes of CPU
time from the mixed-format start, and does not where rewards are dealt out at random. What rises is
mostly the form; greedy accuracy need not. From a model that is always or never right there would be
nothing to learn: all replies of a group are then worth the same.
Language base and alignment are the quickstart's. Half of the answers of stage `mixed` are <think>,
<answer> blocks.
"""

from __future__ import annotations

from dataclasses import replace

from lingshu.recipes import quickstart
from lingshu.recipes.quickstart import LEARNING_RATE
from lingshu.train.config import Grpo, LearningRates, Stage, TrainConfig

# Phantoms drawn for each data group that the quickstart does not have.
SIZES = {"mixed": 2400, "rl": 960}
RL_LEARNING_RATE = 3e-4


def stages() -> tuple[Stage, Stage]:
    """The mixed-format start and the stage that learns from rewards."""
    mixed = quickstart.stage(
        "mixed",
        "mixed",
        140,
        LearningRates(vision=LEARNING_RATE, projector=LEARNING_RATE, language=LEARNING_RATE),
    )
    rl = replace(
        quickstart.stage(
            "rl",
            "rl",
            36,
            LearningRates(
                vision=RL_LEARNING_RATE, projector=RL_LEARNING_RATE, language=RL_LEARNING_RATE
            ),
        ),
        warmup_steps=5,
        min_lr_ratio=1.0,
        weight_decay=0.0,
        # One update a round, so that old log-probabilities need no pass of their own; no penalty,
        # so no reference does.
        grpo=Grpo(num_generations=8, rollout_batch_size=16, max_reply_tokens=48, kl=0.0),
    )
    return mixed, rl


def recipe() -> TrainConfig:
    """Language base, shallow and deep alignment, a mixed-format start, reinforcement learning."""
    start = quickstart.recipe()
    sizes = {"text": quickstart.SIZES["text"], "captions": quickstart.SIZES["captions"], **SIZES}
    return replace(
        start,
        name="phantom_rl",
        stages=(*start.stages[:3], *stages()),
        data=dict.fromkeys(sizes),
        expected=sizes,
    )


def rl_branch(checkpoint: str) -> TrainConfig:
    """The last two stages alone, from a checkpoint after deep alignment."""
    return replace(
        recipe(), model=checkpoint, stages=stages(), data=dict.fromkeys(SIZES), expected=SIZES
    )
