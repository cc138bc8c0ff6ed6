"""The quickstart: every stage of the Lingshu recipe in miniature, on synthetic phantoms, with a
Qwen2.5-VL of 1.3 M parameters.

Expected (docs/benchmarks.md): accuracy above 0.95 on modality, lesion, side and size of held-out
phantoms, in under five minutes on two cores.
"""

from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.train.config import LearningRates, Stage, TrainConfig

SIDE = 56  # pixels; at 84 the same budget learns less
# Phantoms in each data group.
SIZES = {"text": 3200, "captions": 3000, "instruct": 5600}
LEARNING_RATE = 1e-3
FULL_RATES = LearningRates(LEARNING_RATE, LEARNING_RATE, LEARNING_RATE)


def stage(name: str, data: str, steps: int, learning_rates: LearningRates) -> Stage:
    return Stage(
        name, (data,), learning_rates, steps=steps, batch=16, micro_batch=16, warmup_steps=30,
        min_lr_ratio=0.02, betas=(0.9, 0.98), max_tokens=512,
    )  # fmt: skip


def recipe() -> TrainConfig:
    """Language base, shallow alignment (language frozen), deep alignment, instruction tuning.

    The paper starts from language models; a random model needs a text stage first.
    """
    alignment_rates = LearningRates(LEARNING_RATE, LEARNING_RATE)
    return TrainConfig(
        name="quickstart",
        model=TinyModel(),
        stages=(
            stage("base", "text", 200, LearningRates(language=LEARNING_RATE)),
            stage("shallow", "captions", 150, alignment_rates),
            stage("deep", "captions", 300, FULL_RATES),
            stage("instruct", "instruct", 650, FULL_RATES),
        ),
        data=dict.fromkeys(SIZES),
        pixels=PixelBudget(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE),
        threads=1,  # more are slower for tensors this small
        save_every=250,
    )
