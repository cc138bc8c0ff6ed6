"""The recipes that learn from rewards: the paper's values, and a chain on synthetic data."""

from __future__ import annotations

from lingshu.recipes import lingshu_rl, phantom_rl
from lingshu.sources.phantom import PURPOSES
from lingshu.train.config import LearningRates


def test_the_papers_values() -> None:
    config = lingshu_rl.recipe()
    (stage,) = config.stages
    grpo = stage.grpo
    assert (
        grpo and config.model == "lingshu-medical-mllm/Lingshu-7B" and config.data.keys() == {"rl"}
    )
    assert (
        grpo.num_generations,
        grpo.temperature,
        grpo.kl,
        grpo.rollout_batch_size,
        stage.batch,
    ) == (
        16,
        1.0,
        1e-3,
        512,
        128,
    )
    assert (
        stage.learning_rates == LearningRates(1e-6, 1e-6, 1e-6)
        and stage.max_tokens == 4096
        and stage.epochs == 1.0
    )
    assert (grpo.reward.format, grpo.reward.accuracy) == (0.5, 1.0)
    # The rate stays as it is, and the reply may take half of the length.
    assert stage.min_lr_ratio == 1.0 and stage.warmup_steps == 0 and grpo.max_reply_tokens == 2048
    assert "<think>" in grpo.instruction and "</answer>" in grpo.instruction


def test_the_phantom_chain_ends_in_rewards_and_its_branch_is_its_end() -> None:
    full, branch = phantom_rl.recipe(), phantom_rl.rl_branch("deep")
    assert [stage.name for stage in full.stages] == ["base", "shallow", "deep", "mixed", "rl"]
    assert set(full.data) <= set(PURPOSES) and full.data.keys() == full.expected.keys()
    assert (
        branch.stages == full.stages[-2:]
        and branch.model == "deep"
        and set(branch.data) == {"mixed", "rl"}
    )
