# SPDX-License-Identifier: Apache-2.0
"""Intensity maps from mappings: values, and one sentence for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_adversarial.utils.intensity import IntensityMap, as_intensity_map


def test_a_mapping_has_the_arguments_of_from_window() -> None:
    assert as_intensity_map({"a_min": -160, "a_max": 240}) == IntensityMap.from_window(-160, 240)
    full = {"a_min": -100.0, "a_max": 100.0, "b_min": -1.0, "b_max": 1.0, "clip": False}
    made = as_intensity_map(full)
    assert made is not None and made == IntensityMap.from_window(**full)
    assert made(torch.tensor([-200.0, 0.0, 50.0])).tolist() == [-2.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a_min": 0}, r"may have b_min, b_max and clip, but it lacks 'a_max'\.$"),
        ({}, r"lacks 'a_min', 'a_max'\.$"),
        ({"min": 0, "max": 1}, r"lacks 'a_min', 'a_max' and has 'min', 'max'\.$"),
        ({"a_min": 0, "a_max": 1, "clipped": True}, r"but it has 'clipped'\.$"),
        ({"a_min": "0", "a_max": 1}, "a_min of intensity must be a finite number, got '0'"),
        ({"a_min": 0, "a_max": float("inf")}, "a_max of intensity must be a finite number, got inf"),
        ({"a_min": 0, "a_max": 1, "b_min": None}, "b_min of intensity must be a finite number, got None"),
        ({"a_min": 1, "a_max": 0}, "an intensity window needs a_max > a_min"),
    ],
)
def test_a_wrong_mapping_is_refused_in_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        as_intensity_map(given)
    assert "\n" not in str(caught.value)
