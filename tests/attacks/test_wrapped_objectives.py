# SPDX-License-Identifier: Apache-2.0
"""An objective around another one has its goal: what it wants, refuses, keeps between steps and calls a success."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    PGD,
    Attack,
    EraseOrgan,
    FeatureCosine,
    FlowField,
    FlowPenalized,
    LowFrequencyPenalized,
    OrganVolume,
    SSIMPenalized,
)
from monai_adversarial.attacks.objectives import AdditiveObjective, Objective
from monai_adversarial.attacks.objectives.wrapped import AroundObjective
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, Evading, HidingFeatures
from monai_adversarial.generators import FeaturesWithin

SSIM, FLOW = SSIMPenalized, FlowPenalized
Around = Callable[[Objective], AroundObjective]


class Told(AdditiveObjective):
    """Notes what it is asked."""

    directed, allows_moving_anatomy, organs, success_rule = True, False, (2,), "a goal"

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def watching(self, networks: Sequence[Any]) -> Iterator[None]:
        self.told.append("watching")
        yield

    def prepare(self, target: Any, clean: Any) -> Any:
        self.told.append("prepare")
        return target

    def succeeded(self, prediction: Any, target: Any) -> torch.Tensor:
        self.told.append("succeeded")
        return torch.tensor([True])

    def begin(self) -> Objective:
        made = Told()
        made.told = [*self.told, "begin"]
        return made

    def select(self, rows: torch.Tensor) -> None:
        self.told.append("select")

    def image_term(self, bound: Any, changed: torch.Tensor) -> torch.Tensor:
        return torch.tensor([3.0])

    def parameter_term(self, bound: Any, parameters: Any) -> torch.Tensor:
        return torch.tensor([5.0])

    def parts(self, logits: Any, target: Any, progress: Any, targeted: bool) -> Any:
        raise AssertionError

    combine = parts_of_reference = parts  # type: ignore[assignment]


class Calm(Detector):
    """Suspects nothing."""

    networks: Any = []

    def __init__(self) -> None:
        self.threshold = 0.0

    def _suspicion(self, image: Any, like: Any, smooth: bool) -> torch.Tensor:
        return torch.zeros(len(image))


AROUND: dict[str, Around] = {
    "similarity": lambda inner: SSIM(inner, 0.5, 0.0),
    "flow": lambda inner: FLOW(inner, 0.5, 0.0),
    "Evading": lambda inner: Evading(inner, Calm()),
    "low frequencies": lambda inner: LowFrequencyPenalized(inner, 0.5, 0.0),
    "FeatureCosine": lambda inner: FeatureCosine(inner, ["smoothing"], 0.5),
    "FeaturesWithin": lambda inner: FeaturesWithin(inner, ["smoothing"], 0.1),
}


def test_all_of_the_kind_are_tested() -> None:
    def below(kind: type) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    kinds = below(AroundObjective) - {"AroundObjective", "WrappedObjective", "PenalizedObjective", "JoinedObjective"}
    made = {type(around(Told())).__name__ for around in AROUND.values()}
    assert kinds - made - {HidingFeatures.__name__} == set(), "say here how it is made around another objective"


@pytest.mark.parametrize("name", AROUND)
def test_the_goal_is_that_of_the_inner_one(name: str) -> None:
    inner = Told()
    outer = AROUND[name](inner)
    assert outer.directed and not outer.allows_moving_anatomy
    assert outer.organs == (2,) and outer.success_rule == "a goal"
    assert outer.innermost is inner and AROUND["similarity"](inner).innermost is inner
    assert bool(outer.succeeded(torch.zeros(1), None))  # type: ignore[arg-type]
    outer.select(torch.tensor([0]))
    begun = outer.begin()
    assert begun is not outer and begun.objective.told == ["succeeded", "select", "begin"]  # type: ignore[attr-defined]
    assert outer.objective is inner
    if not name.startswith("Feature"):  # looks inside of a real network
        with outer.watching([]):
            outer.prepare(None, None)  # type: ignore[arg-type]
        assert inner.told[2:] == ["watching", "prepare"]


def test_a_penalized_objective_weighs_what_the_inner_one_wants_of_image_and_parameters() -> None:
    changed, bound = torch.zeros(1, 1, 2, 2), SimpleNamespace()
    for outer in (SSIM(Told(), 0.5, 0.0), FLOW(Told(), 0.5, 0.0), LowFrequencyPenalized(Told(), 0.5, 0.0)):
        assert float(outer.image_term(bound, changed)) == 1.5  # type: ignore[arg-type]
    assert float(SSIM(Told(), 0.5).parameter_term(bound, ())) == 2.5  # type: ignore[arg-type]


def test_similarity_is_charged_once_by_each_of_two() -> None:
    model, image, label = example_case(16)
    once = PGD(16, "HU", steps=1, random_start=True, objective=SSIM("dice", 1.0, 2.0))
    twice = PGD(16, "HU", steps=1, random_start=True, objective=SSIM(SSIM("dice", 1.0, 1.5), 1.0, 0.5))
    values = [attack(model, image, label).objective_history[0] for attack in (once, twice)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("goal", [OrganVolume(3, 5.0), EraseOrgan(3)], ids=lambda goal: type(goal).__name__)
def test_an_objective_of_organs_is_penalized_and_reached(goal: Objective) -> None:
    model, image, label = example_case()
    plain = PGD(16, "HU", steps=5, objective=goal)(model, image, label)
    same = PGD(16, "HU", steps=5, objective=SSIM(goal, 1.0, 0.0))(model, image, label)
    assert torch.equal(plain.adversarial, same.adversarial)
    assert torch.equal(plain.success, same.success) and plain.success_rule == same.success_rule != ""
    like = PGD(16, "HU", steps=5, objective=SSIM(goal, 1.0, 0.5))(model, image, label)
    assert like.success_rule == plain.success_rule
    with pytest.raises(ValueError, match=f"targeted must be False with {type(goal).__name__}"):
        PGD(16, "HU", objective=SSIM(goal), targeted=True)(model, image, label)


def test_a_goal_that_needs_its_anatomy_is_not_moved() -> None:
    attack = Attack(FlowField(3.0), FLOW(OrganVolume(3, 5.0)), steps=1)
    with pytest.raises(ValueError, match="OrganVolume needs a perturbation that leaves the anatomy .* got FlowField"):
        attack(*example_case(16))
