"""Regions of interest: masks to rectangles, slices of a volume that show them, and rectangles drawn
on an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLOUR = (255, 255, 0)  # no tissue, stain or window shows it pure


class Box(NamedTuple):
    """A rectangle in pixels: the first and the last column and row that belong to it."""

    left: int
    top: int
    right: int
    bottom: int


class Slice(NamedTuple):
    """A slice of a volume by its place along the first axis, with the rectangles of its regions."""

    place: int
    boxes: list[Box]


def boxes_of(mask: NDArray[np.generic], *, min_pixels: int = 4) -> list[Box]:
    """The smallest rectangle around each connected region of a mask (height x width, not zero
    inside), from the top left on.

    Regions of fewer than `min_pixels` pixels are what an annotator's pen leaves, and are passed
    over.
    """
    import cv2
    import numpy as np

    number, _, facts, _ = cv2.connectedComponentsWithStats(
        (mask != 0).astype(np.uint8), connectivity=8
    )
    found = []
    for left, top, width, height, pixels in facts[1:number].tolist():
        if pixels >= min_pixels:
            found.append(Box(left, top, left + width - 1, top + height - 1))
    return sorted(found, key=lambda box: (box.top, box.left))


def slices_of(
    mask: NDArray[np.generic], *, most: int = 3, apart: int = 1, min_pixels: int = 4
) -> list[Slice]:
    """The `most` slices of a mask (slices x height x width) with the largest area inside, at least
    `apart` slices from each other, in the order of the volume.
    """
    import numpy as np

    areas = np.count_nonzero(mask, axis=(1, 2))
    chosen: list[int] = []
    for place in sorted(range(len(areas)), key=lambda z: (-int(areas[z]), z)):
        if len(chosen) == most or areas[place] < min_pixels:
            break
        if all(abs(place - other) >= apart for other in chosen):
            chosen.append(place)
    found = [Slice(place, boxes_of(mask[place], min_pixels=min_pixels)) for place in sorted(chosen)]
    return [one for one in found if one.boxes]


def with_boxes(pixels: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """RGB pixels (height x width x 3) with each rectangle drawn around its region, outside it where
    there is room.
    """
    import cv2
    import numpy as np

    drawn = np.array(pixels)
    height, width = drawn.shape[:2]
    thick = max(1, min(height, width) // 200)
    for box in boxes:
        first = max(0, box.left - thick), max(0, box.top - thick)
        last = min(width - 1, box.right + thick), min(height - 1, box.bottom + thick)
        cv2.rectangle(drawn, first, last, COLOUR, thick)
    return drawn
