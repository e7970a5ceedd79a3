# SPDX-License-Identifier: Apache-2.0
"""Spacings that are numbers in mm, and those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.scene import Scene, check_spacing, percentiles, spacing_of

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


def test_percentiles_are_those_of_numpy_for_each_sample_and_channel() -> None:
    image = torch.rand((2, 3, 7, 5, 3), generator=torch.Generator().manual_seed(0))
    found = percentiles(image, (0.0, 1.0, 37.5, 99.0, 100.0))
    expected = np.percentile(image.double().numpy().reshape(2, 3, -1), (0, 1, 37.5, 99, 100), axis=2)
    assert np.allclose(torch.stack(found).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_amounts_are_converted_for_each_sample_and_channel() -> None:
    scale = torch.tensor([[0.5, 2.0], [-1.0, 4.0]])
    scene = Scene(torch.rand(2, 2, 3, 3, 3), (0, 1), intensity=IntensityMap(scale, torch.zeros(1, 1)))
    found = scene.in_image_units(3.0, "HU")
    assert isinstance(found, torch.Tensor) and found.shape == (2, 2, 1, 1, 1)
    assert found.flatten().tolist() == [1.5, 6.0, 3.0, 12.0]
    assert not scene.one_unit
    back = scene.in_hounsfield(found)
    assert back is not None and back.flatten().tolist() == [3.0] * 4
    assert scene.in_image_units(3.0, "network") == 3.0
    one = Scene(torch.zeros(1, 1, 3, 3), (0,), intensity=IntensityMap.from_window(-57, 164))
    assert one.in_image_units(8.0, "HU") == 8.0 * (1 / 221) and one.one_unit


def test_what_cannot_be_converted_is_one_sentence() -> None:
    scene = Scene(torch.zeros(1, 1, 3, 3), (0,), intensity_doubt="preprocessing#3 is a riddle.")
    with pytest.raises(
        ValueError, match=r"needs the map between them: pass intensity= \(preprocessing#3 is a riddle\)\.$"
    ):
        scene.in_image_units(8.0, "HU")
    with pytest.raises(ValueError, match="pass intensity= with a clipped window"):
        scene.in_image_units(0.1, "fraction")
    with pytest.raises(ValueError, match="it has no size without an image"):
        Scene(torch.empty(0), ()).in_image_units(0.1, "percentile")
