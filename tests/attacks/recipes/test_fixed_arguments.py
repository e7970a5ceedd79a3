# SPDX-License-Identifier: Apache-2.0
"""What a recipe sets itself is refused in one sentence that names it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    FMN,
    PGD,
    AdditiveNoise,
    Attack,
    AttackEnsemble,
    AutoPGD,
    ElasticAttack,
    EnsembleTransfer,
    ExactGradient,
    ShrinkingRadius,
    SquareAttack,
    recipes,
)

REQUIRED: dict[str, tuple[Any, ...]] = {
    "EnsembleTransfer": (8, [torch.nn.Conv3d(1, 2, 1)]),
    "MAFL": (8, ["smoothing"]),
    "WorstOf": (AdditiveNoise(1),),
}
PARTS = {
    "perturbation": AdditiveNoise(1),
    "objective": "dice",
    "search": AutoPGD(),
    "gradient": ExactGradient(),
    "steps": 3,
    "restarts": 2,
    "random_start": False,
    "seed": 1,
    "classes": (1,),
}


def single_recipes() -> list[type[Attack]]:
    found = [getattr(recipes, name) for name in recipes.__all__]
    return [one for one in found if isinstance(one, type) and issubclass(one, Attack) and one is not ShrinkingRadius]


def made(recipe: type[Attack], **options: Any) -> Attack:
    needed = [
        p for p in inspect.signature(recipe).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    return recipe(*REQUIRED.get(recipe.__name__, (8,) * len(needed)), **options)


@pytest.mark.parametrize("recipe", single_recipes(), ids=lambda one: one.__name__)
def test_each_argument_of_an_attack_is_taken_or_refused_in_our_own_sentence(recipe: type[Attack]) -> None:
    if issubclass(recipe, AttackEnsemble):
        pytest.skip("an ensemble says itself what it takes")
    for name, value in PARTS.items():
        if name in inspect.signature(recipe).parameters:
            continue
        if name in recipe.fixed_arguments:
            with pytest.raises(
                TypeError, match=rf"^{name} is set by {recipe.__name__} itself, got .*: leave it out, or join"
            ):
                made(recipe, **{name: value})
        else:
            assert made(recipe, **{name: value}).seed == (1 if name == "seed" else 0)


def test_a_recipe_says_what_it_got_and_what_to_do() -> None:
    with pytest.raises(TypeError) as said:
        PGD(8, search=AutoPGD())
    assert str(said.value) == (
        f"search is set by PGD itself, got {AutoPGD()!r}: leave it out, or join parts of your own with "
        "Attack(perturbation, objective, search, gradient, steps=...)."
    )
    for make in (
        lambda: SquareAttack(8, steps=3),
        lambda: FMN(search=AutoPGD()),
        lambda: ElasticAttack(perturbation=AdditiveNoise(1)),
        lambda: EnsembleTransfer(8, torch.nn.Conv3d(1, 2, 1), gradient=ExactGradient()),
    ):
        with pytest.raises(TypeError, match="is set by"):
            make()


def test_a_recipe_of_a_recipe_may_open_what_the_first_one_sets() -> None:
    class Opened(PGD):
        def __init__(self, epsilon: float, search: Any) -> None:
            super().__init__(epsilon)
            self.search = search

    assert isinstance(Opened(8, search=AutoPGD()).search, AutoPGD)
