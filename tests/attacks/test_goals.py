# SPDX-License-Identifier: Apache-2.0
"""What an attacker wants beside a low Dice: who says what is prepared, what counts and what is best."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import (
    APGD,
    PGD,
    AdditiveNoise,
    Attack,
    ElasticAttack,
    Objective,
    SearchRun,
    SteepestAscent,
)
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.perturbations import BoundPerturbation, Parameters
from monai_adversarial.models import AttackedModel
from tests.helpers import LinearNetwork

SHAPE = (2, 1, 6, 6, 6)
# Foreground where the image is above 0.5.
MODEL = AttackedModel(LinearNetwork((-10.0, 10.0), (5.0, -5.0)), output_values="logits")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """An image of 0.45 and 0.55 whose foreground is the lower half, and that half."""
    label = torch.zeros(SHAPE, dtype=torch.long)
    label[:, :, :3] = 1
    return torch.where(label > 0, 0.55, 0.45), label


class Darker(Objective):
    """Few foreground voxels: at most half of those of the clean prediction."""

    directed = True
    allows_moving_anatomy = False
    success_rule = "at most half of the foreground"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        return target.with_numbers(voxels=clean.prediction.flatten(1).sum(dim=1).float())

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        return -logits.softmax(dim=1)[:, 1].flatten(1).sum(dim=1) / target.numbers["voxels"]

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        return prediction.flatten(1).sum(dim=1) <= 0.5 * target.numbers["voxels"]


@pytest.mark.parametrize("early_stop", [False, True])
def test_an_objective_decides_what_a_success_is(early_stop: bool) -> None:
    image, label = batch()
    strong = PGD(0.1, steps=4, objective=Darker(), early_stop=early_stop)(MODEL, image, label)
    assert strong.success.all()
    assert strong.success_rule == Darker.success_rule and Darker.success_rule in str(strong)
    # Dice with the truth would have called this a failure, and this objective calls it one too.
    weak = PGD(0.01, steps=4, objective=Darker(), early_stop=early_stop)(MODEL, image, label)
    assert not weak.success.any()


def test_an_objective_knows_the_clean_batch_in_training_too() -> None:
    image, label = batch()
    made = PGD(0.1, steps=4, objective=Darker()).perturb(MODEL, image, label)
    assert float(made.adversarial.mean()) < float(image.mean())


def test_an_objective_with_a_goal_of_its_own_refuses_what_contradicts_it() -> None:
    image, label = batch()
    with pytest.raises(ValueError, match="targeted must be False with Darker"):
        PGD(0.1, objective=Darker(), targeted=True)(MODEL, image, label)
    with pytest.raises(ValueError, match="leaves the anatomy where it is, got ElasticDeformation"):
        ElasticAttack(2.0, objective=Darker())(MODEL, image, label, spacing=1.0)


def test_a_targeted_attack_reports_iou_with_the_wanted_and_dice_with_the_true_segmentation() -> None:
    image, label = batch()
    wanted = torch.zeros_like(label)
    wanted[:, :, 1:4] = 1  # two of three layers are shared: IoU 1/2, Dice 2/3
    result = PGD(0.2, steps=5, targeted=True)(MODEL, image, wanted, truth=label)
    assert result.clean_iou is not None and result.iou is not None
    assert result.truth_dice is not None and result.clean_truth_dice is not None
    torch.testing.assert_close(result.clean_iou, torch.full((2,), 0.5, dtype=result.clean_iou.dtype))
    assert torch.equal(result.iou, torch.ones_like(result.iou))
    assert torch.equal(result.clean_truth_dice, torch.ones_like(result.clean_truth_dice))
    torch.testing.assert_close(result.truth_dice, torch.full_like(result.truth_dice, 2 / 3))
    assert "mean IoU with the label 0.500, 0.500 -> 1.000, 1.000" in str(result)
    alone = PGD(0.2, steps=5, targeted=True)(MODEL, image, wanted)
    assert alone.truth_dice is not None and torch.equal(alone.truth_dice, result.truth_dice)  # the clean prediction


def test_truth_belongs_to_targeted_attacks() -> None:
    image, label = batch()
    with pytest.raises(ValueError, match="truth= is for targeted attacks"):
        PGD(0.1)(MODEL, image, label, truth=label)
    assert PGD(0.1, steps=1)(MODEL, image, label).iou is None


class Timid(SteepestAscent):
    """Prefers the smallest change among the points that raise the objective enough."""

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        run = super().begin(bound, steps)

        def preference(parameters: Parameters, values: torch.Tensor) -> torch.Tensor:
            size = parameters[0].flatten(1).norm(dim=1)
            return torch.where(values > -0.2, 1 / (1 + size), values - 1)

        run.preference = preference  # type: ignore[method-assign]
        return run


def test_a_search_says_which_point_is_the_best() -> None:
    image, label = batch()
    parts = {"steps": 8, "random_start": False}
    bold = Attack(AdditiveNoise(0.2), Darker(), SteepestAscent(0.125), **parts)(MODEL, image, label)
    timid = Attack(AdditiveNoise(0.2), Darker(), Timid(0.125), **parts)(MODEL, image, label)
    assert (timid.objective > -0.2).all()
    assert (bold.objective > timid.objective).all()
    size = [result.parameters[0].flatten(1).norm(dim=1) for result in (bold, timid)]
    assert (size[1] < size[0]).all()
    stopped = Attack(AdditiveNoise(0.2), Darker(), Timid(0.125), early_stop=True, **parts)(MODEL, image, label)
    assert stopped.success.all() and stopped.backwards < timid.backwards


def test_targeted_apgd_by_the_ratio_of_logits_reaches_a_wanted_segmentation() -> None:
    """The K >= 3 rule: with two classes there is no third logit, with three the third stands for the fourth."""
    image = 0.5 + 0.1 * torch.randn(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    model = AttackedModel(LinearNetwork((-10.0, 0.0, 10.0), (4.0, 0.0, -6.0)), output_values="logits")
    wanted = torch.zeros(2, 1, 6, 6, 6, dtype=torch.long)
    wanted[:, :, 2:4], wanted[:, :, 4:] = 1, 2
    result = APGD(0.4, objective="dlr", targeted=True, steps=20)(model, image, wanted)
    assert result.iou is not None and result.clean_iou is not None
    control, _ = result.random_control()
    by_chance = (model.network(control).argmax(dim=1, keepdim=True) == wanted).double().flatten(1).mean(dim=1)
    ours = (result.prediction == wanted).double().flatten(1).mean(dim=1)
    assert (result.iou > result.clean_iou + 0.15).all() and (ours > by_chance + 0.15).all()
    with pytest.raises(ValueError, match="classes"):
        APGD(0.4, objective="dlr", targeted=True)(MODEL, *batch())
