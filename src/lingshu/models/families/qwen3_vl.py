"""The Qwen3-VL family: a token per 32 x 32 pixels, interleaved M-RoPE, features of inner layers.

Dense models only: the mixture of experts is another `model_type` (qwen3_vl_moe).
"""

from __future__ import annotations

from typing import Any, ClassVar

from lingshu.models.base import VisionTowerSpec, chatml_template
from lingshu.models.families._qwen_vl import (
    IMAGE_MARKUP,
    QwenVL,
    tiny_mrope_section,
    tiny_vision_config,
)
from lingshu.models.model_spec import TinyModel


class Qwen3VL(QwenVL):
    model_type = "qwen3_vl"
    model_class = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"
    video_processor_type = "Qwen3VLVideoProcessor"
    # The released template has no default system turn.
    chat_template = chatml_template(IMAGE_MARKUP)
    image_settings: ClassVar = {
        "patch_size": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }

    def tower(self, config: Any) -> VisionTowerSpec:
        vision = config.vision_config
        return VisionTowerSpec(
            vision.hidden_size,
            full_attention_blocks=vision.depth,
            window_attention_blocks=0,
            window_patches=0,
            patches_per_token=vision.spatial_merge_size**2,
            pixels_per_token=(vision.patch_size * vision.spatial_merge_size) ** 2,
            tile_tokens=None,
        )

    def tower_inputs(self, tower: Any, grid: Any) -> tuple[dict[str, Any], list[list[int]]]:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        derived, bounds = super().tower_inputs(tower, grid)
        derived["interp_indices"], derived["interp_weights"] = (
            get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=tower.config.spatial_merge_size,
            )
        )
        return derived, bounds

    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        from transformers import Qwen3VLConfig

        rope = {
            "rope_type": "default",
            "mrope_section": tiny_mrope_section(spec),
            "mrope_interleaved": True,
            "rope_theta": 10000.0,
        }
        # One inner layer feeds the language model besides the last one.
        vision = {
            "patch_size": self.image_settings["patch_size"],
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }
        return Qwen3VLConfig(
            text_config={
                **text,
                "head_dim": spec.hidden // spec.heads,
                "rope_parameters": rope,
                "tie_word_embeddings": True,
            },
            vision_config={**tiny_vision_config(spec), **vision},
            tie_word_embeddings=True,
            **ids,
        )


FAMILY = Qwen3VL()
