"""Lingshu-7B on one GPU: LoRA on the language model, vision and projector frozen, on your own
questions and answers.

Expected: a fine-tune of lingshu-medical-mllm/Lingshu-7B on a hospital's own data within 80 GB; not
run here. Values: rank 64 and alpha 128 on every linear layer of the language model, rate 1e-4 with
3% of a small run as warm-up; common practice for models of this size (the LoRA paper, arXiv
2106.09685, tunes fewer layers at lower ranks). Activations are recomputed in the backward pass;
together with the float32 weights they would not fit.
"""

from lingshu.models.model_spec import PixelBudget
from lingshu.train.config import LearningRates, Lora, Sharding, Stage, TrainConfig


def recipe() -> TrainConfig:
    """One packed stage over data group `train`; give it with data.train=FOLDER."""
    return TrainConfig(
        name="lora_7b",
        model="lingshu-medical-mllm/Lingshu-7B",
        stages=(
            Stage(
                name="lora",
                data=("train",),
                learning_rates=LearningRates(language=1e-4),
                epochs=2.0,
                batch=16,
                warmup_steps=30,
                max_tokens=4096,
                packing=True,
                lora=Lora(rank=64, alpha=128),
            ),
        ),
        data={"train": None},
        pixels=PixelBudget(max_pixels=1280 * 28 * 28),
        sharding=Sharding(activation_checkpointing=True),
        save_every=100,
    )
