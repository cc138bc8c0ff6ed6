"""Typed values that describe a model without loading one: pixel budget, tiny models.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lingshu.core.errors import ConfigError

FamilyName = Literal["qwen2_5_vl", "internvl"]
Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")


@dataclass(frozen=True)
class PixelBudget:
    """How many pixels of an image a model sees; saved with the checkpoint, so that inference uses
    what training used.

    Qwen2.5-VL scales an image into [`min_pixels`, `max_pixels`] (one token per 28 x 28 pixels);
    several images share the upper bound. InternVL3 cuts an image into at most `max_tiles` tiles and
    adds a thumbnail; 1 means no cutting. The default upper bounds keep one image inside an
    8,192-token sample, a limit that the Lingshu paper leaves unstated although 16,384 image tokens
    would not fit.
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 1280 * 28 * 28
    max_tiles: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(
                f"min_pixels {self.min_pixels} must be positive and at most max_pixels"
                f" {self.max_pixels}."
            )
        if self.max_tiles < 1:
            raise ConfigError(f"max_tiles is {self.max_tiles}; it must be at least 1.")

    def max_pixels_per_image(self, n_images: int) -> int:
        """The upper bound for each of `n_images` images of one sample."""
        return max(self.min_pixels, self.max_pixels // max(1, n_images))


@dataclass(frozen=True)
class TinyModel:
    """A small randomly initialized model of a family, with a tokenizer trained on the run's own
    text.

    `vision_*` describe the tower; `image_size` is the side of the square input of InternVL in
    pixels (a multiple of 28).
    """

    family: FamilyName = "qwen2_5_vl"
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 256
    vision_hidden: int = 128
    vision_layers: int = 2
    vision_heads: int = 4
    image_size: int = 56
    vocab_size: int = 512
    max_positions: int = 4096

    def __post_init__(self) -> None:
        head_dim = self.hidden // self.heads
        if self.hidden % self.heads or self.heads % self.kv_heads or head_dim % 4:
            raise ConfigError(
                f"hidden {self.hidden}, heads {self.heads} and kv_heads {self.kv_heads} do not"
                " divide into heads of a multiple of 4."
            )
        if self.image_size % 28:
            raise ConfigError(
                f"image_size {self.image_size} is not a multiple of 28, the pixels that one image"
                " token covers."
            )
