# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.utils.arrays import StoredAs
from monai_adversarial.utils.stored_grid import StoredGrid


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([1.0, 0.5, 2.0, 0.1, 37.5, 1e-3]),
    st.sampled_from([0.0, -1024.0, 0.25, 3.3]),
    st.floats(-4000, 4000, width=32),
)
def test_values_go_to_the_grid(step: float, intercept: float, value: float) -> None:
    grid = StoredGrid(step, intercept)
    values = torch.tensor([value], dtype=torch.float64)
    nearest = grid.nearest(values)
    assert float(grid.place(nearest)) == pytest.approx(round(float(grid.place(nearest))), abs=1e-5)
    assert float((nearest - values).abs()) <= grid.rounding * (1 + 1e-9)
    first, last = grid.value(grid.first_from(values)), grid.value(grid.last_until(values))
    assert value - 2e-6 * step <= float(first) < value + step * (1 + 1e-5)
    assert value - step * (1 + 1e-5) < float(last) <= value + 2e-6 * step
    # A value of the grid is already there, from both sides, also where float32 has misplaced it.
    for found in (grid.first_from(nearest), grid.last_until(nearest)):
        torch.testing.assert_close(grid.value(found), nearest, rtol=0, atol=1e-9)
    assert torch.equal(grid.snapped(nearest.float().double(), torch.finfo(torch.float32).eps), nearest)


def test_whole_numbers_are_exact_and_stay_in_the_range() -> None:
    grid = StoredGrid(low=0, high=255)
    values = torch.tensor([-8.0, 2.5, 3.5, 254.7, 263.0])
    assert grid.nearest(values).tolist() == [0.0, 2.0, 4.0, 255.0, 255.0]
    assert grid.rounding == 0.5
    scaled = StoredGrid(2.0, -100.0, -100.0, 410.0)
    assert scaled.nearest(torch.tensor([-300.0, 5.1, 999.0])).tolist() == [-100.0, 6.0, 410.0]
    assert grid.holds(values[1:4]) and not grid.holds(values)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint64, torch.uint8])
def test_the_ends_of_every_type_are_ends_of_its_grid(kind: torch.dtype) -> None:
    grid = StoredAs(kind).grid
    assert grid is not None and grid.low is not None and grid.high is not None
    found = grid.nearest(torch.tensor([-1e30, 1e30], dtype=torch.float64)).tolist()
    assert found == [grid.low, grid.high]


@pytest.mark.parametrize("options", [{"step": 0.0}, {"step": -1.0}, {"intercept": float("nan")}, {"low": 3, "high": 3}])
def test_a_grid_that_is_none_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="StoredGrid needs"):
        StoredGrid(**options)
