# SPDX-License-Identifier: Apache-2.0
"""Landmarks of a network that answers one heatmap each: moved where an attacker wants them, the others left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import MIFGSM, PGD, LandmarkHeatmaps
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.attacks.targets import landmark_balls
from monai_adversarial.metrics import landmark_distance
from monai_adversarial.models import AttackedModel

SPACING = (2.0, 1.0, 1.0)
POINTS = [[[3, 6, 6], [8, 14, 6], [8, 6, 14]]]
#: brightness of each landmark's ball
VALUES = (0.31, 0.52, 0.77)


class Heatmaps(nn.Module):
    """A heatmap is high where the smoothed image has the landmark's brightness."""

    def __init__(self, axes: int = 3) -> None:
        super().__init__()
        self.axes = axes
        self.values = nn.Parameter(torch.tensor(VALUES))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pool = nn.functional.avg_pool3d if self.axes == 3 else nn.functional.avg_pool2d
        away = pool(image, 3, stride=1, padding=1) - self.values.view(1, -1, *[1] * self.axes)
        return 3 - 500 * away.square()


def case(axes: int = 3) -> tuple[AttackedModel, torch.Tensor, torch.Tensor, list[list[list[int]]]]:
    points = [[point[3 - axes :] for point in POINTS[0]]]
    shape = (12, 20, 20)[3 - axes :]
    balls = landmark_balls(points, torch.zeros(1, 1, *shape), 3.0, spacing=SPACING[3 - axes :])
    image = sum(value * balls[:, n : n + 1] for n, value in enumerate(VALUES))
    assert isinstance(image, torch.Tensor)
    model = AttackedModel(Heatmaps(axes), activation="sigmoid", output_values="logits", precision="float32")
    return model, image, balls, points


def test_weights_are_the_published_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 5, 4), generator=generator, dtype=torch.float64).requires_grad_()
    label = (torch.rand((2, 3, 5, 4), generator=generator) > 0.7).double()
    target = Target.from_label(label, 3, activation="sigmoid")
    value, rank = LandmarkHeatmaps().value_and_rank(logits, target, Progress(0, 1))
    bce = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="none").flatten(2).mean(dim=2)
    torch.testing.assert_close(rank, bce.mean(dim=1).detach())
    torch.testing.assert_close(value, (bce.square().sum(dim=1) / bce.mean(dim=1)))
    (found,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
    weights = (bce / bce.mean(dim=1, keepdim=True)).detach()
    (expected,) = torch.autograd.grad((weights * bce).sum(), logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_one_landmark_moves_and_the_others_stay(axes: int) -> None:
    model, image, label, points = case(axes)
    spacing = SPACING[3 - axes :]
    elsewhere = [[list(point) for point in points[0]]]
    elsewhere[0][0] = [10, 12, 12][3 - axes :] if axes == 3 else [16, 16]
    wanted = landmark_balls(elsewhere, image, 3.0, spacing=spacing)
    attack = PGD(0.3, steps=20, targeted=True, objective=LandmarkHeatmaps(), random_start=False)
    result = attack(model, image, wanted, truth=label, spacing=spacing)
    before, after = (model.network(one).detach() for one in (image, result.adversarial))
    assert float(landmark_distance(before, points, spacing=spacing).max()) < 3
    far, near = (landmark_distance(heatmaps, elsewhere, spacing=spacing)[0] for heatmaps in (before, after))
    assert float(far[0]) > 8 and float(near[0]) < 5 and float(near[1:].max()) < 3
    assert float(result.adversarial_dice) > float(result.clean_dice) + 0.2
    random, _ = result.random_control()
    stayed = landmark_distance(model.network(random).detach(), elsewhere, spacing=spacing)[0, 0]
    assert float(stayed) > float(near[0]) + 2


def test_untargeted_and_momentum() -> None:
    model, image, label, _ = case()
    plain = MIFGSM(0.05, steps=5, objective=LandmarkHeatmaps())(model, image, label, spacing=SPACING)
    assert float(plain.adversarial_dice) < float(plain.clean_dice)


def test_samples_and_parts_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((3, 2, 6, 4), generator=generator)
    label = (torch.rand((3, 2, 6, 4), generator=generator) > 0.5).float()
    target = Target.from_label(label, 2, activation="sigmoid")
    whole = LandmarkHeatmaps().value(logits, target, Progress(0, 1))
    halves = [(slice(0, 2), slice(None)), (slice(2, 6), slice(None))]
    sums = [
        LandmarkHeatmaps().parts(logits[:, :, box[0]], target.part(where=box), Progress(0, 1), False)[0]
        for box in halves
    ]
    torch.testing.assert_close(LandmarkHeatmaps().combine((sums[0] + sums[1],), target)[0], whole)
    alone = LandmarkHeatmaps().value(logits[1:2], target.select(torch.tensor([1])), Progress(0, 1))
    torch.testing.assert_close(alone, whole[1:2])


def test_what_does_not_fit_is_one_sentence() -> None:
    model, image, label, _ = case()
    soft = AttackedModel(model.network, activation="softmax", output_values="logits")
    with pytest.raises(ValueError, match="needs one heatmap per landmark"):
        PGD(0.1, steps=1, objective=LandmarkHeatmaps())(soft, image, label.argmax(1, keepdim=True))
    with pytest.raises(ValueError, match="points must lie in the image"):
        landmark_balls([[[0, 0, 20]]], image, 3.0, spacing=1.0)
    with pytest.raises(ValueError, match="points must have shape"):
        landmark_balls([[0, 0, 0]], image, 3.0, spacing=1.0)
    with pytest.raises(ValueError, match="radius must reach a voxel"):
        landmark_balls([[[0.5, 0.5, 0.5]]], image, 0.5, spacing=1.0)
    with pytest.raises(ValueError, match="spacing is missing"):
        landmark_balls([[[0, 0, 0]]], image, 3.0)
    with pytest.raises(ValueError, match="spacing is missing"):
        landmark_distance(torch.zeros(1, 1, 4, 4), [[[0, 0]]])
    with pytest.raises(ValueError, match="to fit the heatmaps"):
        landmark_distance(torch.zeros(1, 1, 4, 4), [[[0, 0], [1, 1]]], spacing=1.0)
