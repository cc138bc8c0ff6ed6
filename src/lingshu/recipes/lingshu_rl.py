"""Lingshu-RL: stage 4 of the Lingshu paper, GRPO with verifiable rewards from Lingshu-7B (arXiv
2506.07044, 3.1.4 and 3.2).

Expected: no gain. The paper's Lingshu-RL-7B scores 61.5 where Lingshu-7B has 61.8, and blames rules
that misread open medical answers and questions that need no reasoning; not run here. The paper's
values: 16 replies a question at temperature 1.0, KL 1e-3, 512 questions a round, 128 an update,
rate 1e-6, one epoch of about 100,000 questions, 4,096 tokens, rewards of 0.5 for the format and 1.0
for the answer. What it leaves unstated, and what is used here (most of it from EasyR1's
example of that time, whose other values are the paper's):
- format: one <think> block, then one <answer> block, nothing else; requested by `instruction`
- 2,048 of the 4,096 tokens for the reply; the rate stays constant, without warm-up; weight decay
  0.01, clipping at 1.0
- rewards standardized in their group, ratios clipped to 0.8 .. 1.3, k3 penalty, a mean over the
  tokens of an update
- accuracy: the scorer `auto` of the evaluation, so that what is rewarded is what is measured
- truncated or repetitive replies get no reward; `pass_rate=[0,1]` would exclude what the start
  always or never answers correctly, which the paper names as missing and others found to help; it
  costs 16 replies a question
The data rules (options turned into open questions, 5% yes/no, balance) belong to curation, step
`rl_pool`. Sixteen replies a question need a fast engine: give `stages.rl.grpo.sampler`, as
docs/reinforcement.md shows.
"""

from lingshu.models.model_spec import PixelBudget
from lingshu.train.config import Grpo, LearningRates, Reward, Sharding, Stage, TrainConfig

INSTRUCTION = (
    "\nFirst think about the question between <think> and </think>, then give the final answer"
    " alone between <answer> and </answer>."
)


def recipe() -> TrainConfig:
    """One stage over data group `rl`; give it with data.rl=FOLDER."""
    rate = 1e-6
    return TrainConfig(
        name="lingshu_rl",
        model="lingshu-medical-mllm/Lingshu-7B",
        stages=(
            Stage(
                name="rl",
                data=("rl",),
                learning_rates=LearningRates(rate, rate, rate),
                epochs=1.0,
                batch=128,
                warmup_steps=0,
                min_lr_ratio=1.0,
                max_tokens=4096,
                grpo=Grpo(
                    num_generations=16,
                    rollout_batch_size=512,
                    temperature=1.0,
                    max_reply_tokens=2048,
                    kl=1e-3,
                    instruction=INSTRUCTION,
                    reward=Reward(scorer="auto", format=0.5, accuracy=1.0),
                ),
            ),
        ),
        data={"rl": None},
        expected={"rl": 100_000},
        # 2,048 tokens remain for the question and its images.
        pixels=PixelBudget(max_pixels=1280 * 28 * 28),
        sharding=Sharding(activation_checkpointing=True),
        save_every=20,
    )
