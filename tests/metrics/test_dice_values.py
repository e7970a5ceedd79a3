# SPDX-License-Identifier: Apache-2.0
"""Dice by counting pairs equals Dice by comparing masks, also for values that are no class of the network."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.metrics.dice import class_dice


def by_comparison(prediction: torch.Tensor, reference: torch.Tensor, channels: list[int], valid=None) -> torch.Tensor:
    rows = []
    for found, true, counts in zip(
        prediction, reference, valid if valid is not None else torch.ones_like(reference, dtype=torch.bool), strict=True
    ):
        scores = []
        for channel in channels:
            a, b = (found == channel) & counts, (true == channel) & counts
            scores.append(2.0 * float((a & b).sum()) / float(a.sum() + b.sum()) if (a | b).any() else torch.nan)
        rows.append(scores)
    return torch.tensor(rows)


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32"])
@pytest.mark.parametrize("masked", [False, True])
def test_counts_of_pairs_are_the_masks(kind: str, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 7, 6, 5)
    prediction = torch.randint(0, 7, shape, generator=generator).to(getattr(torch, kind))
    reference = torch.randint(0, 5, shape, generator=generator)
    if kind != "uint8":
        prediction[0, 0, 0] = -3  # no class, and neither are halves
        reference[0, 0, 1] = 255
    if kind == "float32":
        prediction[1, 0, 2] = 1.5
    valid = torch.rand(shape, generator=generator) < 0.7 if masked else None
    for classes, channels in ((5, [1, 2, 4]), (2, [1]), (3, [1, 2])):
        found = class_dice(prediction, reference, channels, classes, "softmax", valid)
        torch.testing.assert_close(
            found.double(), by_comparison(prediction, reference, channels, valid).double(), equal_nan=True
        )
