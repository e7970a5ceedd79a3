# SPDX-License-Identifier: Apache-2.0
"""How many volumes a call through sliding windows holds at once, counted exactly."""

from __future__ import annotations

import weakref

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.attacks.ascent import Ascent
from monai_adversarial.attacks.gradients.base import Evaluation
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label
from tests.peak_bytes import PeakBytes

SIZE = 64


def live_volumes(classes: int, steps: int = 2) -> float:
    """Live storages at the peak of a call, in float32 volumes; the image and the label are not counted."""
    torch.manual_seed(0)
    network = nn.Conv3d(1, classes, 1).eval().requires_grad_(False)
    shape = (1, 1, SIZE, SIZE, SIZE)
    image, label = random_image(shape), random_label(shape, classes)
    model = AttackedModel(network, SlidingWindowInferer(SIZE // 2, 1, 0.25), precision="float32")
    with PeakBytes(network) as memory:
        memory.known |= {tensor.untyped_storage()._cdata: 0 for tensor in (image, label)}
        PGD(0.02, steps=steps)(model, image, label)
    return memory.peak / (4 * SIZE**3)


@pytest.mark.parametrize(("classes", "most"), [(3, 9.1), (14, 14.0), (105, 53.0)])
def test_live_volumes_at_the_peak_of_a_call(classes: int, most: float) -> None:
    assert live_volumes(classes) <= most


def test_more_steps_hold_no_more() -> None:
    assert live_volumes(3, steps=6) == pytest.approx(live_volumes(3, steps=3), abs=0.01)


def test_no_step_holds_the_point_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[weakref.ref[torch.UntypedStorage]] = []
    held: list[bool] = []
    evaluate = Ascent._evaluate

    def watched(self: Ascent, step: int, point: Parameters) -> Evaluation:
        held.append(any(one() is not None for one in points))
        points[:] = [weakref.ref(point[0].untyped_storage())]
        return evaluate(self, step, point)

    monkeypatch.setattr(Ascent, "_evaluate", watched)
    PGD(0.02, steps=4)(nn.Conv3d(1, 3, 1).eval(), random_image((1, 1, 8, 8, 8)), random_label((1, 1, 8, 8, 8), 3))
    assert held == [False] * 4
