"""The InternVL3 and InternVL3.5 families (Lingshu-I-8B): tiles of 448 x 448 pixels, ChatML.

The language model is Qwen2 (InternVL3), Qwen3 (InternVL3.5) or Llama; mixtures of experts are not
among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lingshu.models.base import (
    QWEN2_SPECIAL_TOKENS,
    QWEN2_VISION_TOKENS,
    Tiles,
    VisionTowerSpec,
    chatml_template,
)
from lingshu.models.families._square_tiles import SquareTiles, tiny_tile_tokens
from lingshu.models.model_spec import PixelBudget, TinyModel

IMAGE_TOKEN, VIDEO_TOKEN = "<IMG_CONTEXT>", "<video>"
IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<img>", "</img>"
IMAGE_TOKENS = (IMAGE_START_TOKEN, IMAGE_END_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN)
PIXELS_PER_TOKEN = 28 * 28  # 14-pixel patches, merged 2 x 2 by pixel unshuffle
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class InternVL(SquareTiles):
    model_type = "internvl"
    model_class = "InternVLForConditionalGeneration"
    text_model_types = ("qwen2", "qwen3", "llama")
    processor_class = "InternVLProcessor"
    image_processor_type = "GotOcr2ImageProcessor"
    video_processor_type = "InternVLVideoProcessor"
    parts: ClassVar = {
        "vision": ("model.vision_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language": ("model.language_model.", "lm_head."),
    }
    blocks = ("model.vision_tower.encoder.layer", "model.language_model.layers")
    image_token = IMAGE_TOKEN
    special_tokens = (*QWEN2_SPECIAL_TOKENS, *IMAGE_TOKENS)
    named_tokens: ClassVar = {
        "start_image_token": IMAGE_START_TOKEN,
        "end_image_token": IMAGE_END_TOKEN,
        "context_image_token": IMAGE_TOKEN,
        "video_token": VIDEO_TOKEN,
    }
    never_sampled = (*IMAGE_TOKENS, *QWEN2_VISION_TOKENS)
    # As the family's transformers checkpoints: no default system turn, each image on its own line.
    chat_template = chatml_template(IMAGE_TOKEN + "\\n")

    def image_processor(self, budget: PixelBudget, image_size: int) -> Any:
        from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as module

        return module.GotOcr2ImageProcessorPil(
            size={"height": image_size, "width": image_size},
            crop_to_patches=budget.max_tiles > 1,
            min_patches=1,
            max_patches=budget.max_tiles,
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
        )

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        processor.crop_to_patches, processor.max_patches = max_tiles > 1, max_tiles

    def read_budget(self, processor: Any) -> PixelBudget:
        return PixelBudget(max_tiles=processor.max_patches if processor.crop_to_patches else 1)

    def cut(
        self, processor: Any, planes: NDArray[np.uint8], max_tiles: int
    ) -> Sequence[NDArray[np.uint8]]:
        return processor.crop_image_to_patches(
            planes, 1, max_tiles, patch_size=processor.size, resample=processor.resample
        )

    def tokens_per_tile(self, processor: Any) -> int:
        return processor.size["height"] * processor.size["width"] // PIXELS_PER_TOKEN

    def expand(self, tiles: Tiles) -> str:
        return IMAGE_START_TOKEN + IMAGE_TOKEN * tiles.tokens + IMAGE_END_TOKEN

    def token_ids(self, token_to_id: Callable[[str], int]) -> dict[str, int]:
        return {"image_token_id": token_to_id(IMAGE_TOKEN)}

    def tower(self, config: Any) -> VisionTowerSpec:
        return VisionTowerSpec(
            config.vision_config.hidden_size,
            full_attention_blocks=config.vision_config.num_hidden_layers,
            window_attention_blocks=0,
            window_patches=0,
            patches_per_token=round(config.downsample_ratio**-2),
            pixels_per_token=PIXELS_PER_TOKEN,
            tile_tokens=config.image_seq_length,
        )

    def processor_settings(self, processor: Any) -> dict[str, int]:
        return {"image_seq_length": self.tokens_per_tile(processor)}

    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        from transformers import InternVLConfig

        vision = {
            "hidden_size": spec.vision_hidden,
            "intermediate_size": 2 * spec.vision_hidden,
            "num_hidden_layers": spec.vision_layers,
            "num_attention_heads": spec.vision_heads,
            "image_size": [spec.image_size, spec.image_size],
            "patch_size": [14, 14],
        }
        return InternVLConfig(
            text_config={"model_type": "qwen2", "tie_word_embeddings": True, **text},
            vision_config=vision,
            image_seq_length=tiny_tile_tokens(spec),
            tie_word_embeddings=True,
            **ids,
        )


FAMILY = InternVL()
