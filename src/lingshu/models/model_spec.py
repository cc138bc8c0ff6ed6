"""Typed values that describe a model without loading one: pixel budget, tiny models.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lingshu.core import registry
from lingshu.core.errors import ConfigError, suggest_name

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")


@dataclass(frozen=True)
class PixelBudget:
    """How many pixels of an image a model sees; saved with the checkpoint, so that inference uses
    what training used.

    Families that take images of any size scale one into [`min_pixels`, `max_pixels`]; several
    images share the upper bound. Families of square tiles cut an image into at most `max_tiles`
    and add the whole image; 1 means no cutting. The default upper bounds, a megapixel and one tile,
    keep one image inside an 8,192-token sample, a limit that the Lingshu paper leaves unstated
    although its 16,384 image tokens would not fit.
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

    `family` is a name of `lingshu list families`; `vision_*` describe the tower; `image_size` is
    the side of a tile in pixels, where the family has tiles. `embedding_std` is the standard
    deviation of the initial token embeddings: those of the stock classes, 0.02, are so small in a
    narrow model that the output of the first layer hides which token it is.
    """

    family: str = "qwen2_5_vl"
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
    embedding_std: float = 0.02

    def __post_init__(self) -> None:
        families = registry.names("families")
        if self.family not in families:
            raise ConfigError(
                f"the model family {self.family!r} is unknown; {suggest_name(self.family, families)}"
            )
        if not 0 < self.embedding_std < 1:
            raise ConfigError(
                f"embedding_std is {self.embedding_std:g}; give a number above 0 and below 1, such"
                " as 0.1."
            )
        head_dim = self.hidden // self.heads
        if self.hidden % self.heads or self.heads % self.kv_heads or head_dim % 4:
            raise ConfigError(
                f"hidden {self.hidden}, heads {self.heads} and kv_heads {self.kv_heads} do not"
                " divide into heads of a multiple of 4."
            )
