# SPDX-License-Identifier: Apache-2.0
"""What is printed: an attack as a call that makes an equal one, a result in three lines."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial import attacks
from monai_adversarial.attacks import (
    APGD,
    BIM,
    FGSM,
    MIFGSM,
    PGD,
    AdditiveNoise,
    AffineAttack,
    AffineTransform,
    Attack,
    AutoPGD,
    BackwardPassSubstitute,
    BiasField,
    BiasFieldAttack,
    Chain,
    DiceCE,
    ElasticAttack,
    ElasticDeformation,
    ExactGradient,
    ExpectationOverTransformation,
    Margin,
    Objective,
    Perturbation,
    ProjectedAdam,
    SteepestAscent,
)
from monai_adversarial.attacks.objectives import OBJECTIVES
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 6, 6, 6)

ATTACKS = [
    PGD(8, units="HU"),
    PGD(np.float64(1 / 3), "network", "rms", step_size=torch.tensor(0.1), objective=Margin(math.inf), seed=3),
    FGSM(0.1),
    BIM(0.1, steps=3),
    MIFGSM(epsilon=0.1, momentum=0.9),
    APGD(0.02, units="fraction", restarts=2, classes=(1, 2), early_stop=True),
    BiasFieldAttack(0.2, domain="image"),
    ElasticAttack((1.0, 2.0, 3.0), control_spacing=8.0, norm="per_axis"),
    AffineAttack(5, objective="segpgd", targeted=True, success_threshold=0.9),
    Attack(AdditiveNoise(0.1), DiceCE(0.5, smooth=1e-3), AutoPGD(), BackwardPassSubstitute("identity")),
    Attack(
        Chain([BiasField(0.1), Chain((AdditiveNoise(1 / 3), ElasticDeformation(2.0)))]),
        search=ProjectedAdam(0.2, amsgrad=True),
        gradient=ExpectationOverTransformation(3, BackwardPassSubstitute()),
        random_start=False,
    ),
    PGD(8, units="HU").scaled(1 / 3),
    PGD(0.3).scaled(0.5, 4).scaled(np.float32(0.7)),
    ElasticAttack().scaled(0.1, 2),
]
PARTS: list[Any] = [
    *[kind() for kind in OBJECTIVES.values()],
    Margin(0.5, balanced=True),
    SteepestAscent(0.1, momentum=1),
    AutoPGD(),
    ProjectedAdam(),
    ExactGradient(),
    AdditiveNoise(1 / 7, "l2").scaled(1 / 3),
    BiasField(window=(-160, 240), degree=2),
    AffineTransform(1.0, (1, 2, 3)),
    ElasticDeformation((1, 2, 3), diffeomorphic=False, norm="per_axis"),
]


def inside(thing: Any) -> Any:
    """All that an object is made of, without what it remembers of its call."""
    if isinstance(thing, (list, tuple)):
        return [inside(part) for part in thing]
    if isinstance(thing, dict):
        return {key: inside(part) for key, part in thing.items()}
    if hasattr(thing, "__dict__"):
        public = {key: part for key, part in vars(thing).items() if key not in ("_given", "_afterwards")}
        return type(thing), inside(public)
    return thing


@pytest.mark.parametrize("thing", [*ATTACKS, *PARTS], ids=repr)
def test_a_representation_is_a_call_that_makes_an_equal_object(thing: Any) -> None:
    made = eval(repr(thing), vars(attacks))  # noqa: S307
    assert inside(made) == inside(thing) and type(made) is type(thing)
    assert repr(made) == repr(thing) and "\n" not in repr(thing)
    for copied in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert repr(copied) == repr(thing)


@pytest.mark.parametrize("attack", [PGD(0.05, steps=2, seed=4).scaled(1 / 3), BIM(0.1, steps=2), APGD(0.1, steps=2)])
def test_the_call_makes_the_same_adversarial_voxels(attack: Attack) -> None:
    network, image, label = tiny_segmentation_network(), random_image(SHAPE), random_label(SHAPE)
    again = eval(repr(attack), vars(attacks))  # noqa: S307
    assert torch.equal(again(network, image, label).adversarial, attack(network, image, label).adversarial)


def test_parts_of_a_user_are_shown_as_calls_without_a_line_of_their_own() -> None:
    class Mine(Objective):
        def __init__(self, weight: Any, *names: str, **options: Any) -> None:
            self.hidden = weight

        def value(self, logits: Any, target: Any, progress: Any, targeted: bool = False) -> torch.Tensor:
            return logits.flatten(1).mean(1)

    class Still(Perturbation):
        def bind(self, scene: Any) -> Any:
            raise NotImplementedError

    class Recipe(PGD):
        def __init__(self, **options: Any) -> None:
            super().__init__(0.1, **options)

    assert repr(Mine(2.0, "a", b=1)) in ("Mine('a', weight=2.0, b=1)", "Mine(2.0, 'a', b=1)")
    assert repr(Still()) == "Still()"
    assert repr(Mine(tiny_segmentation_network(), b=torch.ones(9, 9))) == "Mine(weight=<Sequential>, b=<Tensor (9, 9)>)"
    assert repr(Recipe(steps=3)) == "Recipe(steps=3)"


def lines(result: Any) -> list[str]:
    return str(result).split("\n")


def own_label(model: Any, image: torch.Tensor) -> torch.Tensor:
    """What the network itself says of an image: a label that it gets right."""
    return PGD(0.01, steps=1)(model, image).clean_prediction


def test_a_result_is_three_lines() -> None:
    window = {"a_min": -160, "a_max": 240}
    model = AttackedModel(
        tiny_segmentation_network(),
        SlidingWindowInferer(4),
        intensity=window,
        image_units="HU",
        facts=("window read from preprocessing#2",),
    )
    image = random_image(SHAPE) * 300 - 100
    result = PGD(8, "HU", steps=3)(model, image, own_label(model, image))
    first, second, third = lines(result)
    assert first.startswith("PGD(8, 'HU', steps=3) on AttackedModel(Sequential, SlidingWindowInferer, intensity=")
    assert "noise_linf 8.0000 HU (at most 8)" in first and "rms" not in first
    clean, adversarial = (
        ", ".join(f"{value:.3f}" for value in values.tolist())
        for values in (result.clean_dice, result.adversarial_dice)
    )
    assert f"mean foreground Dice with the label {clean} -> {adversarial}; success in " in second
    assert second.endswith(f"{int(result.success.sum())} of 2 (Dice below 0.5 times the clean Dice)")
    assert f"{result.forwards} forward and {result.backwards} backward passes" in third
    assert f"{result.queries} of them queries" in third and "% zero gradients" in third
    assert third.endswith("window read from preprocessing#2")


def test_a_result_says_what_it_was_measured_against() -> None:
    network, image = tiny_segmentation_network(), random_image(SHAPE)
    assert "Dice with the clean prediction 1.000, 1.000 ->" in lines(PGD(0.1, steps=1)(network, image))[1]
    wanted = PGD(0.1, steps=1, targeted=True, success_threshold=0.9)(network, image, random_label(SHAPE))
    assert lines(wanted)[1].endswith("(Dice with the wanted segmentation of at least 0.9)")
    elastic = lines(ElasticAttack(2.0, control_spacing=4.0, steps=1)(network, image, spacing=1.0))[0]
    assert "mm (at most 2)" in elastic and "(at least 0.1)" in elastic


def test_a_large_batch_is_summed_up_and_nan_is_counted() -> None:
    image, label = random_image((6, 1, 4, 4, 4)), random_label((6, 1, 4, 4, 4))
    result = PGD(0.1, steps=1)(tiny_segmentation_network(), image, label)
    result.clean_score = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.5, torch.nan])
    assert "0.500 (mean of 5, 0.200 to 0.800, 1 nan) ->" in lines(result)[1]
    assert len(lines(result)) == 4
    assert lines(result)[3].startswith("caution: the clean Dice is below 0.5 in 2 of 5, ")


def test_a_network_that_does_not_segment_the_clean_images_is_no_robust_one() -> None:
    """Class numbers of another table: nothing can be lost, and no success says nothing for the network."""
    model, image = AttackedModel(tiny_segmentation_network()), random_image(SHAPE)
    label = own_label(model, image)
    other = (label + 1) % model.found_classes
    fits, misfit = (PGD(0.001, steps=1)(model, image, one) for one in (label, other))
    assert float(misfit.clean_dice.max()) < 0.5 and not bool(misfit.success.any())
    assert misfit.caution.startswith("caution: the clean Dice is below 0.5 in 2 of 2, so that little can be lost")
    assert lines(misfit)[-1] == misfit.caution
    assert fits.caution == "" and len(lines(fits)) == 3
    stable = PGD(0.001, steps=1)(model, image)
    assert stable.caution.startswith("caution: there is no label, so this is stability and not accuracy")
    assert lines(stable)[-1] == stable.caution
    assert PGD(0.001, steps=1, targeted=True)(model, image, other).caution == ""


def test_a_result_of_arrays_prints_as_well() -> None:
    image, network = random_image(SHAPE), tiny_segmentation_network()
    label = own_label(network, image)
    assert len(lines(PGD(0.1, steps=1)(network, image.numpy(), label.numpy()))) == 3


def test_a_result_says_what_is_left_of_each_organ() -> None:
    """A mean above half hides an organ that is gone."""
    model = AttackedModel(tiny_segmentation_network(), class_names=["background", "liver", "spleen"])
    image = random_image(SHAPE)
    label = own_label(model, image)
    result = PGD(0.3, steps=2)(model, image, label)
    assert list(result.organ_dice) == ["liver", "spleen"]
    for when, scores in enumerate((result.clean_dice, result.adversarial_dice)):
        organs = torch.stack([dice[when] for dice in result.organ_dice.values()], dim=1)
        assert torch.equal(organs.nanmean(dim=1), scores)
    found = lines(result)[2]
    assert found.startswith("liver 1.000 -> 0.") and ", spleen 1.000 -> 0." in found
    assert "liver" not in "".join(lines(PGD(0.3, steps=2)(model.replace(class_names=None), image, label))[1:])
    array = PGD(0.3, steps=2)(model, image.numpy(), label.numpy())
    assert torch.equal(array.organ_dice["liver"][1], result.organ_dice["liver"][1])


def test_an_organ_that_was_lost_before_the_attack_is_named() -> None:
    found = torch.zeros(1, 1, 6, 6, 6, dtype=torch.long)
    found[..., :2, :], found[..., 4, :] = 1, 2
    label = found.clone()
    label[..., 1:, 4, :] = 0  # five rows of six
    label[..., 1:, 5, :] = 2

    def network(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(found[:, 0], 3).movedim(-1, 1) + 0 * image

    model = AttackedModel(network, class_names=["background", "liver", "spleen"])
    image = random_image((1, 1, 6, 6, 6))
    result = PGD(0.001, steps=1)(model, image, label)
    assert float(result.clean_dice) > 0.5
    assert result.caution.startswith(
        "caution: the clean Dice of spleen (0.17) is below 0.5, so that little can be lost"
    )
    assert "liver" not in result.caution and lines(result)[-1] == result.caution
    assert PGD(0.001, steps=1)(model, image, found).caution == ""
