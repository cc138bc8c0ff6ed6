"""The Gemma 3 family (MedGemma): 256 tokens for an image, which see each other in both directions.

An image is scaled to 896 x 896 pixels whatever its shape; with more than one tile, an elongated one
is cut as well ("pan and scan", Gemma 3 technical report, arXiv 2503.19786, section 2.1). Most
language layers attend inside a sliding window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lingshu.models.base import Tiles, VisionTowerSpec
from lingshu.models.families._square_tiles import TINY_TOKEN_SIDE, SquareTiles, tiny_tile_tokens
from lingshu.models.model_spec import PixelBudget, TinyModel

IMAGE_TOKEN = "<image_soft_token>"
IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<start_of_image>", "<end_of_image>"
IMAGE_TOKENS = (IMAGE_START_TOKEN, IMAGE_END_TOKEN, IMAGE_TOKEN)
TINY_WINDOW = 16  # of tiny models: shorter than their prompts
# Where the preprocessor leaves these open, the stock processor class has them.
PAN_AND_SCAN = {
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
# Renders as the family's released template does, written independently: the system text precedes
# the first user turn's, and texts lose the spaces at their ends.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- set state = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- set parts = message['content'] -%}"
    "{%- if parts is string -%}{%- set parts = [{'type': 'text', 'text': parts}] -%}{%- endif -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set state.system = parts | map(attribute='text') | join + '\\n\\n' -%}"
    "{%- else -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + state.system }}"
    "{%- set state.system = '' -%}"
    "{%- for part in parts -%}"
    "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}"
    "{%- endfor -%}"
    "{{ '<end_of_turn>\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)


class Gemma3(SquareTiles):
    model_type = "gemma3"
    model_class = "Gemma3ForConditionalGeneration"
    processor_class = "Gemma3Processor"
    image_processor_type = "Gemma3ImageProcessor"
    tokenizer_class = "GemmaTokenizer"
    token_roles: ClassVar = {
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    byte_level = False
    parts: ClassVar = {
        "vision": ("model.vision_tower.",),
        "projector": ("model.multi_modal_projector.",),
        "language": ("model.language_model.", "lm_head."),
    }
    blocks = ("model.vision_tower.encoder.layers", "model.language_model.layers")
    image_token = IMAGE_TOKEN
    special_tokens = ("<start_of_turn>", "<end_of_turn>", *IMAGE_TOKENS)
    named_tokens: ClassVar = {
        "image_token": IMAGE_TOKEN,
        "boi_token": IMAGE_START_TOKEN,
        "eoi_token": IMAGE_END_TOKEN,
    }
    never_sampled = IMAGE_TOKENS
    chat_template = CHAT_TEMPLATE
    token_type_input = "token_type_ids"

    def image_processor(self, budget: PixelBudget, image_size: int) -> Any:
        from transformers.models.gemma3 import image_processing_pil_gemma3 as module

        processor: Any = module.Gemma3ImageProcessorPil(
            size={"height": image_size, "width": image_size},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        processor.image_seq_length = (image_size // TINY_TOKEN_SIDE) ** 2
        self.set_max_tiles(processor, budget.max_tiles)
        return processor

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        processor.do_pan_and_scan = max_tiles > 1
        for name, value in PAN_AND_SCAN.items():
            if getattr(processor, name) is None:
                setattr(processor, name, value)
        if max_tiles > 1:
            processor.pan_and_scan_max_num_crops = max_tiles

    @property
    def image_marker(self) -> str:
        return IMAGE_START_TOKEN

    def read_budget(self, processor: Any) -> PixelBudget:
        if not processor.do_pan_and_scan:
            return PixelBudget()
        n_crops = processor.pan_and_scan_max_num_crops
        return PixelBudget(max_tiles=n_crops or PAN_AND_SCAN["pan_and_scan_max_num_crops"])

    def match_config(self, processor: Any, config: Any) -> None:
        super().match_config(processor, config)
        processor.image_seq_length = config.mm_tokens_per_image

    def cut(
        self, processor: Any, planes: NDArray[np.uint8], max_tiles: int
    ) -> Sequence[NDArray[np.uint8]]:
        """The whole image, then its crops along the longer side, none if it is not elongated."""
        crops = processor.pan_and_scan(
            planes,
            processor.pan_and_scan_min_crop_size,
            max_tiles,
            processor.pan_and_scan_min_ratio_to_activate,
        )
        return [
            processor.resize(part, processor.size, processor.resample) for part in (planes, *crops)
        ]

    def tokens_per_tile(self, processor: Any) -> int:
        return processor.image_seq_length

    def expand(self, tiles: Tiles) -> str:
        """The whole image, and its crops in the words that the family was trained with."""
        n_tiles = len(tiles.pixels)
        tile = (
            f"\n\n{IMAGE_START_TOKEN}{IMAGE_TOKEN * (tiles.tokens // n_tiles)}{IMAGE_END_TOKEN}\n\n"
        )
        if n_tiles == 1:
            return tile
        crops = " ".join([tile] * (n_tiles - 1))
        return f"Here is the original image {tile} and here are some crops to help you see better {crops}"

    def token_ids(self, token_to_id: Callable[[str], int]) -> dict[str, int]:
        return {
            "image_token_index": token_to_id(IMAGE_TOKEN),
            "boi_token_index": token_to_id(IMAGE_START_TOKEN),
            "eoi_token_index": token_to_id(IMAGE_END_TOKEN),
        }

    def tower(self, config: Any) -> VisionTowerSpec:
        vision, tile_tokens = config.vision_config, config.mm_tokens_per_image
        return VisionTowerSpec(
            vision.hidden_size,
            full_attention_blocks=vision.num_hidden_layers,
            window_attention_blocks=0,
            window_patches=0,
            patches_per_token=(vision.image_size // vision.patch_size) ** 2 // tile_tokens,
            pixels_per_token=vision.image_size**2 // tile_tokens,
            tile_tokens=tile_tokens,
        )

    def processor_settings(self, processor: Any) -> dict[str, int]:
        return {"image_seq_length": self.tokens_per_tile(processor)}

    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        from transformers import Gemma3Config

        head_dim = spec.hidden // spec.heads
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": spec.vision_hidden,
            "intermediate_size": 2 * spec.vision_hidden,
            "num_hidden_layers": spec.vision_layers,
            "num_attention_heads": spec.vision_heads,
            "image_size": spec.image_size,
            "patch_size": 14,
            "vision_use_head": False,
        }
        local = {
            "layer_types": ["sliding_attention"] * (spec.layers - 1) + ["full_attention"],
            "sliding_window": TINY_WINDOW,
            "head_dim": head_dim,
            "query_pre_attn_scalar": head_dim,
        }
        return Gemma3Config(
            text_config={**text, **local, "tie_word_embeddings": True},
            vision_config=vision,
            mm_tokens_per_image=tiny_tile_tokens(spec),
            tie_word_embeddings=True,
            **ids,
        )


FAMILY = Gemma3()
