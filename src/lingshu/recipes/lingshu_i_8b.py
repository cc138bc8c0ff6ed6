"""Lingshu-I-8B: the three stages of Lingshu-7B on InternVL3-8B, by "the same training pipeline" as
its model card says.

Expected: the published Lingshu-I-8B row, 64.5 on average over seven multimodal benchmarks; not run
here. Two points that the sources leave open, and what is used here:
- the vision tower is trained as in Lingshu-7B, although InternVL's own fine-tuning freezes it
- one tile of 448 x 448 pixels an image, as the released checkpoint's processor is saved
  (`crop_to_patches: false`); pixels.max_tiles=12 gives InternVL's usual tiling
"""

from dataclasses import replace

from lingshu.models.model_spec import PixelBudget
from lingshu.recipes import lingshu_7b
from lingshu.train.config import TrainConfig


def recipe() -> TrainConfig:
    """Three stages; give the data groups `alignment`, `captions` and `instruct`."""
    return replace(
        lingshu_7b.recipe(),
        name="lingshu_i_8b",
        model="OpenGVLab/InternVL3-8B-hf",
        pixels=PixelBudget(max_tiles=1),
    )
