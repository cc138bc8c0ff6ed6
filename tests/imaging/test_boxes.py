"""Regions: masks to rectangles, the slices that show most, and rectangles on an image."""

from __future__ import annotations

import numpy as np

from lingshu.imaging.boxes import (
    BOX_COLOR,
    BoundingBox,
    draw_boxes,
    mask_to_boxes,
    select_mask_slices,
)


def test_each_region_of_a_mask_has_its_smallest_rectangle() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[2:6, 3:9] = 1
    mask[20:22, 30:40] = 7
    mask[10, 10] = 1  # a stray pixel
    assert mask_to_boxes(mask) == [BoundingBox(3, 2, 8, 5), BoundingBox(30, 20, 39, 21)]
    assert mask_to_boxes(np.zeros((5, 5))) == []


def test_the_slices_with_the_largest_area_are_taken_in_the_order_of_the_volume() -> None:
    mask = np.zeros((6, 20, 20), bool)
    for index, side in ((1, 3), (3, 9), (4, 8), (5, 6)):
        mask[index, 2 : 2 + side, 2 : 2 + side] = True
    assert [mask_slice.slice_index for mask_slice in select_mask_slices(mask, max_slices=2)] == [
        3,
        4,
    ]
    assert select_mask_slices(mask, max_slices=1)[0].boxes == [BoundingBox(2, 2, 10, 10)]
    assert select_mask_slices(np.zeros((3, 4, 4)), max_slices=3) == []


def test_a_rectangle_is_rendered_around_its_region_and_the_image_stays() -> None:
    image = np.full((20, 20, 3), 50, np.uint8)
    image_with_boxes = draw_boxes(image, [BoundingBox(5, 5, 9, 9), BoundingBox(0, 0, 19, 19)])
    assert (image == 50).all()
    assert (
        (image_with_boxes[4, 4] == BOX_COLOR).all()
        and (image_with_boxes[10, 10] == BOX_COLOR).all()
        and (image_with_boxes[5:10, 5:10] == 50).all()
    )
    assert (image_with_boxes[0, 0] == BOX_COLOR).all()
