"""Lingshu-7B: shallow alignment, deep alignment and instruction tuning of Qwen2.5-VL-7B-Instruct
(arXiv 2506.07044).

Expected: the scores of the paper's Lingshu-7B row, 61.8 on average over seven multimodal
benchmarks; not run here. Learning rates, warm-up, length, epochs, packing and amounts are the
paper's (section 3.2, table 5). What it leaves unstated, and what is used here:
- global batch 256: one sequence a device, eight accumulated, on 32 GPUs, as a later work with the
  same rates states
- weight decay 0.01, betas 0.9 and 0.999, clipping at 1.0, bfloat16, cosine down to 0
- activations recomputed in the backward pass, so that a full sequence of 8,192 and the sharded
  states fit in 80 GB
- at most 1280 x 28 x 28 pixels for the images of a sample: 16,384 image tokens would not fit into
  8,192
"""

from lingshu.models.model_spec import PixelBudget
from lingshu.train.config import LearningRates, Sharding, Stage, TrainConfig

EXPECTED = {"alignment": 927_000, "captions": 4_100_000, "instruct": 7_100_000}


def stages() -> tuple[Stage, ...]:
    """The three supervised stages; the paper gives the same values for 7B and 32B."""
    # short captions would harm the language model, so it is frozen
    alignment_rates = LearningRates(vision=2e-6, projector=1e-5)
    full_rates = LearningRates(vision=2e-6, projector=1e-5, language=1e-5)
    return (
        Stage("shallow", ("alignment",), alignment_rates),
        Stage("deep", ("captions",), full_rates),
        # Packing short captions cost accuracy in the paper's first two stages, and none here.
        Stage("instruct", ("instruct",), full_rates, epochs=2.0, packing=True),
    )


def recipe() -> TrainConfig:
    """Three stages; give the data groups `alignment` (PMC-OA, ROCO), `captions` and `instruct`."""
    return TrainConfig(
        name="lingshu_7b",
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        stages=stages(),
        data=dict.fromkeys(EXPECTED),
        expected=EXPECTED,
        pixels=PixelBudget(max_pixels=1280 * 28 * 28),
        sharding=Sharding(activation_checkpointing=True),
        save_every=500,
    )
