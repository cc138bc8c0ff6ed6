"""MOFT on Lingshu-7B: two full fine-tunings on the same data, with entity weights 1.0 and 2.5, to be
merged half and half.

Expected on the PSV2026 test set (accuracy over 9,264 items, from the model card): 54.3 before, 63.0
after plain fine-tuning, 65.5 merged; not run here. A trajectory is a run of this recipe, and all
runs differ only by the overrides in VARIANTS:
    lingshu train moft_7b data.train=FOLDER --out runs/fluency
    lingshu train moft_7b data.train=FOLDER stages.moft.objective.entity_weight=2.5 --out runs/entities
    lingshu merge runs/fluency/checkpoint runs/entities/checkpoint --weight 0.5 --out runs/moft
The data carry entities (docs/moft.md). Rate, warm-up, epochs, batch, lengths, bfloat16 and training
all three parts are the card's. What it leaves unstated, and what is used here:
- cosine down to 0, weight decay 0.01, betas 0.9 and 0.999, clipping at 1.0, as in lingshu_7b
- a warm-up of 0.05 of 52,251 x 3 / 64 = 2,449 steps is 122; with other data give
  stages.moft.warmup_steps
- samples beyond 4,096 tokens are dropped and counted: half an answer would teach to stop there
- 2,048 image tokens are 2,048 x 28 x 28 pixels, shared by the images of a sample
- four sequences a device as on the card; no packing, which would redefine a batch of 64
- activations recomputed in the backward pass: float32 master weights need more memory than the
  card's bfloat16 ones
- seed 0 for both trajectories, for the same order of samples
"""

from lingshu.models.model_spec import PixelBudget
from lingshu.train.config import LearningRates, Sharding, Stage, TrainConfig

EXPECTED = {"train": 52_251}
LEARNING_RATE = 5e-6
# The objective of MOFT's second trajectory.
ENTITY_WEIGHT = 2.5
# 1 + (2.5 - 1) x 0.1164, the mean weight of a token by the published share of entity tokens.
MEAN_WEIGHT = 1.1746
_OBJECTIVE = "stages.moft.objective"
_WEIGHTED = f"{_OBJECTIVE}.entity_weight={ENTITY_WEIGHT}"
# Runs by their purpose -> overrides. The first two are merged; the others are baselines and controls.
VARIANTS: dict[str, tuple[str, ...]] = {
    "fluency": (),
    "entities": (_WEIGHTED,),
    "dft": (f"{_OBJECTIVE}.loss=dft",),
    "second_seed": ("seed=1",),  # averaged with `fluency`: is it merely a soup?
    "normalized": (_WEIGHTED, f"{_OBJECTIVE}.normalizer=weights"),  # without the larger gradients
    "larger_rate": tuple(
        f"stages.moft.learning_rates.{part}={LEARNING_RATE * MEAN_WEIGHT:.4g}"
        for part in ("vision", "projector", "language")
    ),
    # does it matter which tokens have more weight?
    "random_tokens": (_WEIGHTED, f"{_OBJECTIVE}.entities=random"),
    # the compute of both trajectories in one
    "twice_as_long": ("stages.moft.epochs=6", "stages.moft.warmup_steps=245"),
}


def recipe() -> TrainConfig:
    """One stage from Lingshu-7B; give `train`, PSV2026 or a dataset marked by mark_entities."""
    stage = Stage(
        "moft", ("train",), LearningRates(LEARNING_RATE, LEARNING_RATE, LEARNING_RATE),
        epochs=3.0, batch=64, micro_batch=4, warmup_steps=122, max_tokens=4096,
    )  # fmt: skip
    return TrainConfig(
        name="moft_7b",
        model="lingshu-medical-mllm/Lingshu-7B",
        stages=(stage,),
        data=dict.fromkeys(EXPECTED),
        expected=EXPECTED,
        pixels=PixelBudget(max_pixels=2048 * 28 * 28),
        sharding=Sharding(activation_checkpointing=True),
        save_every=200,
    )
