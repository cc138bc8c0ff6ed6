"""Lingshu-32B: the three stages of Lingshu-7B on Qwen2.5-VL-32B-Instruct (arXiv 2506.07044).

Expected: the scores of the paper's Lingshu-32B row, 66.6 on average over seven multimodal
benchmarks; not run here. The paper gives the same hyper-parameters for both sizes; lingshu_7b says
what it leaves unstated.
"""

from dataclasses import replace

from lingshu.recipes import lingshu_7b
from lingshu.train.config import TrainConfig


def recipe() -> TrainConfig:
    """Three stages; give the data groups `alignment`, `captions` and `instruct`."""
    return replace(lingshu_7b.recipe(), name="lingshu_32b", model="Qwen/Qwen2.5-VL-32B-Instruct")
