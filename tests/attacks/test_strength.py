# SPDX-License-Identifier: Apache-2.0
"""The default of PGD is strong for its price: on the bundle's trained network and a phantom that nothing was chosen
by."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks.strength import BUNDLE, WINDOW, bundle_network, phantom_cases
from monai_adversarial.attacks import (
    FGSM,
    PGD,
    Attack,
    BiasField,
    BiasFieldAttack,
    SteepestAscent,
    get_objective,
)
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel

SEED, EPSILON = 4000, 8 / 400  # 8 HU of a window of 400 HU

pytestmark = pytest.mark.skipif(not (BUNDLE / "models" / "model.pt").is_file(), reason="the bundle has no weights")


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of a phantom, where the organs are."""
    ((image, label),) = phantom_cases(1, "cpu", SEED)
    middle = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(image.shape[2:], (80, 64, 48), strict=True))
    return image[(..., *middle)].contiguous(), label[(..., *middle)].contiguous()


@pytest.fixture(scope="module")
def model() -> AttackedModel:
    return AttackedModel(bundle_network("cpu"), intensity=WINDOW)


def dice_under(attack: Attack, model: AttackedModel, case: tuple[torch.Tensor, torch.Tensor]) -> float:
    result = attack(model, *case)
    assert float(result.clean_dice) > 0.5, "there must be something to lose"
    return float(result.adversarial_dice)


def ten_lines(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor, objective: str, steps: int):
    """What anybody would write: signs, and steps that fall from twice the budget; what the window clipped stays."""
    target, noise = Target.from_label(label, 8), torch.zeros_like(image)
    free = (image > 0) & (image < 1)
    for step in range(steps):
        point = noise.clone().requires_grad_()
        value = get_objective(objective).value(network(image + point), target, Progress(step, steps)).sum()
        (gradient,) = torch.autograd.grad(value, point)
        noise = noise + 2 * EPSILON * (1 - step / steps) * gradient.sign()
        noise = ((image + noise.clamp(-EPSILON, EPSILON)).clamp(0, 1) - image) * free
    return image + noise


@pytest.mark.parametrize("weights", ["model.pt", "hardened.pt"])
def test_it_is_as_strong_as_ten_lines_of_code_at_the_same_cost(case, weights) -> None:
    """Below the better of two fixed objectives, but for a little that depends on the case."""
    image, label = case
    steps = 6
    model = AttackedModel(bundle_network("cpu", weights), intensity=WINDOW)
    simple = torch.cat(
        [ten_lines(model.network, image, label, name, steps) for name in ("dice", "balanced_masked_cross_entropy")]
    )
    # A budget of nothing scores what it is given.
    best = float(PGD(0.0, steps=1)(model, simple, label.expand_as(simple)).clean_dice.min())
    assert dice_under(PGD(8, "HU", steps=steps), model, case) <= best + 0.005


def test_ten_steps_are_stronger_than_twenty_constant_ones(model, case) -> None:
    constant = dice_under(PGD(8, "HU", steps=20, step_size=2, objective="dice_ce"), model, case)
    assert dice_under(PGD(8, "HU", steps=10), model, case) < constant


def test_more_steps_and_more_budget_never_help_the_network(model, case) -> None:
    dice = partial(dice_under, model=model, case=case)
    by_steps = [dice(PGD(8, "HU", steps=steps)) for steps in (1, 3, 10)]
    assert by_steps == sorted(by_steps, reverse=True)
    by_budget = [dice(PGD(budget, "HU", steps=3)) for budget in (1, 3, 8)]
    assert by_budget == sorted(by_budget, reverse=True) and by_budget[-1] < 0.7 * by_budget[0]


def test_fgsm_is_one_step_of_its_size_to_the_bit(model, case) -> None:
    image, label = (part[..., :32, :32, :32].contiguous() for part in case)
    plain = AttackedModel(model.network, precision="float32")
    point = image.clone().requires_grad_()
    value = get_objective("dice_ce").value(model.network(point), Target.from_label(label, 8), Progress(0, 1)).sum()
    (gradient,) = torch.autograd.grad(value, point)
    made = FGSM(EPSILON)(plain, image, label)
    assert torch.equal(made.parameters[0], EPSILON * gradient.sign())


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 5.0), ("rms", 0.01)])
def test_euclidean_budgets_are_used_up_and_kept(model, case, norm, epsilon) -> None:
    result = PGD(epsilon, norm=norm, steps=4)(model, *case)
    used = result.budgets[f"noise_{norm}"]
    assert 0.99 * epsilon < float(used.values) <= epsilon * (1 + 1e-5)
    assert float(result.adversarial_dice) < float(result.clean_dice) - 0.05


@pytest.fixture(scope="module")
def whole() -> tuple[torch.Tensor, torch.Tensor]:
    """A phantom with the air around it."""
    return next(iter(phantom_cases(1, "cpu", SEED)))


@pytest.mark.parametrize("options", [{}, {"basis": "bspline"}], ids=["legendre", "bspline"])
def test_a_bias_field_is_no_weaker_than_the_best_gain_of_all_voxels(model, whole, options) -> None:
    """Whatever the start: a gradient from some of them leads to fields several times weaker."""
    image, label = whole
    ends = []
    for factor in (1 / 1.3, 1.3):
        shaded = torch.where(image < 1, (image * factor).clamp(0, 1), image)  # above the window nothing changes
        prediction = model.network(shaded).argmax(dim=1, keepdim=True)
        ends.append(float(mean_foreground_dice(prediction, label, 8, "softmax")))
    for seed in (0, 1):
        attack = BiasFieldAttack(0.3, steps=4, seed=seed, **options)
        result = attack(model, image, label, spacing=(3.2, 3.2, 4.0))
        assert float(result.adversarial_dice) <= min(ends) + 0.01


def test_a_spline_that_keeps_its_mean_darkens_the_body_and_brightens_the_air(model, whole) -> None:
    """Its random starts lead to fields that leave three times as much."""
    options = {"basis": "bspline", "zero_mean": True}
    search = SteepestAscent(2.0, schedule="linear")
    found = BiasFieldAttack(0.3, steps=4, **options)(model, *whole, spacing=(3.2, 3.2, 4.0))
    plain = Attack(BiasField(0.3, **options), "dice", search, steps=4)(model, *whole, spacing=(3.2, 3.2, 4.0))
    assert float(found.adversarial_dice) < 0.7 * float(plain.adversarial_dice)
