# SPDX-License-Identifier: Apache-2.0
"""The even-odd fill equals the definition, and neighbors share no voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import points_in_poly

from monai_adversarial.data.dicom.contour_fill import inside_contours

points = st.lists(st.tuples(st.floats(-3, 14), st.floats(-3, 12)), min_size=3, max_size=9)


@given(points=points)
@settings(max_examples=60, deadline=None)
def test_a_polygon_holds_the_centers_that_an_odd_number_of_edges_separates_from_the_outside(points: list) -> None:
    polygon = np.array(points) + [0.123456, 0.0712345]  # no edge through a center
    centers = np.stack(np.meshgrid(np.arange(11), np.arange(9), indexing="ij"), axis=-1).reshape(-1, 2)
    wanted = points_in_poly(centers, polygon).reshape(11, 9)
    assert np.array_equal(inside_contours([polygon], 11, 9), wanted)


def test_a_grid_cut_into_triangles_through_centers_is_covered_once() -> None:
    middle, corners = (5.0, 4.0), [(0.0, 0.0), (5.0, 0.0), (10.0, 0.0), (10.0, 8.0), (5.0, 8.0), (0.0, 8.0)]
    count = np.zeros((11, 9), dtype=int)
    for one, two in zip(corners, corners[1:] + corners[:1], strict=True):
        count += inside_contours([np.array([middle, one, two])], 11, 9)
    assert count.max() == 1 and count[1:10, 1:8].min() == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_a_keyhole_and_a_contour_inside_another_are_the_same_hole(turn: int) -> None:
    outer = np.array([(0.5, 0.5), (8.5, 0.5), (8.5, 7.5), (0.5, 7.5)])
    inner = np.array([(3.5, 2.5), (5.5, 2.5), (5.5, 5.5), (3.5, 5.5)])[::turn]
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    rings = inside_contours([outer, inner], 11, 9)
    assert np.array_equal(rings, inside_contours([keyhole], 11, 9))
    assert rings.sum() == 8 * 7 - 2 * 3
