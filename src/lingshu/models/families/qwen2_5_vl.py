"""The Qwen2.5-VL family (Lingshu-7B, Lingshu-32B): one token per 28 x 28 pixels, M-RoPE positions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import ImageError
from lingshu.models.base import ModelFamily, Tiles, VisionTowerSpec, normalize_pixels
from lingshu.models.model_spec import PixelBudget

# Ids of the released vocabulary follow this order.
_VISION_TOKENS = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
_GROUNDING_TOKENS = (
    "object_ref_start",
    "object_ref_end",
    "box_start",
    "box_end",
    "quad_start",
    "quad_end",
)
SPECIAL_TOKENS = tuple(
    f"<|{name}|>"
    for name in ("endoftext", "im_start", "im_end", *_GROUNDING_TOKENS, *_VISION_TOKENS)
)
IMAGE_TOKEN, VIDEO_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)

# Same text as the family's released template gives for text and images, written anew: ChatML, a
# default system turn.
CHAT_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def image_processor(budget: PixelBudget, image_size: int) -> Any:  # noqa: ARG001 - the input side is free in this family
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(min_pixels=budget.min_pixels, max_pixels=budget.max_pixels)


def with_budget(processor: Any, budget: PixelBudget) -> Any:
    updated = copy.deepcopy(processor)
    updated.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
    return updated


def read_budget(processor: Any) -> PixelBudget:
    return PixelBudget(
        min_pixels=processor.size["shortest_edge"], max_pixels=processor.size["longest_edge"]
    )


def prepare(processor: Any, image: PIL.Image, n_images: int, budget: PixelBudget) -> Tiles:
    """Scale one of `images` images of a sample to whole tokens within the budget.

    Raises:
        BadImage: an aspect ratio above 200, which the family's resizing refuses.
    """
    from transformers.image_utils import SizeDict

    factor = processor.patch_size * processor.merge_size
    size = SizeDict(
        shortest_edge=budget.min_pixels, longest_edge=budget.max_pixels_per_image(n_images)
    )
    planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    try:
        resized = processor.resize(planes, size=size, resample=processor.resample, factor=factor)
    except ValueError as error:
        raise ImageError(
            f"an image of {image.width} x {image.height} pixels has an aspect ratio above 200;"
            " crop it."
        ) from error
    rows, columns = (
        resized.shape[1] // processor.patch_size,
        resized.shape[2] // processor.patch_size,
    )
    return Tiles(
        resized[None].astype(np.uint8),
        rows * columns // processor.merge_size**2,
        (1, rows, columns),
    )


def features(processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
    """Model inputs: pixel_values (patches x 1176, float32) and image_grid_thw (images x 3)."""
    patches = [
        processor.patchify(
            normalize_pixels(processor, t.pixels[0]),
            processor.patch_size,
            processor.merge_size,
            processor.temporal_patch_size,
        )[0]
        for t in tiles
    ]
    return {
        "pixel_values": np.concatenate(patches),
        "image_grid_thw": np.array([t.grid for t in tiles], np.int64),
    }


def positions(is_image: NDArray[np.bool_], tiles: Sequence[Tiles]) -> NDArray[np.int64]:
    """M-RoPE positions, 3 (time, height, width) x tokens, of one sample.

    Text counts up in all three rows; an image starts at the next position, holds its time, spreads
    height and width over its merged grid, and text goes on behind the largest of them (Qwen2-VL,
    arXiv 2409.12191, section 2.1).
    """
    position_ids = np.empty((3, len(is_image)), np.int64)
    offset = position = 0
    for tile in tiles:
        start = offset + int(np.argmax(is_image[offset:]))
        position_ids[:, offset:start] = np.arange(position, position + start - offset)
        position += start - offset
        assert tile.grid is not None
        height, width = tile.grid[1] // 2, tile.grid[2] // 2
        stop = start + height * width
        position_ids[0, start:stop] = position
        position_ids[1, start:stop] = position + np.repeat(np.arange(height), width)
        position_ids[2, start:stop] = position + np.tile(np.arange(width), height)
        position, offset = position + max(height, width), stop
    position_ids[:, offset:] = np.arange(position, position + len(is_image) - offset)
    return position_ids


def token_ids(token_to_id: Callable[[str], int]) -> dict[str, int]:
    """The token ids that the model's configuration names."""
    return {
        "image_token_id": token_to_id(IMAGE_TOKEN),
        "video_token_id": token_to_id(VIDEO_TOKEN),
        "vision_start_token_id": token_to_id(IMAGE_START_TOKEN),
        "vision_end_token_id": token_to_id(IMAGE_END_TOKEN),
    }


def tower(config: Any) -> VisionTowerSpec:
    vision = config.vision_config
    full_attention_blocks = len(vision.fullatt_block_indexes)
    window_patches = (vision.window_size // vision.patch_size) ** 2
    return VisionTowerSpec(
        vision.hidden_size,
        full_attention_blocks,
        vision.depth - full_attention_blocks,
        window_patches,
        vision.spatial_merge_size**2,
        None,
    )


QWEN25VL = ModelFamily(
    name="qwen2_5_vl",
    model_class="Qwen2_5_VLForConditionalGeneration",
    processor_class="Qwen2_5_VLProcessor",
    image_processor_type="Qwen2VLImageProcessor",
    video_processor_type="Qwen2VLVideoProcessor",
    parts={
        "vision": ("model.visual.",),
        "projector": ("model.visual.merger.",),
        "language": ("model.language_model.", "lm_head."),
    },
    blocks=("model.visual.blocks", "model.language_model.layers"),
    image_token=IMAGE_TOKEN,
    special_tokens=SPECIAL_TOKENS,
    named_tokens={},
    never_sampled=(IMAGE_TOKEN, VIDEO_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN, "<|vision_pad|>"),
    chat_template=CHAT_TEMPLATE,
    prepare=prepare,
    features=features,
    expand=lambda tokens: IMAGE_TOKEN * tokens,
    positions=positions,
    image_processor=image_processor,
    read_budget=read_budget,
    token_ids=token_ids,
    processor_settings=lambda _: {},
    with_budget=with_budget,
    tower=tower,
)
