"""Regions: masks to rectangles, the slices that show most, and rectangles on an image."""

from __future__ import annotations

import numpy as np

from lingshu.imaging.regions import COLOUR, Box, boxes_of, slices_of, with_boxes


def test_each_region_of_a_mask_has_its_smallest_rectangle() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[2:6, 3:9] = 1
    mask[20:22, 30:40] = 7
    mask[10, 10] = 1  # a stray pixel
    assert boxes_of(mask) == [Box(3, 2, 8, 5), Box(30, 20, 39, 21)]
    assert boxes_of(np.zeros((5, 5))) == []


def test_the_slices_with_the_largest_area_are_taken_in_the_order_of_the_volume() -> None:
    mask = np.zeros((6, 20, 20), bool)
    for place, side in ((1, 3), (3, 9), (4, 8), (5, 6)):
        mask[place, 2 : 2 + side, 2 : 2 + side] = True
    assert [one.place for one in slices_of(mask, most=2)] == [3, 4]
    assert [one.place for one in slices_of(mask, most=2, apart=2)] == [3, 5]
    assert slices_of(mask, most=1)[0].boxes == [Box(2, 2, 10, 10)]
    assert slices_of(np.zeros((3, 4, 4))) == []


def test_a_rectangle_is_drawn_around_its_region_and_the_image_stays() -> None:
    image = np.full((20, 20, 3), 50, np.uint8)
    drawn = with_boxes(image, [Box(5, 5, 9, 9), Box(0, 0, 19, 19)])
    assert (image == 50).all()
    assert (
        (drawn[4, 4] == COLOUR).all()
        and (drawn[10, 10] == COLOUR).all()
        and (drawn[5:10, 5:10] == 50).all()
    )
    assert (drawn[0, 0] == COLOUR).all()
