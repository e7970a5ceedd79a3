# SPDX-License-Identifier: Apache-2.0
"""What a targeted attack is by default: it goes toward the wanted segmentation instead of staying where it was."""

from __future__ import annotations

import pytest
import torch

from benchmarks.query_cases import phantom_crops
from benchmarks.strength import WINDOW, bundle_network
from benchmarks.targeted_parts import CROP, LIVER
from monai_adversarial.attacks import APGD, PGD, AnnealedDice, AutoAttack3D, DiceCE, SpeckleAttack
from monai_adversarial.attacks.targets import empty_organ
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel


@pytest.mark.parametrize("recipe", [PGD, APGD])
def test_the_liver_of_a_phantom_vanishes(recipe: type[PGD] | type[APGD]) -> None:
    network = bundle_network("cpu")
    ((image, label),) = phantom_crops(1, 2000, CROP)
    with torch.no_grad():
        clean = network(image).argmax(dim=1, keepdim=True)
    wanted, model = empty_organ(clean, LIVER), AttackedModel(network, intensity=WINDOW)

    def reached(**options: str) -> float:
        attack = recipe(8, "HU", steps=5, targeted=True, **options)
        result = attack(model, image, wanted, truth=label)
        return float((result.prediction == 0)[clean == LIVER].float().mean())

    assert reached() > 0.8
    assert reached(objective="annealed_dice") < 0.1, "the default of before: the other organs suffer first"


def test_the_objective_depends_on_what_is_wanted() -> None:
    for recipe in (PGD, APGD):
        assert isinstance(recipe(8, "HU").objective, AnnealedDice)
        assert isinstance(recipe(8, "HU", targeted=True).objective, DiceCE)
        assert isinstance(recipe(8, "HU", targeted=True, classes=(1,)).objective, AnnealedDice)
        assert isinstance(recipe(8, "HU", targeted=True, objective="annealed_dice").objective, AnnealedDice)
    assert isinstance(SpeckleAttack(targeted=True).objective, DiceCE)


def test_steps_toward_a_segmentation_begin_smaller_and_remember() -> None:
    plain, targeted, told = PGD(8, "HU"), PGD(8, "HU", targeted=True), PGD(8, "HU", targeted=True, momentum=0.0)
    assert [(one.search.relative_step, one.search.momentum) for one in (plain, targeted, told)] == [
        (2.0, 0.0),
        (1.0, 0.5),
        (1.0, 0.0),
    ]
    constant = PGD(8, "HU", step_size=2, targeted=True).search
    assert (constant.relative_step, constant.momentum, constant.schedule) == (0.25, 0.0, "constant")
    erasing = next(member for member in AutoAttack3D(8, "HU").members if member.name == "PGD, no organ")
    assert erasing.attack.search.relative_step == 2.0


def test_a_success_that_the_clean_prediction_has_already_is_said() -> None:
    model, image, label = example_case()
    clean = PGD(0, "HU", steps=1)(model, image, label).clean_prediction
    wanted = empty_organ(clean, 1)
    result = PGD(1, "HU", steps=1, targeted=True)(model, image, wanted, truth=label)
    assert bool(result.success) and bool(result.clean_success)
    assert "the clean prediction counts as a success already in 1 of 1" in str(result)
    more = PGD(1, "HU", steps=1, targeted=True, success_threshold=0.9)(model, image, wanted, truth=label)
    assert not bool(more.clean_success) and "counts as a success already" not in str(more)
    assert PGD(1, "HU", steps=1)(model, image, label).clean_success is None
