from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmedge.metrics import bounding_box, box_iou, map_iou, region_scores


def test_a_map_of_the_masks_size_is_compared_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    relevance, mask = random.random((6, 9), np.float32), random.random((6, 9)) < 0.5
    expected = ((relevance >= 0.7) & mask).sum() / ((relevance >= 0.7) | mask).sum()
    assert map_iou(relevance, (0, 0, 9, 6), 0.7, mask) == pytest.approx(expected)


def test_a_smaller_map_is_interpolated_as_pillow_does() -> None:
    random = np.random.default_rng(1)
    relevance, mask = random.random((5, 4), np.float32), random.random((40, 28)) < 0.3
    resized = np.asarray(Image.fromarray(relevance).resize((28, 40), Image.Resampling.BILINEAR))
    expected = ((resized >= 0.5) & mask).sum() / ((resized >= 0.5) | mask).sum()
    assert map_iou(relevance, (0, 0, 28, 40), 0.5, mask) == pytest.approx(expected)


def test_a_map_of_a_part_of_the_frame_counts_only_there() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:, 2:6] = True
    # The map covers columns 4 to 7 and reaches over the lower edge: columns 4 and 5 of all rows from 2 on are right.
    found = map_iou(np.ones((2, 2), np.float32), (4, 2, 4, 16), 0.5, mask)
    assert found == pytest.approx(16 / (40 + 32 - 16))


def test_nothing_to_find_is_undefined_and_nothing_found_is_zero() -> None:
    mask = np.zeros((4, 4), bool)
    assert map_iou(np.ones((2, 2), np.float32), (0, 0, 4, 4), 0.5, mask) is None
    mask[1, 1] = True
    assert map_iou(np.zeros((2, 2), np.float32), (0, 0, 4, 4), 0.5, mask) == 0
    assert region_scores([]).map_iou is None
    assert region_scores([(0.5, 1.0), (0.0, 0.0)]).to_dict() == {"map_iou": 0.25, "box_iou": 0.5, "samples": 2}
    without_boxes = {"map_iou": 0.25, "box_iou": None, "samples": 2}  # but for the miss, which needs none to be judged
    assert region_scores([(0.5, None), (0.0, 0.0)]).to_dict() == without_boxes


sides = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))


@given(sides, sides)
def test_boxes_on_pixels_are_compared_as_their_pixels(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    pixels = []
    for x, y, width, height in (first, second):
        filled = np.zeros((20, 20), bool)
        filled[y : y + height, x : x + width] = True
        assert bounding_box(filled) == (x, y, width, height)
        pixels.append(filled)
    assert box_iou(first, second) == pytest.approx((pixels[0] & pixels[1]).sum() / (pixels[0] | pixels[1]).sum())


def test_the_bounding_box_goes_around_all_objects() -> None:
    mask = np.zeros((8, 8), bool)
    mask[1, 2] = mask[6, 5] = True
    assert bounding_box(mask) == (2, 1, 4, 6)
