"""What InternVL and Gemma 3 share: square tiles of a fixed number of tokens, ordinary positions."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import ArtifactError, ConfigError
from lingshu.models.base import Tiles, VisionLanguageFamily, normalize_pixels
from lingshu.models.model_spec import PixelBudget, TinyModel

TINY_TOKEN_SIDE = 28  # pixels of one side of what a token shows, in tiny models


class SquareTiles(VisionLanguageFamily):
    @abstractmethod
    def cut(
        self, processor: Any, planes: NDArray[np.uint8], max_tiles: int
    ) -> Sequence[NDArray[np.uint8]]:
        """The tiles of an image (3 x height x width), at most `max_tiles` and the whole image."""

    @abstractmethod
    def tokens_per_tile(self, processor: Any) -> int: ...

    def with_budget(self, processor: Any, budget: PixelBudget) -> Any:
        updated = copy.deepcopy(processor)
        self.set_max_tiles(updated, budget.max_tiles)
        return updated

    @abstractmethod
    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        """Write how finely images are cut into a stock image processor, in place."""

    def prepare(
        self,
        processor: Any,
        image: PIL.Image,
        n_images: int,  # noqa: ARG002 - tiles are counted per image
        budget: PixelBudget,
    ) -> Tiles:
        """Cut an image into tiles (more than one with the whole image), or scale it to one."""
        planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        size, resample = processor.size, processor.resample
        if budget.max_tiles > 1:
            tiles = self.cut(processor, planes, budget.max_tiles)
        else:
            tiles = [processor.resize(planes, size, resample)]
        n_tokens = len(tiles) * self.tokens_per_tile(processor)
        return Tiles(np.stack(tiles).astype(np.uint8), n_tokens, None)

    def features(self, processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
        """pixel_values (tiles x 3 x side x side, float32)."""
        pixels = np.concatenate([t.pixels for t in tiles])
        return {"pixel_values": normalize_pixels(processor, pixels)}

    def positions(self, is_image: NDArray[np.bool_], tiles: Sequence[Tiles]) -> None: ...

    def match_config(self, processor: Any, config: Any) -> None:
        configured = config.vision_config.image_size
        side = configured if isinstance(configured, int) else configured[0]
        height, width = processor.size["height"], processor.size["width"]
        if (height, width) != (side, side):
            raise ArtifactError(
                f"the preprocessor makes tiles of {height} x {width} pixels and the model takes"
                f" {side} x {side} (image_size of config.json); copy the files of one model."
            )


def tiny_tile_tokens(spec: TinyModel) -> int:
    """The tokens of a tile of a tiny model.

    Raises:
        ConfigError: the side is not a whole number of them.
    """
    if spec.image_size % TINY_TOKEN_SIDE:
        raise ConfigError(
            f"image_size {spec.image_size} is not a multiple of {TINY_TOKEN_SIDE}, the pixels that"
            " one image token covers."
        )
    return (spec.image_size // TINY_TOKEN_SIDE) ** 2
