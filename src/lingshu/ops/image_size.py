"""Image size: sides, aspect ratio and file format, read from the first bytes of a file without
decoding it.

PubMedVision (arXiv 2406.19280) requires 336 pixels; the Lingshu paper names no number. 56 is the
least side that both model families split into patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Drop, Sample
from lingshu.imaging.headers import ImageFormat
from lingshu.ops._sample_fields import require


def step(
    *,
    min_side: int = 56,
    max_side: int | None = None,
    max_aspect: float = 5.0,
    formats: Sequence[str] = (),
    require_image: bool = False,
) -> MapStep:
    """Drop samples with an image that is too small, too large, too long, or of another format.

    Args:
        min_side: least width and height, in pixels.
        max_side: greatest width and height.
        max_aspect: greatest ratio of the longer side to the shorter.
        formats: PNG, JPEG, WEBP, BMP, TIFF, GIF; empty means all.
        require_image: whether a sample without any image is dropped.

    Drops: image_too_small, image_too_large, image_too_long, image_format, no_image.
    """
    for name in formats:
        if name not in get_args(ImageFormat):
            suggestion = suggest_name(name, get_args(ImageFormat))
            raise ConfigError(f"image_size: formats names {name!r}; {suggestion}")
    require(
        min_side >= 1 and (max_side is None or max_side >= min_side) and max_aspect >= 1,
        f"image_size: min_side {min_side}, max_side {max_side} and max_aspect {max_aspect} let"
        " nothing pass.",
    )

    def check_size(sample: Sample, pixels: Pixels) -> Sample | Drop:
        if require_image and not sample.images:
            return Drop(sample.id, "no_image")
        for image in sample.images:
            header = pixels.header(image)
            shorter, longer = sorted((header.width, header.height))
            size = f"{header.width} x {header.height}"
            if formats and header.format not in formats:
                return Drop(sample.id, "image_format", header.format)
            if shorter < min_side:
                return Drop(sample.id, "image_too_small", size)
            if max_side is not None and longer > max_side:
                return Drop(sample.id, "image_too_large", size)
            if longer > max_aspect * shorter:
                return Drop(sample.id, "image_too_long", size)
        return sample

    return MapStep(lambda: check_size)
