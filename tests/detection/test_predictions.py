# SPDX-License-Identifier: Apache-2.0
"""Detectors by what the model says: squeezing, orientation, entropy."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import (
    EnsembleDisagreement,
    FeatureSqueezing,
    OrientationConsistency,
    PredictionEntropy,
)
from monai_adversarial.metrics import organ_dice
from monai_adversarial.models import AttackedModel, predict
from monai_adversarial.transforms import BitDepthReduction, GaussianDenoise, MedianDenoise


def by_hand(model, one, other, reduction):
    names = {1: "a", 2: "b", 3: "c"}
    dice = organ_dice(predict(model, one)[0], predict(model, other)[0], names, 4, "softmax").values()
    apart = [0.0 if math.isnan(value) else 1 - value for value in dice]
    return max(apart) if reduction == "max" else sum(apart) / 3


@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_feature_squeezing_is_one_minus_dice(reduction) -> None:
    model, image, label = example_case(16)
    attacked = PGD(6, units="HU", steps=3)(model, image, label).adversarial
    purifier = MedianDenoise()
    detector = FeatureSqueezing(model, [purifier], reduction)
    expected = by_hand(model, attacked, purifier(attacked[0])[None], reduction)
    assert float(detector.score(attacked)) == pytest.approx(expected, abs=1e-6) and expected > 0.1
    both = FeatureSqueezing(model, [purifier, GaussianDenoise()], reduction)
    assert float(both.score(attacked)) >= float(detector.score(attacked))


def test_attacker_of_a_step_function_gets_a_gradient() -> None:
    model, image, _ = example_case(16)
    detector = FeatureSqueezing(model, [BitDepthReduction(4)])
    detector.calibrate((example_case(16, seed)[1] for seed in range(1, 11)), 0.1)
    moving = image.as_tensor().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.excess(moving).sum(), moving)
    assert float(gradient.abs().max()) > 0


def test_orientation_consistency_by_hand() -> None:
    class Tilted(torch.nn.Module):
        """Says class 1 in the first half of the last axis whatever it sees."""

        def forward(self, image):
            ramp = torch.linspace(1, -1, image.shape[-1]).expand_as(image) + 0 * image
            return torch.cat([-ramp, ramp], dim=1)

    image = torch.rand(2, 1, 8, 8, 8)
    detector = OrientationConsistency(AttackedModel(Tilted()), flips=True, rotations=False)
    # of three flips one disagrees everywhere
    assert torch.allclose(detector.score(image), torch.full((2,), 1 / 3, dtype=torch.float64))
    turned = OrientationConsistency(AttackedModel(Tilted()), flips=False, rotations=True)
    # of three planes two hold the last axis: half of the halves agree, Dice 0.5
    assert torch.allclose(turned.score(image), torch.full((2,), 1 / 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="two axes with the same number"):
        turned.score(torch.rand(1, 1, 4, 6, 8))
    with pytest.raises(ValueError, match="not both be False"):
        OrientationConsistency(AttackedModel(Tilted()), flips=False, rotations=False)


def test_the_image_itself_is_segmented_once() -> None:
    model, image, _ = example_case(16)
    FeatureSqueezing(model, [MedianDenoise()]).score(image)  # what its answers are is known from now on
    seen = []
    hook = model.network.register_forward_hook(lambda module, inputs, output: seen.append(module))
    for detector, passes in (
        (OrientationConsistency(model), 7),  # three flips and three quarter turns of a cube
        (OrientationConsistency(model, rotations=False), 4),
        (FeatureSqueezing(model, [MedianDenoise(), GaussianDenoise()]), 3),
        (EnsembleDisagreement(model, [model, model]), 3),
    ):
        seen.clear()
        detector.score(image)
        assert len(seen) == passes
    hook.remove()


def test_entropy_by_hand_and_two_sided() -> None:
    class Log(torch.nn.Module):
        def forward(self, image):
            return torch.cat([image, -image], dim=1)

    model = AttackedModel(Log(), output_values="logits")
    image = torch.full((1, 1, 4, 4, 4), 0.5)
    p = 1 / (1 + math.exp(-1.0))
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    one_sided = PredictionEntropy(model, two_sided=False).fit([image, image + 0.1, image + 0.2])
    assert float(one_sided.score(image)) == pytest.approx(expected, rel=1e-5)
    detector = PredictionEntropy(model).fit([image, image + 0.1, image + 0.2])
    surer, less_sure = detector.score(image + 3), detector.score(image - 0.5)
    assert float(surer) > float(detector.score(image + 0.1)) and float(less_sure) > float(detector.score(image + 0.1))
    with pytest.raises(ValueError, match="2 clean cases of different entropy"):
        detector.fit([image])


def test_entropy_of_pieces_is_that_of_the_whole(windowed, cases) -> None:
    detector = PredictionEntropy(windowed, two_sided=False).fit(cases[:4])
    image = torch.cat([cases[5], cases[6]], dim=-1)
    moving = image.as_tensor().clone().requires_grad_()
    whole = detector._suspicion(moving, image, smooth=True)
    assert torch.allclose(detector.score(image), whole.detach(), atol=1e-6)
    (gradient,) = torch.autograd.grad(whole.sum(), moving)
    assert float(gradient.abs().max()) > 0
