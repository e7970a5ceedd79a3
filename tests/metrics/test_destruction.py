# SPDX-License-Identifier: Apache-2.0
"""Destruction rate against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.metrics import DestructionRate, destruction_rate


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


def test_scores_of_batches_give_the_rate_of_their_flags() -> None:
    clean, adversarial, transformed = (
        [0.8, 0.8, 0.8, 0.05, 0.8],
        [0.1, 0.3, 0.5, 0.0, 0.2],
        [0.4, 0.2, 0.9, 0.9, math.nan],
    )
    metric = DestructionRate(0.5, acceptable=0.1)
    for part in (slice(0, 2), slice(2, 5)):
        before, attacked, after = (
            torch.tensor(values[part], dtype=torch.float64) for values in (clean, adversarial, transformed)
        )
        metric(after, attacked, clean=before)
    # counted: the first three; successful: the first two (below 0.4); undone: the first, at 0.4
    assert metric.aggregate() == {"destruction_rate": 0.5, "successful": pytest.approx(2 / 3), "cases": 3.0}
    nothing = DestructionRate()
    nothing(torch.tensor([0.9]), torch.tensor([0.9]), clean=torch.tensor([0.9]))
    assert math.isnan(nothing.aggregate()["destruction_rate"])
    with pytest.raises(ValueError, match="clean must hold one number per case"):
        nothing(torch.tensor([0.9]), torch.tensor([0.9]))
