# SPDX-License-Identifier: Apache-2.0
"""Clean scores that leave nothing to lose are said."""

from __future__ import annotations

import torch

from monai_adversarial.metrics.clean_score import low_clean_caution


def test_samples_below_the_limit_are_counted_and_undefined_ones_are_not() -> None:
    assert low_clean_caution(torch.tensor([0.5, 0.9])) == "" == low_clean_caution(torch.tensor([float("nan")]))
    said = low_clean_caution(torch.tensor([0.4, float("nan"), 0.5, 0.0]))
    assert said.startswith("caution: the clean Dice is below 0.5 in 2 of 3, so that little can be lost")
