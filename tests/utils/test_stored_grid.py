# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.utils.stored_grid import StoredGrid


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([1.0, 0.5, 2.0, 0.1, 37.5, 1e-3]),
    st.sampled_from([0.0, -1024.0, 0.25, 3.3]),
    st.floats(-4000, 4000, width=32),
    st.booleans(),
)
def test_values_go_to_the_grid(step: float, intercept: float, value: float, below: bool) -> None:
    grid = StoredGrid(step, intercept)
    values = torch.tensor([value], dtype=torch.float64)
    nearest, side = grid.nearest(values), grid.toward(values, torch.tensor([below]))
    for found in (nearest, side):
        place = float((found - intercept) / step)
        assert place == pytest.approx(round(place), abs=1e-5)
    assert float((nearest - values).abs()) <= grid.rounding * (1 + 1e-9)
    assert float((side - values).abs()) < step * (1 + 1e-5)
    assert (float(side) <= value + grid.slack) if below else (float(side) >= value - grid.slack)
    # A value of the grid is already there, on both sides.
    for on_it in (True, False):
        torch.testing.assert_close(grid.toward(nearest, torch.tensor([on_it])), nearest, rtol=0, atol=1e-9 + grid.slack)


def test_whole_numbers_are_exact_and_stay_in_the_range() -> None:
    grid = StoredGrid(low=0, high=255)
    values = torch.tensor([-8.0, 2.5, 3.5, 254.7, 263.0])
    assert grid.nearest(values).tolist() == [0.0, 2.0, 4.0, 255.0, 255.0]
    assert grid.toward(values, torch.tensor([True] * 5)).tolist() == [0.0, 2.0, 3.0, 254.0, 255.0]
    assert grid.whole and grid.slack == 0 and grid.rounding == 0.5
    scaled = StoredGrid(2.0, -100.0, -100.0, 410.0)
    assert scaled.nearest(torch.tensor([-300.0, 5.1, 999.0])).tolist() == [-100.0, 6.0, 410.0]
    assert grid.holds(values[1:4]) and not grid.holds(values)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"step": -1.0}, {"intercept": float("nan")}, {"low": 3, "high": 3}])
def test_a_grid_that_is_none_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="StoredGrid needs"):
        StoredGrid(**options)
