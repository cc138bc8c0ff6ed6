"""Regions of interest: masks to rectangles, slices of a volume that show them, and rectangles drawn
on an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BOX_COLOR = (255, 255, 0)  # no tissue, stain or window shows it pure


class BoundingBox(NamedTuple):
    """A rectangle in pixels: the first and the last column and row that belong to it."""

    left: int
    top: int
    right: int
    bottom: int


class MaskSlice(NamedTuple):
    """A slice of a volume by its place along the first axis, with the rectangles of its regions."""

    slice_index: int
    boxes: list[BoundingBox]


def mask_to_boxes(mask: NDArray[np.generic], *, min_pixels: int = 4) -> list[BoundingBox]:
    """The smallest rectangle around each connected region of a mask (height x width, not zero
    inside), from the top left on.

    Regions of fewer than `min_pixels` pixels are what an annotator's pen leaves, and are passed
    over.
    """
    import cv2
    import numpy as np

    n_labels, _, stats, _ = cv2.connectedComponentsWithStats(
        (mask != 0).astype(np.uint8), connectivity=8
    )
    boxes = []
    for left, top, width, height, pixels in stats[1:n_labels].tolist():
        if pixels >= min_pixels:
            boxes.append(BoundingBox(left, top, left + width - 1, top + height - 1))
    return sorted(boxes, key=lambda box: (box.top, box.left))


def select_mask_slices(
    mask: NDArray[np.generic], *, max_slices: int = 3, min_gap: int = 1, min_pixels: int = 4
) -> list[MaskSlice]:
    """The `most` slices of a mask (slices x height x width) with the largest area inside, at least
    `apart` slices from each other, in the order of the volume.
    """
    import numpy as np

    areas = np.count_nonzero(mask, axis=(1, 2))
    selected: list[int] = []
    for index in sorted(range(len(areas)), key=lambda z: (-int(areas[z]), z)):
        if len(selected) == max_slices or areas[index] < min_pixels:
            break
        if all(abs(index - previous) >= min_gap for previous in selected):
            selected.append(index)
    slices = [
        MaskSlice(index, mask_to_boxes(mask[index], min_pixels=min_pixels))
        for index in sorted(selected)
    ]
    return [item for item in slices if item.boxes]


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[BoundingBox]) -> NDArray[np.uint8]:
    """RGB pixels (height x width x 3) with each rectangle drawn around its region, outside it where
    there is room.
    """
    import cv2
    import numpy as np

    image = np.array(pixels)
    height, width = image.shape[:2]
    thickness = max(1, min(height, width) // 200)
    for box in boxes:
        top_left = max(0, box.left - thickness), max(0, box.top - thickness)
        bottom_right = (
            min(width - 1, box.right + thickness),
            min(height - 1, box.bottom + thickness),
        )
        cv2.rectangle(image, top_left, bottom_right, BOX_COLOR, thickness)
    return image
