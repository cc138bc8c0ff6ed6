"""A small Qwen2.5-VL trained from scratch on your own questions about images (JSONL and a folder).

Expected (docs/benchmarks.md): better than chance on 28-pixel chest X-rays; on VQA-RAD little more
than the majority answer, since a model without any other language data cannot learn medicine from
1,000 questions.
"""

from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.train.config import LearningRates, Stage, TrainConfig

SIDE = 84  # pixels


def recipe() -> TrainConfig:
    """One stage; give data.train=FOLDER (rows.jsonl and images, or a DATASET)."""
    return TrainConfig(
        name="small_vqa",
        model=TinyModel(vocab_size=1024),
        stages=(
            Stage(
                name="instruct",
                data=("train",),
                learning_rates=LearningRates(5e-4, 5e-4, 5e-4),
                epochs=12.0,
                batch=16,
                micro_batch=16,
                warmup_steps=30,
                min_lr_ratio=0.02,
                weight_decay=0.05,
                betas=(0.9, 0.98),
                max_tokens=512,
            ),
        ),
        data={"train": None},
        pixels=PixelBudget(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE),
        threads=1,
        save_every=100,
    )
