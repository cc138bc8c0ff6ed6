"""What differs between model families, as one value per family; the rest of the package asks here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.errors import ArtifactError, suggest_name
from lingshu.models.model_spec import FamilyName, Part, PixelBudget


class Tiles(NamedTuple):
    """One image scaled and cut for a model, before normalisation: uint8, tiles x 3 x height x
    width.

    `grid` is (1, patch rows, patch columns) for families that name positions by it, else None. Kept
    as bytes because normalised floats take eight times the memory (and twice that with Qwen's
    doubled frame).
    """

    pixels: NDArray[np.uint8]
    tokens: int
    grid: tuple[int, int, int] | None


class VisionTowerSpec(NamedTuple):
    """What the cost of a vision tower depends on, read from a model's configuration.

    `everywhere` blocks attend over all patches of an image (or tile), `windowed` ones inside
    windows of `window` patches. `patches_per_token` patches become one token of the language model;
    a tile always makes `tile_tokens` of them, None where an image is not cut and its size decides.
    """

    width: int
    full_attention_blocks: int
    window_attention_blocks: int
    window_patches: int
    patches_per_token: int
    tile_tokens: int | None


@dataclass(frozen=True)
class ModelFamily:
    """A model family of transformers.

    `parts` maps each trainable part to the prefixes of its parameter names; the longest matching
    prefix decides. `blocks` names the lists of equal layers, vision first: the pieces that are
    sharded and recomputed one by one. `processor_class` and the two processor types are the public
    names that an exported checkpoint carries; `processor_settings` is what the public processor
    class reads besides. `never_sampled` are tokens that stand for pixels: one sampled as text
    breaks the count of image features.
    """

    name: FamilyName
    model_class: str
    processor_class: str
    image_processor_type: str
    video_processor_type: str
    parts: Mapping[Part, tuple[str, ...]]
    blocks: tuple[str, ...]
    image_token: str
    special_tokens: tuple[str, ...]
    named_tokens: Mapping[str, str]
    never_sampled: tuple[str, ...]
    chat_template: str
    prepare: Callable[[Any, PIL.Image, int, PixelBudget], Tiles]
    features: Callable[[Any, Sequence[Tiles]], dict[str, NDArray[Any]]]
    expand: Callable[[int], str]
    positions: Callable[[NDArray[np.bool_], Sequence[Tiles]], NDArray[np.int64]] | None
    image_processor: Callable[[PixelBudget, int], Any]
    with_budget: Callable[[Any, PixelBudget], Any]
    read_budget: Callable[[Any], PixelBudget]
    token_ids: Callable[[Callable[[str], int]], dict[str, int]]
    processor_settings: Callable[[Any], dict[str, int]]
    tower: Callable[[Any], VisionTowerSpec]

    def part_of(self, parameter: str) -> Part:
        """The part that a parameter of the stock model class belongs to.

        Raises:
            ArtefactError: the name belongs to no part, so freezing it would be a guess.
        """
        best: tuple[int, Part] | None = None
        for part, prefixes in self.parts.items():
            for prefix in prefixes:
                if parameter.startswith(prefix) and (best is None or len(prefix) > best[0]):
                    best = (len(prefix), part)
        if best is None:
            raise ArtifactError(
                f"parameter {parameter!r} belongs to no part of {self.name}; is this checkpoint of"
                " that family?"
            )
        return best[1]


def family_of(model_type: str) -> ModelFamily:
    """The family behind a `model_type` of config.json.

    Raises:
        ArtefactError: a model type that no family here covers.
    """
    from lingshu.models.families.internvl import INTERNVL3
    from lingshu.models.families.qwen2_5_vl import QWEN25VL

    families = {family.name: family for family in (QWEN25VL, INTERNVL3)}
    if model_type not in families:
        raise ArtifactError(
            f"model type {model_type!r} is of no family that lingshu knows;"
            f" {suggest_name(model_type, families)}"
        )
    return families[model_type]


def normalize_pixels(image_processor: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 pixels (... x 3 x height x width) as the floats that the stock image processor makes of
    them.

    Rescaling and normalising act on single values, so a table of 3 x 256 made by the processor's
    own functions gives the same floats to the last bit at a fraction of the time.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    table = image_processor.normalize(
        image_processor.rescale(levels, image_processor.rescale_factor),
        image_processor.image_mean,
        image_processor.image_std,
    )
    table = np.asarray(table, np.float32).reshape(3, 256)
    return np.stack([table[c][pixels[..., c, :, :]] for c in range(3)], axis=-3)
