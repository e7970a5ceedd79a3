# SPDX-License-Identifier: Apache-2.0
"""Goals in ml and mm: values in closed form, success judged on the decision, windows, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import (
    PGD,
    AttackResult,
    BoundaryShift,
    CreateOrgan,
    ElasticAttack,
    EraseOrgan,
    Objective,
    OrganVolume,
    RandomSearch,
    ThresholdCrossing,
)
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.perturbations import AdditiveNoise
from monai_adversarial.models import AttackedModel
from tests.helpers import LinearNetwork, random_image

PROGRESS = Progress(0, 1)
SPACING = (5.0, 5.0, 4.0)  # 0.1 ml
WINDOWS = SlidingWindowInferer((6, 6, 6), 3, 0.5)


class Bands(torch.nn.Module):
    """Background below 0.4, organ 1 from 0.4 to 0.6, organ 2 above: logits that are linear in the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0 * image, 40 * (image - 0.4), 80 * (image - 0.5)], dim=1)


def model(inferer: Any = None, activation: str = "softmax") -> AttackedModel:
    if activation == "sigmoid":
        network: torch.nn.Module = LinearNetwork((40.0, 40.0), (-16.0, -24.0))
        return AttackedModel(network, inferer, activation="sigmoid", output_values="logits")
    return AttackedModel(Bands(), inferer, activation="softmax", output_values="logits")


def bands(batch: int = 2) -> torch.Tensor:
    """Layers along the first axis: 4 of background, 4 of organ 1, 2 of organ 2, and noise."""
    image = torch.empty(batch, 1, 10, 8, 8)
    image[:, :, :4], image[:, :, 4:8], image[:, :, 8:] = 0.36, 0.5, 0.64
    return image + 0.02 * (random_image(tuple(image.shape)) - 0.5)


def create_mask() -> torch.Tensor:
    inside = torch.zeros(1, 1, 10, 8, 8, dtype=torch.bool)
    inside[:, :, 1:3, 2:6, 2:6] = True
    return inside


GOALS: dict[str, Callable[[], Objective]] = {
    "grow": lambda: OrganVolume(2, 3.0),
    "shrink": lambda: OrganVolume(1, -3.0),
    "erase": lambda: EraseOrgan(2),
    "create": lambda: CreateOrgan(1, create_mask()),
    "outward": lambda: BoundaryShift(2, 5.0),
    "inward": lambda: BoundaryShift(1, -5.0),
    "up": lambda: ThresholdCrossing({2: 1}, {1: 1, 2: 1}, 0.5),
    "down": lambda: ThresholdCrossing({2: 1}, {1: 1, 2: 1}, 0.2),
}


def attack(name: str, epsilon: float = 0.12, inferer: Any = None, **options: Any) -> AttackResult:
    made = PGD(epsilon, steps=6, objective=GOALS[name](), **options)
    return made(model(inferer), bands(), spacing=SPACING)


def clean_batch(image: torch.Tensor) -> tuple[torch.Tensor, CleanBatch]:
    logits = Bands()(image)
    prediction = logits.argmax(dim=1, keepdim=True)
    table = torch.tensor([SPACING] * len(image), dtype=torch.float64)
    return logits, CleanBatch(image, prediction, "softmax", table, lambda _: prediction)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("name", GOALS)
def test_goals_are_reached_and_judged_on_the_decision(name: str, windows: bool) -> None:
    strong = attack(name, inferer=WINDOWS if windows else None)
    assert strong.success.all(), strong
    assert strong.success_rule == GOALS[name]().success_rule != ""
    assert float(strong.budgets["noise_linf"].values.max()) <= 0.12 + 1e-6
    # Too small a budget: no success, however low the Dice; and nothing is lost by a larger one.
    weak = attack(name, 0.005)
    assert not weak.success.any()


@pytest.mark.parametrize("name", GOALS)
def test_a_larger_budget_and_gradients_are_worth_something(name: str) -> None:
    reached = [attack(name, epsilon).objective for epsilon in (0.03, 0.06, 0.12)]
    assert (reached[0] <= reached[1] + 1e-6).all() and (reached[1] <= reached[2] + 1e-6).all()
    search = Attack(AdditiveNoise(0.12), GOALS[name](), RandomSearch(), steps=6)
    by_chance = search(model(), bands(), spacing=SPACING)
    assert (by_chance.objective < reached[2]).all()
    stopped = attack(name, early_stop=True)
    assert stopped.success.all() and stopped.backwards <= 12


def test_volumes_are_ml_of_the_decision() -> None:
    result = attack("grow")
    before = (result.clean_prediction == 2).flatten(1).sum(dim=1) * 0.1
    after = (result.prediction == 2).flatten(1).sum(dim=1) * 0.1
    torch.testing.assert_close(before, torch.full((2,), 12.8))
    assert (after - before >= 3.0 - 1e-6).all()
    torch.testing.assert_close(result.objective, (after - before) / 3.0)  # the best point is ranked by hard volumes


def test_the_soft_volume_is_the_sum_of_probabilities() -> None:
    image = bands().double().requires_grad_()
    logits, clean = clean_batch(image)
    objective = OrganVolume(1, -2.0)
    target = objective.prepare(Target(3, index=clean.prediction[:, 0]), clean)
    value, rank = objective.value_and_rank(logits, target, PROGRESS)
    volume = logits.softmax(dim=1)[:, 1].flatten(1).sum(dim=1) * 0.1
    torch.testing.assert_close(value, (volume - 4 * 64 * 0.1) / -2.0)
    torch.testing.assert_close(rank, torch.zeros_like(rank))
    (gradient,) = torch.autograd.grad(value.sum(), image, retain_graph=True)
    (known,) = torch.autograd.grad(-volume.sum() / 2, image)
    torch.testing.assert_close(gradient, known)


def test_a_ratio_is_that_of_the_volumes() -> None:
    image = bands()
    logits, clean = clean_batch(image)
    objective = ThresholdCrossing({2: 1.0, 1: -0.25}, {1: 1.0, 2: 1.0}, 0.5)
    target = objective.prepare(Target(3, index=clean.prediction[:, 0]), clean)
    _, rank = objective.value_and_rank(logits, target, PROGRESS)
    ratio = (128 - 0.25 * 256) / 384
    torch.testing.assert_close(rank, torch.full((2,), ratio - 0.5))
    only = torch.full_like(clean.prediction, 2)
    assert objective.succeeded(only, target).all() and not objective.succeeded(clean.prediction, target).any()
    # Everything gone: there is no ratio, which is no success.
    down = ThresholdCrossing({2: 1}, {1: 1, 2: 1}, 0.2)
    prepared = down.prepare(Target(3, index=clean.prediction[:, 0]), clean)
    assert not down.succeeded(torch.zeros_like(only), prepared).any()
    nothing = torch.tensor([5.0, -5.0, -5.0]).view(1, 3, 1, 1, 1).expand(2, 3, 10, 8, 8)
    value, lost = down.value_and_rank(nothing, prepared, PROGRESS)
    assert value.isfinite().all() and (lost < -1e30).all()


@pytest.mark.parametrize("name", ["erase", "create", "outward", "inward"])
def test_margins_count_at_the_wanted_voxels_alone(name: str) -> None:
    image = bands().double()
    logits, clean = clean_batch(image)
    objective = GOALS[name]()
    target = objective.prepare(Target(3, index=clean.prediction[:, 0]), clean)
    voxels = {
        "erase": clean.prediction >= 0,
        "create": create_mask().expand_as(clean.prediction),
        "outward": (clean.prediction != 2) & (torch.arange(10).view(1, 1, -1, 1, 1) == 7),
        "inward": (clean.prediction == 1) & torch.isin(torch.arange(10), torch.tensor([4, 7])).view(1, 1, -1, 1, 1),
    }[name][:, 0]
    organ = objective.organ  # type: ignore[attr-defined]
    others = [number for number in range(3) if number != organ]
    margin = logits[:, others].amax(dim=1) - logits[:, organ]
    loss = -margin.clamp_min(-1.0) if name in ("create", "outward") else margin.clamp_max(1.0)
    expected = torch.stack([loss[n][voxels[n]].mean() for n in range(2)])
    value, rank = objective.value_and_rank(logits, target, PROGRESS)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(rank, torch.full_like(rank, 0.8 if name == "erase" else 0.0))
    assert not objective.succeeded(clean.prediction, target).any()


def test_erasing_and_creating_do_what_they_say() -> None:
    erased = attack("erase")
    assert ((erased.prediction == 2).flatten(1).sum(dim=1) <= 0.05 * 128).all()
    created = attack("create")
    inside = create_mask().expand_as(created.prediction)
    assert ((created.prediction == 1) & inside).flatten(1).sum(dim=1).ge(16).all()
    by_region = PGD(0.12, steps=6, objective=CreateOrgan(1))(model(), bands(), objective_region=inside, spacing=SPACING)
    assert torch.equal(by_region.adversarial, created.adversarial)


@pytest.mark.parametrize(
    "objective",
    [OrganVolume(1, 3.0), EraseOrgan(1), CreateOrgan(0, create_mask()), ThresholdCrossing({1: 1}, {0: 1}, 0.5)],
)
def test_sigmoid_channels_are_organs(objective: Objective) -> None:
    result = PGD(0.12, steps=6, objective=objective)(model(activation="sigmoid"), bands(), spacing=SPACING)
    assert result.success.all(), result
    channel = 0 if isinstance(objective, CreateOrgan) else 1
    moved = (result.prediction[:, channel] > 0).flatten(1).sum(dim=1)
    before = (result.clean_prediction[:, channel] > 0).flatten(1).sum(dim=1)
    assert ((moved < before) if isinstance(objective, EraseOrgan) else (moved > before)).all()


@pytest.mark.parametrize("name", GOALS)
def test_samples_do_not_depend_on_each_other(name: str) -> None:
    together = attack(name)
    alone = PGD(0.12, steps=6, objective=GOALS[name]())(model(), bands()[1:], spacing=SPACING)
    torch.testing.assert_close(alone.adversarial, together.adversarial[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrganVolume(1, 0.0), "change must be a finite number of ml other than 0"),
        (lambda: OrganVolume(1, math.nan), "change must be a finite number of ml"),
        (lambda: OrganVolume(3, 1.0), "organ must be one of the network's organs 1 to 2, got 3"),
        (lambda: OrganVolume(0, 1.0), "organ must be one of the network's organs 1 to 2, got 0"),
        (lambda: OrganVolume(2, -13.0), "more than the 12.8 ml of organ 2 in the clean prediction of sample 0"),
        (lambda: EraseOrgan(5), "organ must be one of the network's organs"),
        (lambda: EraseOrgan(2, left=1.5), "left must be a number from 0 to 1"),
        (lambda: CreateOrgan(1), "inside= or objective_region= must say where"),
        (lambda: CreateOrgan(1, create_mask()[..., 1:]), "inside must have shape"),
        (lambda: CreateOrgan(1, create_mask() & False), "must have a voxel to change, but sample 0 has none"),
        (lambda: CreateOrgan(0 + 1, ~create_mask(), share=0.2), "without an attack in sample 0"),
        (lambda: BoundaryShift(1, 0.0), "distance must be a finite number of mm other than 0"),
        (lambda: BoundaryShift(2, 1.0), "must have a voxel to change"),
        (lambda: ThresholdCrossing({}, {1: 1}, 0.5), "numerator must map classes to factors"),
        (lambda: ThresholdCrossing({1: 1}, {7: 1}, 0.5), "denominator must be one of the network's organs"),
        (lambda: ThresholdCrossing({1: 1}, {1: -1}, 0.5), "denominator must be above 0 in the clean prediction"),
        (lambda: ThresholdCrossing({1: 1}, {2: 1}, math.inf), "threshold must be a finite number"),
    ],
)
def test_what_cannot_be_wanted_is_one_sentence(make: Callable[[], Objective], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(0.1, steps=1, objective=make())(model(), bands(), spacing=SPACING)


@pytest.mark.parametrize("name", ["grow", "outward"])
def test_mm_and_ml_need_a_voxel_size(name: str) -> None:
    with pytest.raises(ValueError, match="spacing is missing: .* needs the size of a voxel"):
        PGD(0.1, steps=1, objective=GOALS[name]())(model(), bands())


def test_a_missing_organ_and_contradictions_are_refused() -> None:
    dark = bands().clamp_max(0.5)
    with pytest.raises(
        ValueError, match="organ 2 is not in the clean prediction of sample 0: there is nothing to erase"
    ):
        PGD(0.1, objective=EraseOrgan(2))(model(), dark)
    with pytest.raises(ValueError, match="it has no boundary"):
        PGD(0.1, objective=BoundaryShift(2, 5.0))(model(), dark, spacing=SPACING)
    with pytest.raises(ValueError, match="targeted must be False with EraseOrgan"):
        PGD(0.1, objective=EraseOrgan(2), targeted=True)(model(), bands(), torch.zeros(2, 1, 10, 8, 8))
    with pytest.raises(ValueError, match="leaves the anatomy where it is"):
        ElasticAttack(2.0, objective=OrganVolume(2, 3.0))(model(), bands(), spacing=SPACING)
