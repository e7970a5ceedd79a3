# SPDX-License-Identifier: Apache-2.0
"""Destruction rate against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.metrics import destruction_rate


def flags(text: str) -> torch.Tensor:
    return torch.tensor([one == "1" for one in text])


@pytest.mark.parametrize(
    ("clean", "adversarial", "transformed", "rate"),
    [
        ("1111", "0000", "0000", 0.0),
        ("1111", "0000", "1111", 1.0),
        ("1111", "0011", "1000", 0.5),
        ("0111", "0001", "1101", 0.5),  # the first one was wrong before
    ],
)
def test_it_counts_undone_among_successful(clean: str, adversarial: str, transformed: str, rate: float) -> None:
    assert destruction_rate(flags(clean), flags(adversarial), flags(transformed)) == rate


def test_without_a_successful_attack_it_is_unknown() -> None:
    assert math.isnan(destruction_rate(flags("11"), flags("11"), flags("00")))


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(TypeError, match="adversarial must be a boolean tensor"):
        destruction_rate(flags("1"), torch.tensor([0.4]), flags("1"))
    with pytest.raises(ValueError, match="transformed must have shape"):
        destruction_rate(flags("11"), flags("11"), flags("1"))
