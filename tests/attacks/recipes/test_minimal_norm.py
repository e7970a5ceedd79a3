# SPDX-License-Identifier: Apache-2.0
"""Minimal-norm attacks: closed forms, budgets on finished images, strength, independence of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    DDN,
    FAB,
    FMN,
    JSMA,
    PDPGD,
    AdditiveNoise,
    ALMAProx,
    Attack,
    AugmentedLagrangian,
    BudgetError,
    CarliniWagner,
    DDNSearch,
    DeepFool,
    DenseAdversaryGeneration,
    EasiestMargin,
    LBFGSAttack,
    MinimalNoise,
    MinimalNormAttack,
    OnePixel,
    SigmaZero,
)
from monai_adversarial.attacks.objectives import Progress, Target, get_objective
from monai_adversarial.attacks.objectives.augmented_lagrangian import penalty, penalty_slope
from monai_adversarial.attacks.perturbations.norms import into_ball, norm_of
from monai_adversarial.attacks.search.hyperplane import smallest_raise
from monai_adversarial.attacks.search.proximal import nearest_with_small_norm
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel
from tests.attacks.minimal_cases import distance, linear_case

# What a run ends within of the closed form, as a share of it.
EXACT: list[Any] = [
    ("l2", lambda **o: DeepFool("l2", steps=5, **o), 0.01),
    ("linf", lambda **o: DeepFool("linf", steps=5, **o), 0.01),
    ("l1", lambda **o: DeepFool("l1", steps=5, **o), 0.01),
    ("l2", lambda **o: FMN("l2", steps=60, **o), 0.03),
    ("linf", lambda **o: FMN("linf", steps=60, **o), 0.05),
    ("l1", lambda **o: FMN("l1", steps=120, **o), 0.05),
    ("l2", lambda **o: PDPGD("l2", steps=80, **o), 0.03),
    ("linf", lambda **o: PDPGD("linf", steps=60, **o), 0.03),
    ("l1", lambda **o: PDPGD("l1", steps=120, **o), 0.05),
    ("l2", lambda **o: DDN(steps=60, **o), 0.03),
    ("l2", lambda **o: FAB("l2", steps=10, **o), 0.01),
    ("linf", lambda **o: FAB("linf", steps=10, **o), 0.01),
    ("l1", lambda **o: FAB("l1", steps=10, **o), 0.01),
    pytest.param("l2", lambda **o: CarliniWagner("l2", steps=270, **o), 0.03, marks=pytest.mark.slow),
    pytest.param("linf", lambda **o: CarliniWagner("linf", steps=300, **o), 0.05, marks=pytest.mark.slow),
    ("l2", lambda **o: LBFGSAttack(steps=100, **o), 0.03),
    ("linf", lambda **o: ALMAProx(steps=120, **o), 0.05),
]


@pytest.mark.parametrize(("norm", "attack", "room"), EXACT)
def test_a_linear_decision_is_reached_at_its_distance(
    norm: str, attack: Callable[..., MinimalNormAttack], room: float
) -> None:
    hinge = {} if attack().objective.__class__ is AugmentedLagrangian else {"objective": EasiestMargin()}
    # One voxel has to make up for all of the margin in L1: it must not reach the end of its range.
    network, image, label = linear_case(batch=2, margin=0.5 if norm == "l1" else 5.0)
    # The margin, because it is what is linear.
    result = attack(**hinge)(network, image, label)
    exact = distance(network, image, norm)
    share = result.smallest_norm.values / exact
    assert bool(result.success.all()), result.adversarial_dice
    assert bool((share >= 1 - 1e-3).all()) and bool((share <= 1 + room).all()), share


EVERY: list[Callable[..., MinimalNormAttack]] = [
    lambda **o: CarliniWagner("l2", "HU", steps=27, **o),
    lambda **o: CarliniWagner("linf", "HU", steps=30, **o),
    lambda **o: DeepFool("l2", "HU", steps=8, **o),
    lambda **o: LBFGSAttack("HU", steps=27, **o),
    lambda **o: DDN("HU", steps=15, **o),
    lambda **o: FMN("linf", "HU", steps=15, **o),
    lambda **o: FMN("l1", "HU", steps=15, **o),
    lambda **o: FMN("l0", "HU", steps=25, block=4, **o),
    lambda **o: PDPGD("linf", "HU", steps=25, **o),
    lambda **o: PDPGD("l1", "HU", steps=25, **o),
    lambda **o: PDPGD("l0", "HU", steps=40, block=4, **o),
    lambda **o: FAB("linf", "HU", steps=15, **o),
    lambda **o: ALMAProx("HU", steps=40, **o),
    lambda **o: DenseAdversaryGeneration("linf", "HU", steps=40, **o),
    lambda **o: SigmaZero(4, "HU", steps=40, **o),
    lambda **o: JSMA(4, "HU", steps=25, largest_share=0.8, **o),
]


@pytest.mark.parametrize("attack", EVERY)
def test_each_beats_random_noise_of_its_norm_on_a_segmentation(attack: Callable[..., MinimalNormAttack]) -> None:
    model, image, label = example_case(16)
    result = attack()(model, image, label)
    assert bool(result.success) and float(result.adversarial_dice) < 0.5 * float(result.clean_dice)
    # Measured on what is handed back, in HU or in blocks.
    bound = result.bound
    change = result.adversarial.as_tensor().double() - image.as_tensor().double()
    torch.testing.assert_close(norm_of(change, result.norm, bound.block), result.smallest_norm.values)
    control, _ = result.random_control()
    size = norm_of(control.as_tensor().double() - image.as_tensor().double(), result.norm, bound.block)
    # The range of values can only shorten the control, and only a little.
    assert bool((size >= 0.9 * result.smallest_norm.values).all())
    scored = model.network(((control + 160) / 500).clamp(0, 1).as_tensor().float()).argmax(dim=1, keepdim=True)
    overlap = [
        2 * ((scored == c) & (label == c)).sum() / ((scored == c).sum() + (label == c).sum()) for c in range(1, 4)
    ]
    assert float(sum(overlap) / 3) > 1.2 * float(result.adversarial_dice)


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    model, first, first_label = example_case(16, seed=0)
    _, second, second_label = example_case(16, seed=1)
    image, label = torch.cat([first, second]), torch.cat([first_label, second_label])
    attacks = (DDN("HU", steps=8), FAB("linf", "HU", steps=4), SigmaZero(4, steps=8), PDPGD("l2", "HU", steps=8))
    for attack in attacks:
        together = attack(model, image, label)
        alone = [attack(model, image[row : row + 1], label[row : row + 1]) for row in range(2)]
        norms = torch.cat([one.smallest_norm.values for one in alone])
        torch.testing.assert_close(together.smallest_norm.values, norms, rtol=1e-3, atol=1e-3)
        assert together.success.tolist() == [bool(one.success) for one in alone]


def test_more_steps_never_end_with_a_larger_norm() -> None:
    network, image, label = linear_case()
    norms = [float(DDN(steps=steps)(network, image, label).smallest_norm.values) for steps in (5, 20, 80)]
    assert norms[0] >= norms[1] - 1e-4 and norms[1] >= norms[2] - 1e-4


def test_the_largest_norm_is_kept_and_a_failure_is_said() -> None:
    network, image, label = linear_case()
    exact = float(distance(network, image, "linf"))
    capped = FMN("linf", steps=20, epsilon=0.5 * exact)(network, image, label)
    assert not bool(capped.success) and float(capped.smallest_norm.values) <= 0.5 * exact * (1 + 1e-4)
    assert capped.boundary_distance.isinf().all() and capped.budgets["noise_linf"].limit == pytest.approx(0.5 * exact)
    free = FMN("linf", steps=20, epsilon=2 * exact)(network, image, label)
    assert bool(free.success) and float(free.smallest_norm.values) <= 2 * exact
    with pytest.raises(BudgetError, match="noise_linf"):
        capped.verify(image + exact)


@pytest.mark.parametrize(("norm", "block"), [("l1", 1), ("l2", 1), ("l0", 1), ("l0", 2)])
def test_every_norm_has_a_limit_that_holds(norm: str, block: int) -> None:
    network, image, label = linear_case(margin=2.0)
    limit = {"l1": 0.3, "l2": 0.05, "l0": 3}[norm]
    result = FMN(norm, steps=10, epsilon=limit, block=block)(network, image, label)
    change = result.adversarial - image
    assert float(norm_of(change, norm, block)) <= limit * (1 + 1e-4)
    if block == 2:
        blocks = (change[0, 0] != 0).view(3, 2, 3, 2, 3, 2).any(dim=5).any(dim=3).any(dim=1)
        assert int(blocks.sum()) == int(result.smallest_norm.values)


def test_only_the_needed_voxels_change_in_l0() -> None:
    network, image, label = linear_case(margin=2.0)
    # Greedy: the largest gains of moving one voxel to the end of its range.
    low, high = image.amin() - (image.amax() - image.amin()), image.amax() + (image.amax() - image.amin())
    result = SigmaZero(1, steps=100, objective=EasiestMargin())(network, image, label)
    down, up = result.bound.room
    weight = network.weight.detach()
    gains = torch.maximum(-weight * down, -weight * up).flatten().sort(descending=True).values
    fewest = int((gains.cumsum(0) < float(network.score(image))).sum()) + 1
    assert bool(result.success) and fewest <= int(result.smallest_norm.values) <= fewest + 1
    jsma = JSMA(1, steps=10, per_step=1, theta=4.0, largest_share=1.0)(network, image, label)
    assert int(jsma.smallest_norm.values) == fewest
    assert float(low) <= float(jsma.adversarial.min()) and float(jsma.adversarial.max()) <= float(high)


def test_one_pixel_changes_no_more_than_its_cubes() -> None:
    model, image, label = example_case(16)
    attack = OnePixel(voxels=3, edge=4, units="HU", queries=120, population=20, epsilon=200)
    result = attack(model, image, label)
    assert float(result.budgets["changed_voxels"].values) <= 3 * 4**3
    assert float(result.budgets["noise_linf"].values) <= 200 * (1 + 1e-4)
    assert float(result.adversarial_dice) < float(result.clean_dice)
    assert result.backwards == 0 and result.forwards == 122
    history = result.objective_history[:, 0]
    # Evolution: the second half of the queries tries better members than the draws it began with.
    assert float(history[-20:].median()) > float(history[:20].median())


def test_finished_images_in_whole_numbers_still_succeed() -> None:
    model, image, label = example_case(16)
    model.round_to_integer = True
    whole = image.round()
    result = FMN("linf", "HU", steps=15)(model, whole, label)
    change = result.adversarial.as_tensor() - whole.as_tensor()
    assert bool(result.success) and torch.equal(change, change.round()) and float(change.abs().max()) >= 1


def test_the_rule_of_the_literature() -> None:
    network, image, label = linear_case()
    inside = float(label.float().mean())
    easy = DDN(steps=10, wrong_fraction=0.9 * inside)(network, image, label)
    assert bool(easy.success) and "of the voxels wrong" in easy.success_rule
    never = DDN(steps=10, wrong_fraction=0.99)(network, image, label)  # what is outside the organ cannot change
    assert not bool(never.success)
    assert "inf" in str(never) and "success in 0 of 1" in str(never)


def test_targeted_at_an_empty_segmentation() -> None:
    model, image, label = example_case(16)
    wanted = torch.where(label == 3, 2.0, label.as_tensor())
    result = DDN("HU", steps=20, targeted=True, success_threshold=0.6)(model, image, wanted)
    assert bool(result.success) and float(result.adversarial_dice) >= 0.6


def test_air_at_the_edge_of_the_range_can_move() -> None:
    # All weight lies on voxels at the lowest value: the tanh box must let them go.
    network, image, label = linear_case()
    model = AttackedModel(network, intensity={"a_min": -1000, "a_max": 0}, image_units="HU")
    tissue = torch.arange(6) % 2 == 1
    scan = torch.where(tissue, -400.0, -1000.0).expand_as(image).clone()
    with torch.no_grad():
        network.bias.fill_(1.0)
        network.weight.copy_(-network.weight.abs() * ~tissue)
    result = CarliniWagner("l2", "HU", steps=90, confidence=0)(model, scan, label)
    assert bool(result.success) and float((result.adversarial > -1000)[..., ~tissue].float().mean()) > 0.9


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_smallest_raise_is_the_best_of_many(norm: str) -> None:
    generator = torch.Generator().manual_seed(3)
    slope = torch.randn((2, 1, 3, 3, 3), generator=generator)
    low, high = -torch.rand(slope.shape, generator=generator), torch.rand(slope.shape, generator=generator)
    most = torch.maximum(slope * low, slope * high).flatten(1).sum(dim=1)
    rise = 0.6 * most
    change = smallest_raise(slope, rise, low, high, norm)
    assert bool(((change >= low - 1e-6) & (change <= high + 1e-6)).all())
    torch.testing.assert_close((slope * change).flatten(1).sum(dim=1), rise, rtol=1e-3, atol=1e-4)
    best = norm_of(change, norm)
    for _ in range(200):  # any other change in the box that raises it as much is not smaller
        other = torch.where(slope > 0, high, low) * torch.rand(slope.shape, generator=generator)
        reach = (slope * other).flatten(1).sum(dim=1)
        share = ((rise - reach) / (most - reach)).clamp(0, 1).view(-1, 1, 1, 1, 1)
        other = other + share * (torch.where(slope > 0, high, low) - other)
        assert bool((norm_of(other, norm) >= best * (1 - 1e-3)).all())
    out_of_reach = smallest_raise(slope, 2 * most, low, high, norm)
    torch.testing.assert_close(out_of_reach, torch.where(slope > 0, high, low), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_nearest_point_in_a_ball(norm: str) -> None:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn((2, 1, 4, 4, 4), generator=generator)
    radius = torch.tensor([0.3, 0.7]) * norm_of(noise, norm)
    inside = into_ball(noise, radius, norm)
    assert bool((norm_of(inside, norm) <= radius * (1 + 1e-5)).all())
    torch.testing.assert_close(into_ball(noise, 2 * norm_of(noise, norm), norm), noise)
    gap = (inside - noise).flatten(1).norm(dim=1)
    for _ in range(200):
        other = torch.randn(noise.shape, generator=generator)
        other = into_ball(noise + 0.2 * other, radius, norm) if norm != "l0" else inside.roll(1, dims=2)
        assert bool(((other - noise).flatten(1).norm(dim=1) >= gap * (1 - 1e-5)).all())


@pytest.mark.parametrize(("norm", "block"), [("linf", 1), ("l2", 1), ("l1", 1), ("l0", 1), ("l0", 2)])
def test_the_proximal_step_is_a_minimum(norm: str, block: int) -> None:
    generator = torch.Generator().manual_seed(5)
    shape = (2, 1, 3, 3, 3)
    noise, metric = torch.randn(shape, generator=generator), 0.1 + torch.rand(shape, generator=generator)
    weight = torch.tensor([0.5, 2.0]) if norm in ("linf", "l2") else torch.tensor([0.05, 0.2])
    low, high = -0.8 * torch.ones(shape), 0.9 * torch.ones(shape)
    if norm == "l2":  # exact without a box
        low, high = 9 * low, 9 * high

    def cost(z: torch.Tensor) -> torch.Tensor:
        return weight * norm_of(z, norm, block) + (metric * (z - noise).square()).flatten(1).sum(dim=1) / 2

    best = nearest_with_small_norm(noise, weight, metric, low, high, norm, block)
    least = cost(best)
    assert bool((best != 0).flatten(1).any(dim=1).all()) and bool((best != noise).any())
    for scale in (0.3, 0.03, 0.003):
        for _ in range(100):
            other = (best + scale * torch.randn(shape, generator=generator)).clamp(low, high)
            sparse = other * (torch.rand(shape, generator=generator) > 0.2)
            swapped = torch.where(torch.rand(shape, generator=generator) > 0.1, best, noise.clamp(low, high))
            assert all(bool((cost(one) >= least - 1e-5).all()) for one in (other, sparse, swapped))
    nothing = nearest_with_small_norm(noise, torch.full((2,), 1e3), metric, low, high, norm, block)
    assert float(nothing.abs().max()) < 1e-3


def test_the_weight_of_success_rises_at_failures_and_falls_at_successes() -> None:
    """At a boundary that a step of Adam crosses, the noise settles where norm and objective balance."""
    network, image, label = linear_case(margin=5.0)
    exact = float(distance(network, image, "l2"))
    norms = [
        float(PDPGD("l2", steps=steps, objective=EasiestMargin())(network, image, label).smallest_norm.values) / exact
        for steps in (10, 40, 160)
    ]
    assert norms[0] >= norms[1] - 1e-3 and norms[1] >= norms[2] - 1e-3 and norms[2] < 1.01


def test_primal_dual_steps_are_no_weaker_than_a_loop_of_falling_gradient_steps_at_the_same_cost() -> None:
    """Ten lines: unit steps along the gradient until success, then back by a share."""
    model, image, label = example_case(16)
    steps, whole = 40, 500.0

    def dice_and_slope(noise: torch.Tensor) -> tuple[float, torch.Tensor]:
        point = noise.clone().requires_grad_()
        logits = model.network(((image.as_tensor() + point + 160) / whole).clamp(0, 1))
        value = get_objective("dice").value(logits, Target.from_label(label.as_tensor(), 4), Progress(0, 1)).sum()
        hard, one_hot = logits.argmax(dim=1, keepdim=True), label.as_tensor()
        pairs = [(hard == c, one_hot == c) for c in (1, 2, 3)]
        dice = sum(float(2 * (a & b).sum() / (a.sum() + b.sum())) for a, b in pairs) / 3
        return dice, torch.autograd.grad(value, point)[0]

    noise, smallest = torch.zeros_like(image.as_tensor()), float("inf")
    clean = dice_and_slope(noise)[0]
    for step in range(steps):
        dice, slope = dice_and_slope(noise)
        if dice < 0.5 * clean:
            smallest, noise = min(smallest, float(noise.norm())), 0.9 * noise
        else:
            noise = noise + 200 * (1 - step / steps) * slope / slope.norm()
    result = PDPGD("l2", "HU", steps=steps)(model, image, label)
    assert bool(result.success) and float(result.smallest_norm.values) <= smallest


def test_the_penalty_and_its_slope_agree() -> None:
    broken = torch.linspace(-3, 3, 61, dtype=torch.float64)[None].requires_grad_()
    rho, multiplier = torch.tensor([[0.3]]).double(), torch.tensor([[0.7]]).double()
    slope = penalty_slope(broken, rho, multiplier)
    assert torch.autograd.gradcheck(lambda y: penalty(y, rho, multiplier), (broken,))
    (found,) = torch.autograd.grad(penalty(broken, rho, multiplier).sum(), broken)
    torch.testing.assert_close(found, slope)
    # As a penalty-Lagrangian has to: zero cost at zero, where the slope is the multiplier, and convex.
    torch.testing.assert_close(penalty_slope(torch.zeros(1, 1).double(), rho, multiplier), multiplier)
    assert bool((slope.diff(dim=1) >= 0).all())


def test_the_augmented_lagrangian_hands_on_the_gradient_of_its_cost() -> None:
    from monai_adversarial.attacks.objectives import Progress, Target

    generator = torch.Generator().manual_seed(6)
    logits = torch.randn((1, 2, 2, 2, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    target = Target(2, index=torch.randint(0, 2, (1, 2, 2, 2), generator=generator))
    objective = AugmentedLagrangian(share=1.0).begin()
    value = objective.value(logits, target, Progress(0, 10))
    (found,) = torch.autograd.grad(value.sum(), logits)
    broken = -objective._broken(logits, target, False) * -1
    cost = penalty(broken, torch.full_like(broken, 0.01), torch.ones_like(broken)).sum() / broken.numel()
    (expected,) = torch.autograd.grad(-cost, logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(value.detach()[0], -cost.detach())


def test_the_easiest_voxels_are_those_nearest_to_being_wrong() -> None:
    from monai_adversarial.attacks.objectives import Progress, Target

    logits = torch.zeros((1, 2, 1, 1, 7))
    logits[0, 1, 0, 0] = torch.tensor([5.0, 1.0, 2.0, 3.0, 9.0, -1.0, 8.0])
    index = torch.tensor([1, 1, 1, 1, 1, 1, 0]).view(1, 1, 1, 7)
    value = EasiestMargin(share=0.5).value(logits, Target(2, index=index), Progress(0, 1))
    # -1 is wrong already and counts as zero; 1 and 2 are the next ones of the organ's six voxels.
    assert float(value) == pytest.approx(-(0 + 1 + 2) / 3)


def test_parts_that_do_not_fit_are_refused() -> None:
    network, image, label = linear_case()
    with pytest.raises(TypeError, match="perturbation must be a MinimalPerturbation such as MinimalNoise"):
        MinimalNormAttack(AdditiveNoise(0.1), search=DDNSearch())
    with pytest.raises(TypeError, match="DDNSearch needs MinimalNoise with a norm among 'l2'"):
        MinimalNormAttack(MinimalNoise("linf"), search=DDNSearch(), steps=1)(network, image, label)
    with pytest.raises(TypeError, match="needs a MinimalNormAttack"):
        Attack(MinimalNoise("l2"), search=DDNSearch(), steps=1)(network, image, label)
    with pytest.raises(ValueError, match="early_stop"):
        DDN(early_stop=True)
    with pytest.raises(ValueError, match="block"):
        MinimalNoise("l2", block=2)
    with pytest.raises(ValueError, match="boundary_queries"):
        DDN(boundary_queries=0)
    with pytest.raises(NotImplementedError, match="no budget to train with"):
        DDN().perturb(network, image, label)
    with pytest.raises(ValueError, match="edge"):
        OnePixel(edge=7)(network, image, label)
