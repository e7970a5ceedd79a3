# SPDX-License-Identifier: Apache-2.0
"""The extremes of a budget are looked at before gradients are followed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import (
    Acquisition,
    AdditiveNoise,
    Attack,
    BiasField,
    BiasFieldAttack,
    Chain,
    Cupping,
    ElasticDeformation,
    ExtremesFirst,
    GantryTilt,
    GeometricIntensityAttack,
    MRIAcquisitionAttack,
    Perturbation,
    RingArtifact,
    SliceThickness,
    SquareSearch,
    SteepestAscent,
    WindowShift,
)
from monai_adversarial.attacks.perturbations import acquisition
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene

UNIT = {"intensity": {"a_min": 0.0, "a_max": 1.0, "b_min": 0.0, "b_max": 1.0, "clip": True}, "image_units": "network"}


class SlopesTheWrongWay(nn.Module):
    """Finds what is between .36 and .62. Near .45 its answer grows unsure with brightness, which loses nothing within
    30 %, and stays as sure with darkness until all is lost."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inside = torch.sigmoid(200 * (image - 0.36)) * torch.sigmoid(10 * (0.62 - image))
        return torch.cat([1 - inside, inside], dim=1).clamp_min(1e-6).log()


def replaced(attack: Attack, **attributes: Any) -> Attack:
    made = copy.copy(attack)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def trap() -> tuple[AttackedModel, torch.Tensor, torch.Tensor]:
    image = torch.full((1, 1, 8, 8, 8), 0.1)
    image[..., 2:6, 2:6, 2:6] = 0.45
    return AttackedModel(SlopesTheWrongWay(), **UNIT), image, (image > 0.3).long()  # type: ignore[arg-type]


def best_constant(model: AttackedModel, image: torch.Tensor, label: torch.Tensor, gain: float) -> float:
    """The lowest Dice under one gain of all voxels, of 41 between the ends."""
    found = []
    for factor in torch.linspace(1 / (1 + gain), 1 + gain, 41):
        prediction = model.network((image * factor).clamp(0, 1)).argmax(dim=1, keepdim=True)
        found.append(float(mean_foreground_dice(prediction, label, 2, "softmax")))
    return min(found)


@pytest.mark.parametrize("options", [{}, {"basis": "bspline", "control_spacing": 4.0}], ids=["legendre", "bspline"])
@pytest.mark.parametrize("seed", range(3))
def test_a_bias_field_is_at_least_as_strong_as_one_gain_of_all_voxels(trap, options: dict[str, Any], seed: int) -> None:
    model, image, label = trap
    result = BiasFieldAttack(0.3, steps=4, seed=seed, **options)(model, image, label, spacing=(1.0, 1.0, 1.0))
    assert float(result.clean_dice) == 1.0
    assert float(result.adversarial_dice) <= best_constant(model, image, label, 0.3) + 1e-3 < 0.1
    assert result.backwards == 4  # the look is part of the steps


def test_the_gradient_alone_goes_the_wrong_way(trap) -> None:
    """What the search is for."""
    model, image, label = trap
    plain = Attack(BiasField(0.3), "dice", SteepestAscent(2.0, schedule="linear"), steps=4, random_start=False)
    assert float(plain(model, image, label).adversarial_dice) == 1.0


@pytest.mark.parametrize(
    "attack",
    [
        Attack(BiasField(0.3), "dice", steps=4),
        Attack(Chain([ElasticDeformation(0.5, 4.0), BiasField(0.3)]), "dice", steps=4),
        Attack(Chain([BiasField(0.3), Chain([AdditiveNoise(0.02)])]), "dice", steps=4),
        GeometricIntensityAttack(0.5, 0.3, 4.0, steps=4),
        MRIAcquisitionAttack([BiasField(0.3, domain="image")], steps=4, restarts=1, objective="dice"),
    ],
    ids=["field", "after a deformation", "before noise", "recipe", "acquisition"],
)
def test_with_other_changes_a_field_is_at_least_as_strong_as_one_gain_of_all_voxels(trap, attack: Attack) -> None:
    model, image, label = trap
    for seed in range(2):
        found = replaced(attack, seed=seed)(model, image, label, spacing=(1.0, 1.0, 1.0))
        assert float(found.adversarial_dice) <= best_constant(model, image, label, 0.3) + 1e-3
        assert found.backwards == 4


class BoundOffset(acquisition.BoundAcquisitionBlock):
    def change(self, image: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
        (offset,) = parameters
        return offset.view(-1, 1, 1, 1, 1) * (image > 0.3)


class Offset(acquisition.AcquisitionBlock):
    """Organs darker or brighter by one number of the network's values."""

    def __init__(self, lowest: float, highest: float) -> None:
        self.lowest, self.highest = lowest, highest

    def bind(self, scene: Scene) -> BoundOffset:
        return BoundOffset(scene, [acquisition.Variable("offset", "", (1,), self.lowest, self.highest)])


@pytest.mark.parametrize("seed", range(4))
def test_a_block_of_one_number_is_as_strong_as_its_worse_end(trap, seed: int) -> None:
    model, image, label = trap
    found = Attack(Offset(-0.12, 0.12), "dice", steps=4, seed=seed)(model, image, label)
    plain = Attack(Offset(0.0, 0.12), "dice", SteepestAscent(), steps=4, seed=seed)(model, image, label)
    assert float(found.adversarial_dice) < 0.1 and float(plain.adversarial_dice) == 1.0


def test_extremes_of_a_block_are_the_ends_of_each_single_number() -> None:
    model, image, label = example_case(16)

    def extremes(perturbation: Perturbation) -> list[list[float]]:
        found = Attack(perturbation, steps=1)(model, image, label).bound.extremes()
        return [[round(float(value), 4) for value in end] for end in found]

    assert extremes(Cupping(10.0)) == [[-10.0], [10.0]]
    assert extremes(SliceThickness(8.0)) == [[2.0]]  # slices are 6 mm apart, and can only be thicker
    assert extremes(WindowShift(10.0, 0.05)) == [[-10.0, 0.0], [10.0, 0.0], [0.0, -0.05], [0.0, 0.05]]
    assert extremes(GantryTilt(3.0)) == [[-3.0], [3.0]]
    assert extremes(RingArtifact()) == []


@pytest.mark.parametrize(
    ("shift", "least"),
    [
        (WindowShift(10.0, 0.05), 5),  # two numbers with four ends, and a step
        (Chain([WindowShift(10.0, 0.05), AdditiveNoise(4.0, units="HU")]), 7),  # half of the steps are the noise's
    ],
    ids=["few numbers", "a chain"],
)
def test_a_look_leaves_steps_for_what_has_no_extremes(shift: Perturbation, least: int) -> None:
    model, image, label = example_case(16)
    for steps, looks in ((least - 1, False), (least, True)):
        looked = Attack(shift, "dice", ExtremesFirst(SteepestAscent()), steps=steps)(model, image, label)
        plain = Attack(shift, "dice", SteepestAscent(), steps=steps)(model, image, label)
        same = torch.equal(looked.objective_history, plain.objective_history)
        assert same != looks


def test_extremes_of_a_chain_are_those_of_each_member_without_the_others() -> None:
    model, image, label = example_case(16)
    parts = ElasticDeformation(3.0), BiasField(0.2), AdditiveNoise(4.0, units="HU"), BiasField(0.1)
    bound = Attack(Chain(parts), steps=1)(model, image, label).bound
    ends = bound.extremes()
    fields = [member.extremes() for member in (bound.members[1], bound.members[3])]
    assert len(ends) == 4
    for end, member, sign in zip(ends, (1, 1, 3, 3), (0, 1, 0, 1), strict=True):
        for index, (values, zero) in enumerate(zip(end, bound.zeros(), strict=True)):
            expected = fields[member // 2][sign][0] if index == member else zero
            assert torch.equal(values, expected)


@pytest.mark.parametrize(
    ("perturbation", "are"),
    [
        (BiasField(0.3), "ends"),
        (BiasField(0.3, zero_mean=True), None),
        (BiasField(0.3, basis="bspline", zero_mean=True), "starts"),
        (AdditiveNoise(0.1), None),
        (Chain([BiasField(0.3)]), "ends"),
        (Chain([ElasticDeformation(2.0), AdditiveNoise(0.1)]), None),
        (Chain([AdditiveNoise(0.1), BiasField(0.3)]), "ends"),
        (Chain([BiasField(0.3), BiasField(0.3, basis="bspline", zero_mean=True)]), "starts"),
        (Acquisition([BiasField(0.3)]), "ends"),
    ],
)
def test_a_perturbation_says_whether_and_how_it_is_looked_at(perturbation: Perturbation, are: str | None) -> None:
    search = Attack(perturbation).search
    assert perturbation.extremes_are == are
    assert isinstance(search, ExtremesFirst if are else SteepestAscent)
    assert getattr(search, "from_best", False) == (are == "starts")


def test_from_the_best_extreme_its_own_gradient_leads_on() -> None:
    """The run behind the looks is that of the inner search from the stronger extreme."""
    model, image, label = example_case(16)
    field, inner = BiasField(0.2), SteepestAscent(0.5, schedule="linear")
    looked = Attack(field, "dice", ExtremesFirst(inner, from_best=True), steps=4)(model, image, label)
    ends = [
        Attack(field, "dice", inner, steps=3)(model, image, label, start=extreme) for extreme in looked.bound.extremes()
    ]
    assert torch.equal(looked.adversarial, min(ends, key=lambda end: float(end.adversarial_dice)).adversarial)


def test_extremes_lie_in_the_budget_and_at_its_edge() -> None:
    model, image, label = example_case(16)
    for options in ({}, {"basis": "bspline", "control_spacing": 8.0}, {"basis": "bspline", "zero_mean": True}):
        bound = BiasFieldAttack(0.25, steps=1, **options)(model, image, label).bound  # type: ignore[arg-type]
        dark, bright = bound.extremes()
        for parameters, sign in ((dark, -1), (bright, 1)):
            field = bound.field(parameters)
            assert torch.allclose(bound.project(parameters)[0], parameters[0], atol=1e-6)
            assert float(field.abs().max().exp()) == pytest.approx(1.25, rel=1e-4)
            middle = field[(..., *(n // 2 for n in field.shape[2:]))]
            assert (middle.sign() == sign).all()
            if options.get("zero_mean"):
                assert float(field.mean().abs()) < 1e-6
    assert BiasFieldAttack(0.25, zero_mean=True, steps=1)(model, image, label).bound.extremes() == ()


def test_each_sample_goes_on_from_its_own_best_extreme() -> None:
    """A sample finds the same whatever stands beside it in the batch."""
    model, image, label = example_case(16)
    other = torch.flip(image, dims=(2,)) * 0.9
    batch, labels = torch.cat([image, other]), torch.cat([label, torch.flip(label, dims=(2,))])
    together = BiasFieldAttack(0.2, steps=4)(model, batch, labels, spacing=(4.0, 4.0, 4.0))
    for row in range(2):
        one = slice(row, row + 1)
        alone = BiasFieldAttack(0.2, steps=4)(model, batch[one], labels[one], spacing=(4.0, 4.0, 4.0))
        assert torch.allclose(alone.adversarial[0], together.adversarial[row], atol=1e-5)


def test_a_look_needs_a_step_beyond_it_and_is_the_first_run_s_alone() -> None:
    model, image, label = example_case(16)
    field, inner = BiasField(0.2), SteepestAscent(2.0, schedule="linear")
    for steps, options in ((2, {}), (4, {"random_start": False})):
        looked = Attack(field, "dice", ExtremesFirst(inner), steps=steps, **options)(model, image, label)
        plain = Attack(field, "dice", inner, steps=steps, **options)(model, image, label)
        assert torch.equal(looked.adversarial, plain.adversarial)
    noise = Attack(AdditiveNoise(8, units="HU"), "dice", ExtremesFirst(inner), steps=4)(model, image, label)
    plain = Attack(AdditiveNoise(8, units="HU"), "dice", inner, steps=4)(model, image, label)
    assert torch.equal(noise.adversarial, plain.adversarial)


def test_training_begins_at_random_as_before() -> None:
    model, image, label = example_case(16)
    field, inner = BiasField(0.2), SteepestAscent(2.0, schedule="linear")
    looked, plain = (
        Attack(field, "dice", search, steps=4).perturb(model, image, label) for search in (ExtremesFirst(inner), inner)
    )
    assert torch.equal(looked.adversarial, plain.adversarial)


def test_a_search_by_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="search must follow gradients, got SquareSearch"):
        ExtremesFirst(SquareSearch())
    with pytest.raises(TypeError, match="search must be"):
        ExtremesFirst(SteepestAscent)  # type: ignore[arg-type]
