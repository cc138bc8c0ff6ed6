"""Lingshu on a small budget: no alignment stages, medical text with chains of thought first, then
images and text.

Expected: unknown, not run here; a twentieth of Lingshu-7B's tokens, spent where the paper's
ablation saw the largest gains. Why this order: in that ablation (arXiv 2506.07044, table 10) both
alignment stages with their 4.8 M samples brought 0.7 points on average, and 173 K samples of
medical text 1.7, of which 1.2 by 162 K chains of thought. A warning: supervised on text chains of
thought alone, Qwen2.5-VL-7B fell from 53.5 to 43.8 in a later work (arXiv 2508.02669), so compare
the checkpoint of stage `text` with its start before you pay for the second stage. Rates, length and
packing are those of the paper's third stage, see lingshu_7b. Values chosen here:
- a quarter of the paper's 2.7 M medical multimodal samples: its data scaling (figure 10) is steep
  up to there and flattens after it
- every text sample is seen twice, as in the paper's two epochs: alone in stage `text`, then mixed
  with images, so that the second stage does not forget the first; image samples are seen once
- batch 64 for 256, and 20 steps of warm-up in stage `text`: at 500 tokens a sample the text fills
  some 10,000 packed sequences; batches of 256 would use them up before the paper's 100 steps of
  warm-up are over
- vision and projector are frozen in stage `text`, where they get no gradient
"""

from lingshu.models.model_spec import PixelBudget
from lingshu.train.config import LearningRates, Sharding, Stage, TrainConfig

EXPECTED = {"medical_text": 173_000, "medical_multimodal": 675_000}
BATCH = 64


def recipe() -> TrainConfig:
    """Two packed stages; give the data groups `medical_text` and `medical_multimodal`."""
    return TrainConfig(
        name="stage3_first",
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        stages=(
            Stage(
                "text",
                ("medical_text",),
                LearningRates(language=1e-5),
                batch=BATCH,
                packing=True,
                warmup_steps=20,
            ),
            Stage(
                "instruct",
                ("medical_text", "medical_multimodal"),
                LearningRates(vision=2e-6, projector=1e-5, language=1e-5),
                batch=BATCH,
                packing=True,
            ),
        ),
        data=dict.fromkeys(EXPECTED),
        expected=EXPECTED,
        pixels=PixelBudget(max_pixels=1280 * 28 * 28),
        sharding=Sharding(activation_checkpointing=True),
        save_every=100,
    )
