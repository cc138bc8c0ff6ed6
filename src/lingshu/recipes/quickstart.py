"""The quickstart: every stage of the Lingshu recipe in small, on drawn phantoms, with a Qwen2.5-VL
of 1.3 M parameters.

Expected (docs/benchmarks.md): accuracy above 0.95 on modality, lesion, side and size of held-out
phantoms, in under five minutes on two cores.
"""

from __future__ import annotations

from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.train.config import LearningRates, Stage, TrainConfig

SIDE = 56  # pixels; at 84 the same budget learns less
# Phantoms drawn for each data group.
SIZES = {"text": 3200, "captions": 3000, "instruct": 5600}
LEARNING_RATE = 1e-3


def stage(name: str, data: str, steps: int, learning_rates: LearningRates) -> Stage:
    return Stage(
        name=name,
        data=(data,),
        learning_rates=learning_rates,
        steps=steps,
        batch=16,
        micro_batch=16,
        warmup_steps=30,
        min_lr_ratio=0.02,
        betas=(0.9, 0.98),
        max_tokens=512,
    )


def recipe() -> TrainConfig:
    """Language base, shallow alignment (language frozen), deep alignment, instruction tuning.

    The paper starts from models that speak; a random one has to learn its language first, so a text
    stage precedes.
    """
    full_rates = LearningRates(
        vision=LEARNING_RATE, projector=LEARNING_RATE, language=LEARNING_RATE
    )
    return TrainConfig(
        name="quickstart",
        model=TinyModel(),
        stages=(
            stage("base", "text", 200, LearningRates(language=LEARNING_RATE)),
            stage(
                "shallow",
                "captions",
                150,
                LearningRates(vision=LEARNING_RATE, projector=LEARNING_RATE),
            ),
            stage("deep", "captions", 300, full_rates),
            stage("instruct", "instruct", 650, full_rates),
        ),
        data=dict.fromkeys(SIZES),
        pixels=PixelBudget(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE),
        threads=1,  # two are slower for tensors this small
        save_every=250,
    )
