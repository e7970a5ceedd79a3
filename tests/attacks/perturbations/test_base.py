# SPDX-License-Identifier: Apache-2.0
"""What a perturbation gets without writing it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbations import BoundPerturbation, BudgetError, Chain, Parameters, Perturbation
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene
from tests.helpers import tiny_segmentation_network


class Gamma(Perturbation):
    """Contrast inside the window: ``value ** exponent``, the logarithm of the exponent at most ``most``."""

    budget_attributes = ("most",)

    def __init__(self, most: float = 0.3) -> None:
        self.most = most

    def bind(self, scene: Scene) -> BoundGamma:
        return BoundGamma(self, scene)


class BoundGamma(BoundPerturbation):
    def __init__(self, perturbation: Gamma, scene: Scene) -> None:
        super().__init__(scene)
        self.most = perturbation.most

    @property
    def radii(self) -> Parameters:
        return (self.scene.image.new_full((1, 1), self.most),)

    def zeros(self) -> Parameters:
        return (self.scene.image.new_zeros(self.scene.batch, 1),)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        low, high = -175.0, 250.0
        exponent = parameters[0].exp().view(-1, *[1] * (image.ndim - 1))
        value = ((image - low) / (high - low)).clamp(0, 1)
        changed = image + (value.clamp_min(1e-6) ** exponent - value.clamp_min(1e-6)) * (high - low)
        return changed if self.scene.region is None else torch.where(self.scene.region, changed, image)


class Projected(BoundGamma):
    """The same budget said by a projection instead of a width."""

    radii = BoundPerturbation.radii

    def project(self, parameters: Parameters) -> Parameters:
        return (parameters[0].clamp(-self.most, self.most),)


class Shift(BoundPerturbation):
    """One vector per sample in a ball of 2, added to the first voxels of each sample."""

    norms = ("l2",)

    @property
    def radii(self) -> Parameters:
        return (torch.full((1, 1), 2.0),)

    def zeros(self) -> Parameters:
        return (torch.zeros(self.scene.batch, 4),)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        rest = image.new_zeros(image.shape[0], image[0].numel() - 4)
        return image + torch.cat([parameters[0] * 100, rest], dim=1).view(image.shape)


@pytest.mark.parametrize("kind", [BoundGamma, Projected])
def test_a_width_or_a_projection_is_enough(kind: type[BoundGamma]) -> None:
    scene = hounsfield_scene(batch=2)
    bound = kind(Gamma(0.3), scene)
    torch.testing.assert_close(bound.radii[0].expand(2, 1), torch.full((2, 1), 0.3))
    (far,) = bound.project((torch.tensor([[9.0], [-0.1]]),))
    torch.testing.assert_close(far, torch.tensor([[0.3], [-0.1]]))
    (draw,) = bound.random(scene.generators())
    assert float(draw.abs().max()) <= 0.3 and float(draw[0]) != float(draw[1])
    (control,) = bound.random_control(scene.generators(1), (far,))
    torch.testing.assert_close(control.abs(), far.abs())
    finished = bound.apply(scene.image, (far,))
    measured = bound.verify(scene.image, finished, (far,))
    assert float(measured["outside_budget"].values.max()) == 0
    bound.verify(scene.image, bound.quantize(scene.image, finished, (far,)), (far,), rounding=0.5)
    with pytest.raises(BudgetError, match="outside_budget of sample 1"):
        too_far = (torch.tensor([[0.3], [0.33]]),)
        bound.verify(scene.image, bound.apply(scene.image, too_far), too_far)
    with pytest.raises(BudgetError, match="unexplained_change"):
        bound.verify(scene.image, finished + 9, (far,))


def test_a_ball_projects_draws_and_controls_by_its_length() -> None:
    scene = hounsfield_scene(batch=2)
    bound = Shift(scene)
    (far,) = bound.project((torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0]]),))
    torch.testing.assert_close(far.norm(dim=1), torch.tensor([2.0, 0.5]))
    (control,) = bound.random_control(scene.generators(), (far,))
    torch.testing.assert_close(control.norm(dim=1), far.norm(dim=1))
    bound.verify(scene.image, bound.apply(scene.image, (far,)), (far,))


def test_a_perturbation_that_says_no_budget_is_refused_in_one_sentence() -> None:
    class Endless(BoundGamma):
        radii = BoundPerturbation.radii

    with pytest.raises(TypeError, match="Endless must define radii"):
        Endless(Gamma(), hounsfield_scene()).random(hounsfield_scene().generators())


def test_leaving_the_range_or_the_region_is_found_for_every_perturbation() -> None:
    scene = hounsfield_scene(batch=1)
    bound = Shift(scene)
    down = (torch.tensor([[-2.0, 0.0, 0.0, 0.0]]),)
    lung = replace(scene, image=torch.full_like(scene.image, -900.0))
    with pytest.raises(BudgetError, match="outside_valid_range of sample 0 is 76 HU"):
        Shift(lung).verify(lung.image, Shift(lung).apply(lung.image, down), down)
    region = torch.ones_like(scene.image, dtype=torch.bool)
    region.view(-1)[0] = False
    with pytest.raises(BudgetError, match="change_outside_region of sample 0 is 200 HU"):
        Shift(replace(scene, region=region)).verify(scene.image, bound.apply(scene.image, down), down)


@pytest.mark.parametrize("chained", [False, True])
def test_an_attack_runs_on_it(chained: bool) -> None:
    scene = hounsfield_scene((8, 8, 8), batch=2)
    perturbation: Perturbation = Chain([Gamma(0.5), Gamma(0.5)]) if chained else Gamma(0.5)
    model = AttackedModel(tiny_segmentation_network(), intensity=WINDOW, image_units="HU", round_to_integer=True)
    label = (scene.image > 60).long()
    result = Attack(perturbation, steps=4, seed=1)(model, scene.image.round(), label)
    assert float(result.parameters[0].abs().max()) <= 0.5
    assert float(result.objective_history[-1].mean()) >= float(result.objective_history[0].mean())
    assert torch.equal(result.adversarial, result.adversarial.round())
    smaller = Attack(perturbation).scaled(0.5).perturbation
    assert smaller.bind(scene).radii[0].flatten().tolist() == [0.25]
