# SPDX-License-Identifier: Apache-2.0
"""GeneratedAttack refuses at once what its generator cannot follow."""

from __future__ import annotations

from typing import Any

import pytest

from monai_adversarial.attacks import AdditiveNoise
from monai_adversarial.generators import GeneratedAttack, Settings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drop": 0.5}, "drop=0.5 needs a generator trained for it: give settings drops="),
        ({"steps": 3}, "steps is no choice of a generator, got 3:"),
    ],
)
def test_what_a_generator_cannot_follow_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GeneratedAttack(AdditiveNoise(8, units="HU"), "dice", [1], Settings(), channels=(4,), **options)
