"""The InternVL3 family (Lingshu-I-8B): square tiles of a fixed number of tokens, ordinary
positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.models.base import ModelFamily, Tiles, VisionTowerSpec, normalize_pixels
from lingshu.models.families.qwen2_5_vl import SPECIAL_TOKENS as QWEN_SPECIAL_TOKENS
from lingshu.models.model_spec import PixelBudget

IMAGE_TOKEN, VIDEO_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN = (
    "<IMG_CONTEXT>",
    "<video>",
    "<img>",
    "</img>",
)
PIXELS_PER_TOKEN = 28 * 28  # 14-pixel patches, merged 2 x 2 by pixel unshuffle
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# ChatML as the family's transformers checkpoints use it: no system turn of its own, an image on a
# line of its own.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def image_processor(budget: PixelBudget, image_size: int) -> Any:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(
        size={"height": image_size, "width": image_size},
        crop_to_patches=budget.max_tiles > 1,
        min_patches=1,
        max_patches=budget.max_tiles,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


def with_budget(processor: Any, budget: PixelBudget) -> Any:
    updated = copy.deepcopy(processor)
    updated.crop_to_patches, updated.max_patches = budget.max_tiles > 1, budget.max_tiles
    return updated


def read_budget(processor: Any) -> PixelBudget:
    return PixelBudget(max_tiles=processor.max_patches if processor.crop_to_patches else 1)


def tokens_per_tile(processor: Any) -> int:
    return processor.size["height"] * processor.size["width"] // PIXELS_PER_TOKEN


def prepare(processor: Any, image: PIL.Image, n_images: int, budget: PixelBudget) -> Tiles:  # noqa: ARG001 - tiles are counted per image
    """Cut an image into tiles (and a thumbnail when there is more than one), or scale it to a
    single tile.
    """
    planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if budget.max_tiles > 1:
        tiles = processor.crop_image_to_patches(
            planes, 1, budget.max_tiles, patch_size=processor.size, resample=processor.resample
        )
    else:
        tiles = [processor.resize(planes, processor.size, processor.resample)]
    return Tiles(np.stack(tiles).astype(np.uint8), len(tiles) * tokens_per_tile(processor), None)


def features(processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
    """Model inputs: pixel_values (tiles x 3 x side x side, float32)."""
    return {"pixel_values": normalize_pixels(processor, np.concatenate([t.pixels for t in tiles]))}


def token_ids(token_to_id: Callable[[str], int]) -> dict[str, int]:
    return {"image_token_id": token_to_id(IMAGE_TOKEN)}


def tower(config: Any) -> VisionTowerSpec:
    vision = config.vision_config
    return VisionTowerSpec(
        vision.hidden_size,
        vision.num_hidden_layers,
        0,
        0,
        round(config.downsample_ratio**-2),
        config.image_seq_length,
    )


INTERNVL3 = ModelFamily(
    name="internvl",
    model_class="InternVLForConditionalGeneration",
    processor_class="InternVLProcessor",
    image_processor_type="GotOcr2ImageProcessor",
    video_processor_type="InternVLVideoProcessor",
    parts={
        "vision": ("model.vision_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language": ("model.language_model.", "lm_head."),
    },
    blocks=("model.vision_tower.encoder.layer", "model.language_model.layers"),
    image_token=IMAGE_TOKEN,
    special_tokens=(
        *QWEN_SPECIAL_TOKENS,
        IMAGE_START_TOKEN,
        IMAGE_END_TOKEN,
        IMAGE_TOKEN,
        VIDEO_TOKEN,
    ),
    named_tokens={
        "start_image_token": IMAGE_START_TOKEN,
        "end_image_token": IMAGE_END_TOKEN,
        "context_image_token": IMAGE_TOKEN,
        "video_token": VIDEO_TOKEN,
    },
    never_sampled=(
        IMAGE_TOKEN,
        VIDEO_TOKEN,
        IMAGE_START_TOKEN,
        IMAGE_END_TOKEN,
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ),
    chat_template=CHAT_TEMPLATE,
    prepare=prepare,
    features=features,
    expand=lambda tokens: IMAGE_START_TOKEN + IMAGE_TOKEN * tokens + IMAGE_END_TOKEN,
    positions=None,
    image_processor=image_processor,
    read_budget=read_budget,
    token_ids=token_ids,
    with_budget=with_budget,
    tower=tower,
    processor_settings=lambda processor: {"image_seq_length": tokens_per_tile(processor)},
)
