# SPDX-License-Identifier: Apache-2.0
"""Objectives averaged over sliding windows: the gradient of the average, in one forward and one backward pass each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from torch import nn

from monai_adversarial.attacks import (
    PGD,
    BackwardPassSubstitute,
    Dice,
    ExactGradient,
    ExpectationOverTransformation,
    WindowwiseGradient,
)
from monai_adversarial.attacks.objectives import AdditiveObjective, Progress, Target, get_objective
from monai_adversarial.attacks.window_objective import WindowObjective
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.inferers.memory_bounded import MemoryBoundedSlidingWindowInferer, memory_bounded
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.intensity_map import IntensityMap
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.purifiers.examples import Doubled

SHAPE = (2, 1, 12, 11, 7)
PROGRESS = Progress(0, 4)
INFERERS = {
    "constant": SlidingWindowInferer(8, 1, 0.25),
    "gaussian": SlidingWindowInferer((8, 6, 8), 3, 0.5, mode="gaussian"),
    "padded": SlidingWindowInferer((8, 8, 10), 2, 0.25, padding_mode="reflect"),
    "no overlap": SlidingWindowInferer((6, 11, 7), 1, 0.0),
}


def double(network: nn.Module) -> nn.Module:
    return network.double().eval().requires_grad_(False)


def setting(inferer: Any, objective: AdditiveObjective, classes: int = 3, **options: Any):
    torch.manual_seed(0)
    network = double(tiny_segmentation_network(out_channels=classes))
    image, label = random_image(SHAPE).double(), random_label(SHAPE, max(classes, 2))
    model = AttackedModel(network, inferer, precision="float32", **options)
    predictor = Predictor(model, image)
    predictor.learn(image)
    target = Target.from_label(label, classes, model.activation_of(classes))
    return network, image, target, predictor, WindowObjective(predictor, objective, False, None)


def by_hand(network: nn.Module, image: torch.Tensor, target: Target, inferer: Any, objective: AdditiveObjective):
    """The sums of each window's own logits, weighted as windows are blended, with autograd through everything."""
    plan = memory_bounded(inferer).plan(image, network)
    weight = plan.windows.weight
    weight = torch.ones(1, 1, *plan.windows.window_size).double() if weight is None else weight
    blended = torch.zeros(plan.image.shape[2:]).double()
    for where in plan.windows.slices:
        blended[where] += weight[0, 0]
    rows = []
    for row in range(image.shape[0]):
        total = None
        for where in plan.windows.slices:
            logits = network(plan.image[(slice(row, row + 1), slice(None), *where)])
            inner, box = plan.inside(where)
            share = (weight[0, 0] / blended[where])[box][None]
            part = target.part(slice(row, row + 1), inner, share)
            parts = objective.parts(logits[(slice(None), slice(None), *box)], part, PROGRESS, False)
            total = parts if total is None else tuple(a + b for a, b in zip(total, parts, strict=True))
        rows.append(total)
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("inferer", INFERERS.values(), ids=INFERERS.keys())
@pytest.mark.parametrize("name", ["cross_entropy", "balanced_masked_cross_entropy", "segpgd", "margin"])
def test_means_over_voxels_have_the_gradient_of_the_average_over_windows(inferer: Any, name: str) -> None:
    objective = get_objective(name)
    assert isinstance(objective, AdditiveObjective)
    network, image, target, _, windowed = setting(inferer, objective)
    leaf, hand = image.clone().requires_grad_(), image.clone().requires_grad_()
    values, _ = windowed(leaf, target, PROGRESS)
    expected = objective.combine(by_hand(network, hand, target, inferer, objective), target)[0]
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    factors = torch.tensor([1.0, -2.0]).double()
    found = torch.autograd.grad((values * factors).sum(), leaf)[0]
    wanted = torch.autograd.grad((expected * factors).sum(), hand)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("inferer", INFERERS.values(), ids=INFERERS.keys())
@pytest.mark.parametrize("options", [{}, {"activation": "sigmoid"}], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["dice", "dice_ce"])
def test_dice_has_the_class_weights_of_the_step_before(inferer: Any, name: str, options: dict) -> None:
    objective = get_objective(name)
    assert isinstance(objective, AdditiveObjective)
    network, image, target, _, windowed = setting(inferer, objective, **options)
    before = by_hand(network, image, target, inferer, objective)
    windowed(image, target, PROGRESS)
    moved = (image + 0.1 * torch.randn_like(image)).requires_grad_()
    hand = moved.detach().clone().requires_grad_()
    values, ranks = windowed(moved, target, PROGRESS)
    parts = by_hand(network, hand, target, inferer, objective)
    torch.testing.assert_close(values, objective.combine(parts, target)[0], rtol=1e-10, atol=1e-12)
    assert torch.equal(values, ranks)
    slopes = objective.slopes(before, target.part())
    linear = sum((part * slope).sum() for part, slope in zip(parts, slopes, strict=True))
    torch.testing.assert_close(
        torch.autograd.grad(values.sum(), moved)[0], torch.autograd.grad(linear, hand)[0], rtol=1e-8, atol=1e-14
    )


def test_without_overlap_it_is_the_objective_of_the_stitched_logits() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    model = AttackedModel(tiny_segmentation_network(), INFERERS["no overlap"], precision="float32")
    window, exact = (
        PGD(0.1, steps=3, objective="ce", gradient=gradient)(model, image, label)
        for gradient in (WindowwiseGradient(), ExactGradient())
    )
    torch.testing.assert_close(window.adversarial, exact.adversarial, atol=1e-6, rtol=0)
    torch.testing.assert_close(window.objective_history, exact.objective_history)


@pytest.mark.parametrize("inferer", [*INFERERS.values(), SliceInferer(roi_size=(8, 8), spatial_dim=2)])
def test_predictions_are_those_of_monai_to_the_bit(inferer: Any) -> None:
    image = random_image(SHAPE)
    network = tiny_segmentation_network()
    if isinstance(inferer, SliceInferer):
        network = nn.Conv2d(1, 3, 3, padding=1)
    result = PGD(0.1, steps=2)(AttackedModel(network, inferer), image, random_label(SHAPE))
    with torch.no_grad():
        assert torch.equal(result.clean_prediction, inferer(image, network).argmax(1, keepdim=True).to(torch.uint8))
        found = inferer(result.adversarial, network).argmax(1, keepdim=True)
    assert torch.equal(result.prediction, found.to(torch.uint8))


class Counting(nn.Module):
    """A network that counts the windows that it sees, and those that go backward."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards, self.alive, self.most = tiny_segmentation_network(), 0, 0, 0, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.forwards += image.shape[0]
        found = self.inner(image)
        if found.requires_grad:
            self.alive += 1
            self.most = max(self.most, self.alive)
            found.register_hook(self._back)
        return found

    def _back(self, gradient: torch.Tensor) -> None:
        self.backwards += gradient.shape[0]
        self.alive -= 1


def test_one_forward_and_one_backward_pass_per_window_and_one_graph_at_a_time() -> None:
    network = Counting()
    model = AttackedModel(network, SlidingWindowInferer(8, 1, 0.25, mode="gaussian"))
    image, label = random_image((1, 1, 20, 20, 14)), random_label((1, 1, 20, 20, 14))
    windows = 3 * 3 * 2
    result = PGD(0.1, steps=5)(model, image, label)
    # clean, five steps, the last point with its score
    again = int(not torch.equal(result.objective_history[-1], result.objective))
    assert (network.forwards, network.backwards, network.most) == (windows * (7 + again), windows * 5, 1)
    assert (result.forwards, result.backwards) == (7 + again, 5)
    exact = Counting()
    twice = MemoryBoundedSlidingWindowInferer(8, 1, 0.25, mode="gaussian", keep_windows_megabytes=0)
    PGD(0.1, steps=5, gradient=ExactGradient())(AttackedModel(exact, twice), image, label)
    assert exact.forwards >= windows * 7 + 5 * (windows - 1), "the gradient of blended logits takes a second pass"


@pytest.mark.parametrize("which", ["region", "objective_region", "air"])
def test_windows_that_nothing_touches_are_left_out_without_a_change_to_the_bit(which: str) -> None:
    shape = (1, 1, 24, 8, 8)
    image, label = random_image(shape), random_label(shape)
    inferer = SlidingWindowInferer(8, 1, 0.0)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, :, 2:6] = True  # in the first of three windows
    regions: dict[str, Any] = {which: mask}
    options: dict[str, Any] = {}
    attack = PGD(0.05, steps=3)
    if which == "air":
        image = torch.where(mask, image * 100, torch.tensor(-1000.0))
        options, regions = {"intensity": IntensityMap.from_window(-175, 250), "image_units": "HU"}, {}
        attack = PGD(8, "HU", steps=3)

    def run(skips: bool) -> tuple[Any, int]:
        network = Counting()
        model = AttackedModel(network, inferer, **options)
        model.frozen_batches = 3  # as after the first batches: whether voxels without a gradient matter was looked at
        with pytest.MonkeyPatch.context() as patch:
            if not skips:
                patch.setattr("monai_adversarial.attacks.window_objective._touched", lambda r, b, m: [True] * len(b))
            return attack(model, image, label, **regions), network.forwards

    (found, passes), (whole, all_passes) = run(True), run(False)
    assert torch.equal(found.adversarial, whole.adversarial)
    torch.testing.assert_close(found.objective_history, whole.objective_history, rtol=1e-6, atol=0)
    assert all_passes == 3 * (1 + 3 + 1)
    # Where the perturbation cannot change a window it is run once; where the objective does not look, never.
    untouched = 0 if which == "objective_region" else 2
    assert passes == 3 + (3 + untouched) + 3


def test_a_random_purifier_or_network_is_never_left_out() -> None:
    shape = (1, 1, 24, 8, 8)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, :, 2:6] = True
    network = Counting()
    model = AttackedModel(network, PurifiedInferer(SlidingWindowInferer(8, 1, 0.0), Doubled()))
    PGD(0.05, steps=3)(model, random_image(shape), random_label(shape), region=mask)
    assert network.forwards == 3 * 5, "a purifier carries a change to other voxels"


@pytest.mark.parametrize("gradient", [BackwardPassSubstitute(), ExpectationOverTransformation(2), WindowwiseGradient()])
def test_estimators_around_it_work_window_by_window(gradient: Any) -> None:
    network = Counting()
    inferer = PurifiedInferer(SlidingWindowInferer(8, 1, 0.25), Doubled())
    image, label = random_image((1, 1, 14, 8, 8)), random_label((1, 1, 14, 8, 8))
    PGD(0.1, steps=2, gradient=gradient)(AttackedModel(network, inferer), image, label)
    assert network.backwards == 2 * 2 * getattr(gradient, "samples", 1) and network.most == 1


def test_a_training_attack_learns_what_the_output_is_before_its_first_step() -> None:
    network = Counting()
    model = AttackedModel(network, SlidingWindowInferer(8, 1, 0.25))
    image, label = random_image((1, 1, 14, 8, 8)), random_label((1, 1, 14, 8, 8))
    first, second = (PGD(0.1, steps=2).perturb(model, image, label).adversarial for _ in range(2))
    assert torch.equal(first, second) and network.forwards == 2 * (1 + 2 + 2)


def test_a_batch_does_not_change_what_happens_to_a_sample() -> None:
    model = AttackedModel(tiny_segmentation_network(), INFERERS["gaussian"], precision="float32")
    image, label = random_image(SHAPE), random_label(SHAPE)
    attack = PGD(0.1, steps=3, objective=Dice())
    both = attack(model, image, label)
    alone = attack(model, image[1:], label[1:])
    torch.testing.assert_close(both.adversarial[1:], alone.adversarial, atol=2e-6, rtol=0)


def test_a_network_that_ignores_its_input_is_named() -> None:
    class Constant(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros(image.shape[0], 3, *image.shape[2:]) + torch.arange(3.0).view(1, 3, 1, 1, 1)

    with pytest.raises(RuntimeError, match="does not depend on the image"):
        PGD(0.1, steps=1)(AttackedModel(Constant(), SlidingWindowInferer(8)), random_image(SHAPE), random_label(SHAPE))
