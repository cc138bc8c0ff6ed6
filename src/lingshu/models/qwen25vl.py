"""The Qwen2.5-VL family (Lingshu-7B, Lingshu-32B): one token per 28 x 28 pixels, M-RoPE positions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import BadImage
from lingshu.models.family import Family, Tiles, Tower, normalised
from lingshu.models.spec import PixelBudget

# Ids of the released vocabulary follow this order.
_VISION = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
_PLACES = ("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end")
SPECIAL = tuple(f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", *_PLACES, *_VISION))
IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"

# Same text as the family's released template gives for text and images, written anew: ChatML, a
# default system turn.
TEMPLATE = (
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


def image_processor(budget: PixelBudget, side: int) -> Any:  # noqa: ARG001 - the input side is free in this family
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(min_pixels=budget.min_pixels, max_pixels=budget.max_pixels)


def with_budget(processor: Any, budget: PixelBudget) -> Any:
    changed = copy.deepcopy(processor)
    changed.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
    return changed


def budget_of(processor: Any) -> PixelBudget:
    return PixelBudget(
        min_pixels=processor.size["shortest_edge"], max_pixels=processor.size["longest_edge"]
    )


def prepare(processor: Any, image: PIL.Image, images: int, budget: PixelBudget) -> Tiles:
    """Scale one of `images` images of a sample to whole tokens within the budget.

    Raises:
        BadImage: an aspect ratio above 200, which the family's resizing refuses.
    """
    from transformers.image_utils import SizeDict

    factor = processor.patch_size * processor.merge_size
    size = SizeDict(shortest_edge=budget.min_pixels, longest_edge=budget.shared_by(images))
    planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    try:
        scaled = processor.resize(planes, size=size, resample=processor.resample, factor=factor)
    except ValueError as error:
        raise BadImage(
            f"an image of {image.width} x {image.height} pixels has an aspect ratio above 200;"
            " crop it."
        ) from error
    rows, columns = scaled.shape[1] // processor.patch_size, scaled.shape[2] // processor.patch_size
    return Tiles(
        scaled[None].astype(np.uint8), rows * columns // processor.merge_size**2, (1, rows, columns)
    )


def features(processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
    """Model inputs: pixel_values (patches x 1176, float32) and image_grid_thw (images x 3)."""
    patches = [
        processor.patchify(
            normalised(processor, t.pixels[0]),
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
    out = np.empty((3, len(is_image)), np.int64)
    at = position = 0
    for tile in tiles:
        start = at + int(np.argmax(is_image[at:]))
        out[:, at:start] = np.arange(position, position + start - at)
        position += start - at
        assert tile.grid is not None
        height, width = tile.grid[1] // 2, tile.grid[2] // 2
        stop = start + height * width
        out[0, start:stop] = position
        out[1, start:stop] = position + np.repeat(np.arange(height), width)
        out[2, start:stop] = position + np.tile(np.arange(width), height)
        position, at = position + max(height, width), stop
    out[:, at:] = np.arange(position, position + len(is_image) - at)
    return out


def token_ids(id_of: Callable[[str], int]) -> dict[str, int]:
    """The token ids that the model's configuration names."""
    return {
        "image_token_id": id_of(IMAGE),
        "video_token_id": id_of(VIDEO),
        "vision_start_token_id": id_of(START),
        "vision_end_token_id": id_of(END),
    }


def tower(config: Any) -> Tower:
    vision = config.vision_config
    everywhere = len(vision.fullatt_block_indexes)
    window = (vision.window_size // vision.patch_size) ** 2
    return Tower(
        vision.hidden_size,
        everywhere,
        vision.depth - everywhere,
        window,
        vision.spatial_merge_size**2,
        None,
    )


QWEN25VL = Family(
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
    image_token=IMAGE,
    special_tokens=SPECIAL,
    named_tokens={},
    never_sampled=(IMAGE, VIDEO, START, END, "<|vision_pad|>"),
    chat_template=TEMPLATE,
    prepare=prepare,
    features=features,
    expand=lambda tokens: IMAGE * tokens,
    positions=positions,
    image_processor=image_processor,
    budget_of=budget_of,
    token_ids=token_ids,
    processor_settings=lambda _: {},
    with_budget=with_budget,
    tower=tower,
)
