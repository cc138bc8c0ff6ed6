"""Reinforcement learning in miniature: a tiny model that answers in two formats learns to use the
rewarded one.

Expected (docs/benchmarks.md): the sampled reward rises by at least 0.2 within two minutes of CPU
time from the mixed-format start, and does not where rewards are random. What rises is mostly the
format; greedy accuracy need not. From a model that is always or never right there would be nothing
to learn: all replies of a group then have the same reward.
Language base and alignment are the quickstart's. Half of the answers of stage `mixed` are <think>,
<answer> blocks.
"""

from dataclasses import replace

from lingshu.recipes import quickstart
from lingshu.train.config import Grpo, LearningRates, Stage, TrainConfig

# Phantoms in each data group that the quickstart does not have.
SIZES = {"mixed": 2400, "rl": 960}
RL_LEARNING_RATE = 3e-4


def stages() -> tuple[Stage, Stage]:
    """The mixed-format start and the stage that learns from rewards."""
    learning_rates = LearningRates(RL_LEARNING_RATE, RL_LEARNING_RATE, RL_LEARNING_RATE)
    mixed = quickstart.stage("mixed", "mixed", 140, quickstart.FULL_RATES)
    rl = replace(
        quickstart.stage("rl", "rl", 36, learning_rates),
        warmup_steps=5,
        min_lr_ratio=1.0,
        weight_decay=0.0,
        # One update a round and no penalty need no extra pass for old log-probabilities.
        grpo=Grpo(num_generations=8, rollout_batch_size=16, max_reply_tokens=48, kl=0.0),
    )
    return mixed, rl


def recipe() -> TrainConfig:
    """Language base, shallow and deep alignment, a mixed-format start, reinforcement learning."""
    start = quickstart.recipe()
    sizes = {"text": quickstart.SIZES["text"], "captions": quickstart.SIZES["captions"], **SIZES}
    all_stages, data = (*start.stages[:3], *stages()), dict.fromkeys(sizes)
    return replace(start, name="phantom_rl", stages=all_stages, data=data, expected=sizes)


def rl_branch(checkpoint: str) -> TrainConfig:
    """The last two stages alone, from a checkpoint after deep alignment."""
    data = dict.fromkeys(SIZES)
    return replace(recipe(), model=checkpoint, stages=stages(), data=data, expected=SIZES)
