"""What Qwen2.5-VL and Qwen3-VL share: images of any size, one token per merged patches, M-RoPE."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import ArtifactError, ImageError
from lingshu.models.base import (
    QWEN2_SPECIAL_TOKENS,
    QWEN2_VISION_TOKENS,
    Tiles,
    VisionLanguageFamily,
    normalize_pixels,
)
from lingshu.models.model_spec import PixelBudget, TinyModel

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<|vision_start|>", "<|vision_end|>"
IMAGE_MARKUP = IMAGE_START_TOKEN + IMAGE_TOKEN + IMAGE_END_TOKEN


class QwenVL(VisionLanguageFamily):
    image_processor_type = "Qwen2VLImageProcessor"
    parts: ClassVar = {
        "vision": ("model.visual.",),
        # Qwen3-VL's towers also hand features of inner layers to the language model.
        "projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
        "language": ("model.language_model.", "lm_head."),
    }
    blocks = ("model.visual.blocks", "model.language_model.layers")
    image_token = IMAGE_TOKEN
    special_tokens = QWEN2_SPECIAL_TOKENS
    never_sampled = QWEN2_VISION_TOKENS
    has_mrope = True
    token_type_input = "mm_token_type_ids"
    # Settings of the image processor besides its budget, where the stock defaults are not those of
    # the family.
    image_settings: ClassVar[dict[str, Any]] = {}

    def image_processor(self, budget: PixelBudget, image_size: int) -> Any:  # noqa: ARG002
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module

        return module.Qwen2VLImageProcessorPil(
            min_pixels=budget.min_pixels, max_pixels=budget.max_pixels, **self.image_settings
        )

    def with_budget(self, processor: Any, budget: PixelBudget) -> Any:
        updated = copy.deepcopy(processor)
        updated.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
        return updated

    def read_budget(self, processor: Any) -> PixelBudget:
        size = processor.size
        return PixelBudget(min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])

    def match_config(self, processor: Any, config: Any) -> None:
        vision = config.vision_config
        for name in ("patch_size", "spatial_merge_size", "temporal_patch_size"):
            found = getattr(processor, name.removeprefix("spatial_"))
            if found != getattr(vision, name):
                raise ArtifactError(
                    f"the preprocessor's {name.removeprefix('spatial_')} is {found} and the model's"
                    f" {name} is {getattr(vision, name)} (config.json); copy the files of one model."
                )

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
        """pixel_values (patches x values of a doubled patch, float32) and image_grid_thw (images x
        3).
        """
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

    def tower_inputs(self, tower: Any, grid: Any) -> tuple[dict[str, Any], list[list[int]]]:
        from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

        positions = get_vision_position_ids(grid, tower.spatial_merge_size)
        return {"position_ids": positions}, [get_vision_cu_seqlens(grid).diff().tolist()]

    def expand(self, tiles: Tiles) -> str:
        return IMAGE_TOKEN * tiles.tokens

    def positions(self, is_image: NDArray[np.bool_], tiles: Sequence[Tiles]) -> NDArray[np.int64]:
        """M-RoPE positions, 3 (time, height, width) x tokens, of one sample.

        Text counts up in all three rows; an image starts at the next position, keeps its time,
        spreads height and width over its merged grid, and text continues after the largest of them
        (Qwen2-VL, arXiv 2409.12191, section 2.1). How the three share the rotary frequencies, in
        sections or interleaved, is the model's own affair.
        """
        position_ids = np.empty((3, len(is_image)), np.int64)
        offset = position = 0
        for tile in tiles:
            start = offset + int(np.argmax(is_image[offset:]))
            position_ids[:, offset:start] = np.arange(position, position + start - offset)
            position += start - offset
            assert tile.grid is not None
            _, rows, columns = tile.grid
            merge = math.isqrt(rows * columns // tile.tokens)
            height, width = rows // merge, columns // merge
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


def tiny_mrope_section(spec: TinyModel) -> list[int]:
    """The released split 16 : 24 : 24 of the rotary frequencies in small: half a head in all."""
    half_head_dim = spec.hidden // spec.heads // 2
    spatial = 3 * half_head_dim // 8
    return [half_head_dim - 2 * spatial, spatial, spatial]


def tiny_vision_config(spec: TinyModel) -> dict[str, Any]:
    return {
        "hidden_size": spec.vision_hidden,
        "intermediate_size": 2 * spec.vision_hidden,
        "depth": spec.vision_layers,
        "num_heads": spec.vision_heads,
        "out_hidden_size": spec.hidden,
    }
