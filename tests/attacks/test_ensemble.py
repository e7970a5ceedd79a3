# SPDX-License-Identifier: Apache-2.0
"""Several attacks as one: worst of each sample, exact cost, and signs of masked gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    APGD,
    PGD,
    SEA3D,
    AttackEnsemble,
    AutoAttack3D,
    BackwardPassSubstitute,
    BiasFieldAttack,
    Member,
    ShrinkingRadius,
    SquareAttack,
)
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.models import AttackedModel

WINDOW = {"a_min": -160.0, "a_max": 340.0}


def batch_of(count: int) -> tuple[AttackedModel, torch.Tensor, torch.Tensor]:
    model = example_case(20)[0]
    cases = [example_case(20, seed=number)[1:] for number in range(count)]
    return model, torch.cat([image for image, _ in cases]), torch.cat([label for _, label in cases])


def test_worst_of_each_sample_is_kept_with_its_image_and_its_budget() -> None:
    model, image, label = batch_of(3)
    result = AutoAttack3D(4, units="HU", steps=4, queries=10)(model, image, label)
    assert result.member_dice.shape == (6, 3)
    assert torch.equal(result.adversarial_dice, result.member_dice.amin(dim=0))
    assert torch.equal(result.worst_member, result.member_dice.argmin(dim=0))
    # What is reported belongs to the image that is handed back.
    again = PGD(4, units="HU", steps=1)(model, result.adversarial, label)
    torch.testing.assert_close(again.clean_dice, result.adversarial_dice)
    assert (result.adversarial - image).abs().max() <= 4 + 1e-4


@pytest.mark.parametrize(
    "single",
    [
        PGD(4, units="HU", steps=6),
        PGD(4, units="HU", steps=6, objective="balanced_masked_cross_entropy"),
        APGD(4, units="HU", steps=6),
        SquareAttack(4, units="HU", queries=20),
    ],
)
def test_no_single_attack_of_equal_steps_is_stronger_on_any_case(single: Any) -> None:
    model, image, label = batch_of(2)
    ensemble = AutoAttack3D(4, units="HU", steps=6, queries=20)(model, image, label)
    # Its Auto-PGD goes on from where PGD ended, not from the image: docs/equal_cost.md leaves the same room.
    assert (ensemble.adversarial_dice <= single(model, image, label).adversarial_dice + 0.002).all()


def test_cost_is_exactly_what_the_network_was_asked() -> None:
    model, image, label = batch_of(2)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.network.register_forward_hook(count)
    result = AutoAttack3D(4, units="HU", steps=3, queries=5)(model, image, label)
    handle.remove()
    assert result.forwards == 2 * calls
    assert result.backwards == 2 * 5 * 3
    assert sum(forwards for forwards, _ in result.member_passes) + 2 == result.forwards  # and the clean pass
    assert sum(backwards for _, backwards in result.member_passes) == result.backwards


def test_broken_samples_are_left_alone() -> None:
    model, image, label = batch_of(3)
    weak = Member("weak", PGD(1, units="HU", steps=1))
    strong = Member("strong", PGD(1, units="HU", steps=3))
    threshold = float(weak.attack(model, image, label).adversarial_dice.sort().values[1])
    clean = weak.attack(model, image, label).clean_dice
    # A threshold at which one or two of the samples have failed after the first member.
    ensemble = AttackEnsemble(
        [weak, strong], early_stop=True, success_threshold=float(threshold / clean.mean()) * 1.0001
    )
    result = ensemble(model, image, label)
    left = ~result.member_dice[1].isnan()
    assert 0 < int(left.sum()) < 3
    broken = result.member_dice[0] < ensemble.success_threshold * clean
    assert torch.equal(left, ~broken)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, image, label = batch_of(2)
    attack = AutoAttack3D(4, units="HU", steps=3, queries=8)
    both = attack(model, image, label)
    alone = attack(model, image[1:], label[1:])
    assert torch.equal(both.adversarial[1:], alone.adversarial)
    assert torch.equal(both.member_dice[:, 1:], alone.member_dice)


def test_ignored_voxels_stay_ignored_in_the_member_that_erases() -> None:
    model, image, label = batch_of(1)
    label = label.clone()
    label[..., :6] = 255
    model = AttackedModel(model.network, intensity=WINDOW, image_units="HU", ignore_index=255)
    result = AutoAttack3D(8, units="HU", steps=3, queries=0)(model, image, label)
    assert bool((result.label[..., :6] == 255).all())
    assert result.adversarial_dice < 0.5 * result.clean_dice


def test_shrinking_budget_ends_in_its_own_and_costs_what_it_says() -> None:
    model, image, label = batch_of(2)
    result = ShrinkingRadius(APGD(4, units="HU", steps=10))(model, image, label)
    assert result.backwards == 2 * 10
    assert (result.adversarial - image).abs().max() <= 4 + 1e-4
    assert result.adversarial_dice.mean() < 0.8 * result.clean_dice.mean()


def test_published_ensemble_is_at_least_as_strong_as_each_of_its_members() -> None:
    model, image, label = batch_of(2)
    result = SEA3D(4, units="HU", steps=6)(model, image, label)
    assert len(result.members) == 3
    assert torch.equal(result.adversarial_dice, result.member_dice.amin(dim=0))


class Rounded(torch.nn.Module):
    """The example's network behind a rounding to 10 HU, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ExampleNetwork()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network((image * 50).round() / 50)


def test_masked_gradients_are_flagged_and_a_substitute_gets_around_them() -> None:
    _, image, label = batch_of(1)
    masked = AttackedModel(Rounded(), intensity=WINDOW, image_units="HU")
    result = AutoAttack3D(8, units="HU", steps=3, queries=60)(masked, image, label)
    names = {flag.name for flag in result.flags}
    assert "zero_gradients" in names
    assert "queries_beat_gradients" in names
    assert "docs/gradient_masking.md#zero-gradients" in str(result)
    clean = example_case(20)[0]
    assert AutoAttack3D(8, units="HU", steps=3, queries=60)(clean, image, label).flags == ()


def test_random_answers_are_flagged() -> None:
    _, image, label = batch_of(1)

    class Noisy(ExampleNetwork):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image + 0.02 * torch.randn_like(image))

    model = AttackedModel(Noisy(), intensity=WINDOW, image_units="HU")
    with pytest.warns(UserWarning):
        result = AutoAttack3D(4, units="HU", steps=2, queries=0)(model, image, label)
    assert "random_answers" in {flag.name for flag in result.flags}


def test_members_of_another_budget_or_goal_are_refused() -> None:
    with pytest.raises(ValueError, match="share one perturbation"):
        AttackEnsemble([PGD(4, units="HU"), PGD(8, units="HU")])
    with pytest.raises(ValueError, match="share one perturbation"):
        AttackEnsemble([PGD(4, units="HU"), BiasFieldAttack()])
    with pytest.raises(ValueError, match="one goal"):
        AttackEnsemble([PGD(4, units="HU"), PGD(4, units="HU", targeted=True)])
    with pytest.raises(ValueError, match="at least one"):
        AttackEnsemble([])
    with pytest.raises(TypeError, match="members"):
        AttackEnsemble([torch.nn.ReLU()])  # type: ignore[list-item]
    with pytest.raises(NotImplementedError, match="train with one of its members"):
        AutoAttack3D(4, units="HU").perturb(*batch_of(1))
    with pytest.raises(ValueError, match="last factor is 1"):
        ShrinkingRadius(PGD(4, units="HU"), phases=((2, 1),))


def test_scaling_scales_every_member() -> None:
    model, image, label = batch_of(1)
    half = AutoAttack3D(8, units="HU", steps=4, queries=8).scaled(0.5)
    result = half(model, image, label)
    assert (result.adversarial - image).abs().max() <= 4 + 1e-4
    same = AutoAttack3D(4, units="HU", steps=4, queries=8)(model, image, label)
    torch.testing.assert_close(result.adversarial_dice, same.adversarial_dice)


def test_options_reach_every_member() -> None:
    attack = AutoAttack3D(4, units="HU", gradient=BackwardPassSubstitute(), seed=5)
    with_gradients = [one.attack for one in attack.members if one.attack.search.uses_gradients]
    assert all(isinstance(one.gradient, BackwardPassSubstitute) for one in with_gradients)
    assert all(one.attack.seed == 5 for one in attack.members)
