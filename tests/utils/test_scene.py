# SPDX-License-Identifier: Apache-2.0
"""Spacings that are numbers in mm, and those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.utils.scene import check_spacing, spacing_of

IMAGE = torch.zeros(2, 1, 4, 4, 4)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (2, [[2.0, 2.0, 2.0]] * 2),
        ([1.0, 2, 3], [[1.0, 2.0, 3.0]] * 2),
        (np.float32(0.5), [[0.5, 0.5, 0.5]] * 2),
        (np.array([1, 2, 3]), [[1.0, 2.0, 3.0]] * 2),
        ([np.float64(1), 2.0, torch.tensor(3.0)], [[1.0, 2.0, 3.0]] * 2),
        (torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    ],
)
def test_numbers_arrays_and_tensors_are_spacings(spacing: Any, expected: list[list[float]]) -> None:
    table = spacing_of(IMAGE, spacing)
    assert table is not None and table.dtype == torch.float64 and table.tolist() == expected


@pytest.mark.parametrize(
    "spacing", ["4", {"a": 1}, True, [1.0, True, 1.0], np.array([True]), ["4", 4, 4], [1, [2, 3]], [None], object]
)
def test_what_is_no_number_is_one_sentence(spacing: Any) -> None:
    for call in (check_spacing, lambda given: spacing_of(IMAGE, given)):
        with pytest.raises(ValueError, match="spacing must be numbers in mm, got ") as caught:
            call(spacing)
        assert str(caught.value) == f"spacing must be numbers in mm, got {spacing!r}."


def test_lengths_that_cannot_be_are_refused() -> None:
    for spacing in (0, -1.0, (1.0, float("nan"), 1.0), float("inf")):
        with pytest.raises(ValueError, match="spacing must be finite and > 0 mm along every axis"):
            check_spacing(spacing)
    with pytest.raises(ValueError, match="spacing must be finite and > 0 mm along every axis"):
        spacing_of(MetaTensor(IMAGE, affine=torch.zeros(4, 4)))
