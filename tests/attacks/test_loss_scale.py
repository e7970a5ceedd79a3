# SPDX-License-Identifier: Apache-2.0
"""One factor of the objective for all networks that are followed together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from monai_adversarial.attacks.ascent import Ascent
from monai_adversarial.utils.precision import FLOAT16_LOSS_SCALE, FLOAT32_LOSS_SCALE


@pytest.mark.parametrize(
    ("scales", "chosen"),
    [
        ((1.0,), 1.0),
        ((1.0, FLOAT32_LOSS_SCALE), FLOAT32_LOSS_SCALE),
        ((FLOAT16_LOSS_SCALE, 1.0), FLOAT16_LOSS_SCALE),
        ((FLOAT32_LOSS_SCALE, FLOAT16_LOSS_SCALE), FLOAT16_LOSS_SCALE),  # the other would overflow float16
    ],
)
def test_the_factor_fits_the_smallest_range_among_them(scales, chosen):
    followed = tuple(SimpleNamespace(precision=SimpleNamespace(loss_scale=scale)) for scale in scales)
    run = SimpleNamespace(predictor=SimpleNamespace(surrogates=followed))
    assert Ascent._loss_scale.fget(run) == chosen
