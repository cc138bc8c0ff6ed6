"""The image filter by header: sides, shape, format, and samples without an image."""

from __future__ import annotations

import numpy as np
import pytest

from lingshu.core.errors import ConfigError, ImageError
from lingshu.core.messages import user_turn
from lingshu.core.step_types import MapStep
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import encode_png
from lingshu.ops.image_size import step


def sample(*sides: tuple[int, int]) -> Sample:
    images = tuple(
        Image(data=encode_png(np.zeros((height, width), np.uint8))) for width, height in sides
    )
    return Sample("s", (user_turn("?", len(images)),), images)


@pytest.mark.parametrize(
    ("params", "sides", "reason"),
    [
        ({"min_side": 64}, [(64, 64)], None),
        ({"min_side": 64}, [(63, 64)], "image_too_small"),
        ({"min_side": 64}, [(64, 64), (64, 63)], "image_too_small"),
        ({"max_side": 100}, [(100, 101)], "image_too_large"),
        ({"max_aspect": 2}, [(200, 100)], None),
        ({"max_aspect": 2}, [(201, 100)], "image_too_long"),
        ({"formats": ["JPEG"]}, [(64, 64)], "image_format"),
        ({}, [], None),
        ({"require_image": True}, [], "no_image"),
    ],
)
def test_an_image_of_another_size_is_dropped_with_its_reason(
    params: dict, sides: list, reason: str | None
) -> None:
    map_step = step(**params)
    assert isinstance(map_step, MapStep)
    original = sample(*sides)
    with ImageCache() as image_cache:
        result = map_step.open()(original, image_cache)
    assert (
        result is original
        if reason is None
        else isinstance(result, Drop) and result.reason == reason
    )


def test_a_damaged_header_is_the_images_fault() -> None:
    with ImageCache() as image_cache, pytest.raises(ImageError):
        step().open()(Sample("s", (), (Image(data=b"\x89PNG\r\n\x1a\n"),)), image_cache)


@pytest.mark.parametrize(
    "params",
    [{"min_side": 0}, {"min_side": 9, "max_side": 8}, {"max_aspect": 0.5}, {"formats": ["JPG"]}],
)
def test_limits_that_exclude_everything_are_refused(params: dict) -> None:
    with pytest.raises(ConfigError, match="image_size"):
        step(**params)
