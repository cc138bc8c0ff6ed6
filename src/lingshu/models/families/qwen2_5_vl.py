"""The Qwen2.5-VL family (Lingshu-7B, Lingshu-32B): a token per 28 x 28 pixels, M-RoPE positions."""

from __future__ import annotations

from typing import Any

from lingshu.models.base import VisionTowerSpec, chatml_template
from lingshu.models.families._qwen_vl import (
    IMAGE_MARKUP,
    QwenVL,
    tiny_mrope_section,
    tiny_vision_config,
)
from lingshu.models.model_spec import TinyModel


class Qwen25VL(QwenVL):
    model_type = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"
    video_processor_type = "Qwen2VLVideoProcessor"
    # Renders text and images as the family's released template does, written independently.
    chat_template = chatml_template(IMAGE_MARKUP, default_system="You are a helpful assistant.")

    def tower(self, config: Any) -> VisionTowerSpec:
        vision = config.vision_config
        n_full = len(vision.fullatt_block_indexes)
        return VisionTowerSpec(
            vision.hidden_size,
            full_attention_blocks=n_full,
            window_attention_blocks=vision.depth - n_full,
            window_patches=(vision.window_size // vision.patch_size) ** 2,
            patches_per_token=vision.spatial_merge_size**2,
            pixels_per_token=(vision.patch_size * vision.spatial_merge_size) ** 2,
            tile_tokens=None,
        )

    def tower_inputs(self, tower: Any, grid: Any) -> tuple[dict[str, Any], list[list[int]]]:
        from transformers.vision_utils import get_vision_window_index

        derived, bounds = super().tower_inputs(tower, grid)
        derived["window_index"], windows = get_vision_window_index(
            grid,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        return derived, [*bounds, windows.diff().tolist()]

    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        from transformers import Qwen2_5_VLConfig

        rope = {
            "rope_type": "default",
            "mrope_section": tiny_mrope_section(spec),
            "rope_theta": 10000.0,
        }
        vision = {"window_size": 112, "fullatt_block_indexes": [spec.vision_layers - 1]}
        return Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope, "tie_word_embeddings": True},
            vision_config={**tiny_vision_config(spec), **vision},
            tie_word_embeddings=True,
            **ids,
        )


FAMILY = Qwen25VL()
