"""The Qwen2.5-VL family (Lingshu-7B, Lingshu-32B): a token per 28 x 28 pixels, M-RoPE positions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import ImageError
from lingshu.models.base import (
    QWEN2_SPECIAL_TOKENS,
    QWEN2_VISION_TOKENS,
    Tiles,
    VisionLanguageFamily,
    VisionTowerSpec,
    normalize_pixels,
)
from lingshu.models.model_spec import PixelBudget, TinyModel

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<|vision_start|>", "<|vision_end|>"

# Renders text and images as the family's released template does, written independently: ChatML, a
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


class Qwen25VL(VisionLanguageFamily):
    model_type = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"
    image_processor_type = "Qwen2VLImageProcessor"
    video_processor_type = "Qwen2VLVideoProcessor"
    parts: ClassVar = {
        "vision": ("model.visual.",),
        "projector": ("model.visual.merger.",),
        "language": ("model.language_model.", "lm_head."),
    }
    blocks = ("model.visual.blocks", "model.language_model.layers")
    image_token = IMAGE_TOKEN
    special_tokens = QWEN2_SPECIAL_TOKENS
    never_sampled = QWEN2_VISION_TOKENS
    chat_template = CHAT_TEMPLATE
    has_mrope = True

    def image_processor(self, budget: PixelBudget, image_size: int) -> Any:  # noqa: ARG002
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module

        return module.Qwen2VLImageProcessorPil(
            min_pixels=budget.min_pixels, max_pixels=budget.max_pixels
        )

    def with_budget(self, processor: Any, budget: PixelBudget) -> Any:
        updated = copy.deepcopy(processor)
        updated.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
        return updated

    def read_budget(self, processor: Any) -> PixelBudget:
        size = processor.size
        return PixelBudget(min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])

    def prepare(
        self, processor: Any, image: PIL.Image, n_images: int, budget: PixelBudget
    ) -> Tiles:
        """Scale an image to whole tokens within the budget.

        Raises:
            ImageError: an aspect ratio above 200, which the family's resizing refuses.
        """
        from transformers.image_utils import SizeDict

        patch, merge = processor.patch_size, processor.merge_size
        size = SizeDict(
            shortest_edge=budget.min_pixels, longest_edge=budget.max_pixels_per_image(n_images)
        )
        planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        try:
            resized = processor.resize(
                planes, size=size, resample=processor.resample, factor=patch * merge
            )
        except ValueError as error:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels has an aspect ratio above 200;"
                " crop it."
            ) from error
        rows, columns = resized.shape[1] // patch, resized.shape[2] // patch
        return Tiles(resized[None].astype(np.uint8), rows * columns // merge**2, (1, rows, columns))

    def features(self, processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
        """pixel_values (patches x 1176, float32) and image_grid_thw (images x 3)."""
        patches = [
            processor.patchify(
                normalize_pixels(processor, t.pixels[0]),
                processor.patch_size,
                processor.merge_size,
                processor.temporal_patch_size,
            )[0]
            for t in tiles
        ]
        grids = np.array([t.grid for t in tiles], np.int64)
        return {"pixel_values": np.concatenate(patches), "image_grid_thw": grids}

    def expand(self, tokens: int) -> str:
        return IMAGE_TOKEN * tokens

    def positions(self, is_image: NDArray[np.bool_], tiles: Sequence[Tiles]) -> NDArray[np.int64]:
        """M-RoPE positions, 3 (time, height, width) x tokens, of one sample.

        Text counts up in all three rows; an image starts at the next position, keeps its time,
        spreads height and width over its merged grid, and text continues after the largest of them
        (Qwen2-VL, arXiv 2409.12191, section 2.1).
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

    def token_ids(self, token_to_id: Callable[[str], int]) -> dict[str, int]:
        return {
            "image_token_id": token_to_id(IMAGE_TOKEN),
            "video_token_id": token_to_id(VIDEO_TOKEN),
            "vision_start_token_id": token_to_id(IMAGE_START_TOKEN),
            "vision_end_token_id": token_to_id(IMAGE_END_TOKEN),
        }

    def tower(self, config: Any) -> VisionTowerSpec:
        vision = config.vision_config
        n_full = len(vision.fullatt_block_indexes)
        return VisionTowerSpec(
            vision.hidden_size,
            full_attention_blocks=n_full,
            window_attention_blocks=vision.depth - n_full,
            window_patches=(vision.window_size // vision.patch_size) ** 2,
            patches_per_token=vision.spatial_merge_size**2,
            tile_tokens=None,
        )

    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        from transformers import Qwen2_5_VLConfig

        half_head_dim = spec.hidden // spec.heads // 2
        # the released split 16 : 24 : 24 in small; the three must sum to half a head
        spatial = 3 * half_head_dim // 8
        rope = {
            "rope_type": "default",
            "mrope_section": [half_head_dim - 2 * spatial, spatial, spatial],
            "rope_theta": 10000.0,
        }
        vision = {
            "hidden_size": spec.vision_hidden,
            "intermediate_size": 2 * spec.vision_hidden,
            "depth": spec.vision_layers,
            "num_heads": spec.vision_heads,
            "out_hidden_size": spec.hidden,
            "window_size": 112,
            "fullatt_block_indexes": [spec.vision_layers - 1],
        }
        return Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope, "tie_word_embeddings": True},
            vision_config=vision,
            tie_word_embeddings=True,
            **ids,
        )


FAMILY = Qwen25VL()
