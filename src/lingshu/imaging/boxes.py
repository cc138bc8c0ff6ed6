"""Bounding boxes of the regions of a mask, and drawing of boxes on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BOX_COLOR = (255, 255, 0)  # no tissue, stain or window is pure yellow
MIN_PIXELS = 4  # smaller regions are artifacts of an annotator's pen


class BoundingBox(NamedTuple):
    """A rectangle in pixels: its first and last column and row, inclusive."""

    left: int
    top: int
    right: int
    bottom: int


class MaskSlice(NamedTuple):
    """A slice of a volume by its index along the first axis, with the boxes of its regions."""

    slice_index: int
    boxes: list[BoundingBox]


def mask_to_boxes(mask: NDArray[np.generic]) -> list[BoundingBox]:
    """The bounding box of each connected region of a mask (height x width), from the top left."""
    import cv2
    import numpy as np

    binary = (mask != 0).astype(np.uint8)
    n_labels, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    boxes = [
        BoundingBox(left, top, left + width - 1, top + height - 1)
        for left, top, width, height, n_pixels in stats[1:n_labels].tolist()
        if n_pixels >= MIN_PIXELS
    ]
    return sorted(boxes, key=lambda box: (box.top, box.left))


def select_mask_slices(mask: NDArray[np.generic], *, max_slices: int | None) -> list[MaskSlice]:
    """The slices of a mask (slices x height x width) with the largest areas, sorted by index."""
    import numpy as np

    areas = np.count_nonzero(mask, axis=(1, 2)).tolist()
    by_area = sorted(range(len(areas)), key=lambda z: (-areas[z], z))
    selected = sorted(z for z in by_area[:max_slices] if areas[z] >= MIN_PIXELS)
    boxes = {z: mask_to_boxes(mask[z]) for z in selected}
    return [MaskSlice(z, slice_boxes) for z, slice_boxes in boxes.items() if slice_boxes]


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[BoundingBox]) -> NDArray[np.uint8]:
    """A copy of RGB pixels (height x width x 3) with each box drawn just outside its region."""
    import cv2
    import numpy as np

    image = np.array(pixels)
    height, width = image.shape[:2]
    line = max(1, min(height, width) // 200)
    for box in boxes:
        top_left = max(0, box.left - line), max(0, box.top - line)
        bottom_right = min(width - 1, box.right + line), min(height - 1, box.bottom + line)
        cv2.rectangle(image, top_left, bottom_right, BOX_COLOR, line)
    return image
