# SPDX-License-Identifier: Apache-2.0
"""The attacks that docs/equal_cost.md compares: ours with their defaults, loops of ten lines, a published schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.steps_to_dice import Case
from monai_adversarial.attacks import (
    APGD,
    PGD,
    AdditiveNoise,
    Attack,
    BiasFieldAttack,
    ElasticAttack,
    Perturbation,
    ShrinkingRadius,
)
from monai_adversarial.attacks.boundary import Given
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.plain import as_plain

__all__ = ["CONTESTANTS", "DISPLAY", "FIELD", "GROUPS", "VOXELS", "WARP", "Contestant", "loop"]

#: HU of the window of a bias field where the network has none
DISPLAY = (-160.0, 240.0)

Run = Callable[[AttackedModel, Case, float, int, int], tuple[float, float]]


@dataclass(frozen=True)
class Contestant:
    """One way to attack.

    Args:
        name: in the table.
        group: attacks of one group have one budget and are compared.
        ours: an attack of this package with its defaults; else a loop or a published setting.
        run: from the model, a case, HU, passes and seed to (clean Dice, Dice).
    """

    name: str
    group: str
    ours: bool
    run: Run


def loop(
    perturbation: Perturbation,
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor | None,
    passes: int,
    falling: bool,
    loss: str,
    seed: int = 0,
) -> tuple[float, float]:
    """What anyone would write: sign steps of ``perturbation``'s parameters in a plain loop, the last point counts.

    Args:
        perturbation: how the image may change.
        model: what is attacked.
        image: clean batch.
        label: class map; None for the clean prediction.
        passes: steps.
        falling: steps fall linearly from twice the budget; else they are constant, a quarter of it.
        loss: ``"dice"``, ``"dice_ce"`` or ``"cross_entropy"`` of MONAI's and PyTorch's own.
        seed: of the random start.
    """
    from monai.losses import DiceCELoss, DiceLoss

    functions: dict[str, Callable[..., torch.Tensor]] = {
        "dice": DiceLoss(include_background=False, to_onehot_y=True, softmax=True),
        "dice_ce": DiceCELoss(include_background=False, to_onehot_y=True, softmax=True),
        "cross_entropy": lambda logits, y: torch.nn.functional.cross_entropy(logits, y[:, 0].long()),
    }
    # Binding, moving labels and scoring are the package's, so that nothing but the search differs.
    attack = Attack(perturbation, seed=seed)
    given = Given.read(model, image, label, by_queries=False)
    with attack.scope(model, given.image) as (predictor, clean):
        bound = perturbation.bind(attack._scene(predictor, clean, given, None, None))
        answer = predictor.read_clean(clean)
        truth = answer.prediction if label is None else as_plain(label)
        reference = Reference.read(model, truth, answer.classes)
        point = bound.random(bound.scene.generators(0))
        for step in range(passes):
            parameters = tuple(p.detach().requires_grad_() for p in point)
            logits = predictor(bound.apply(clean, parameters))
            value = functions[loss](logits, bound.move_label(truth, parameters))
            gradients = torch.autograd.grad(value, parameters)
            size = 2 * (1 - step / passes) if falling else 0.25
            moved = zip(parameters, gradients, bound.radii, strict=True)
            with torch.no_grad():
                point = bound.project(tuple((p + size * r * g.sign()).detach() for p, g, r in moved))
        with torch.no_grad():
            prediction = predictor.answer(bound.finished(clean, point)).prediction
            dice = reference.moved(bound, point).score(prediction)
    return float(reference.score(answer.prediction).mean()), float(dice.mean())


def _attack(make: Callable[[float, int, int], Attack]) -> Run:
    return lambda model, case, budget, passes, seed: _scored(make(budget, passes, seed), model, case)


def _scored(attack: Attack, model: AttackedModel, case: Case) -> tuple[float, float]:
    result = attack(model, *case)
    return float(result.clean_dice.mean()), float(result.adversarial_dice.mean())


def _field(model: AttackedModel, passes: int = 1, seed: int = 0) -> BiasFieldAttack:
    """In the window of the network, or the one in which the scan of a network without one is shown."""
    return BiasFieldAttack(window=DISPLAY if model.intensity is None else None, steps=passes, seed=seed)


def _loop(make: Callable[[AttackedModel, float], Perturbation], falling: bool, loss: str) -> Run:
    return lambda model, case, budget, passes, seed: loop(
        make(model, budget), model, *case, passes, falling, loss, seed
    )


def _noise(model: AttackedModel, budget: float) -> Perturbation:
    return AdditiveNoise(budget, units="HU")


def _loops(group: str, make: Callable[[AttackedModel, float], Perturbation]) -> list[Contestant]:
    return [
        Contestant("loop, constant steps, cross-entropy", group, False, _loop(make, False, "cross_entropy")),
        Contestant("loop, constant steps, Dice + CE", group, False, _loop(make, False, "dice_ce")),
        Contestant("loop, falling steps, Dice", group, False, _loop(make, True, "dice")),
    ]


_PUBLISHED: dict[str, Any] = {"schedule": "constant", "objective": "balanced_masked_cross_entropy"}
GROUPS = VOXELS, FIELD, WARP = "voxels", "bias field", "elastic"
CONTESTANTS = (
    Contestant("PGD", VOXELS, True, _attack(lambda e, n, s: PGD(e, "HU", steps=n, seed=s))),
    Contestant("Auto-PGD", VOXELS, True, _attack(lambda e, n, s: APGD(e, "HU", steps=n, seed=s))),
    *_loops(VOXELS, _noise),
    Contestant(
        "2, 1.5, 1 times the budget, Auto-PGD, balanced masked CE",
        VOXELS,
        False,
        _attack(lambda e, n, s: ShrinkingRadius(APGD(e, "HU", steps=n, seed=s, **_PUBLISHED))),
    ),
    Contestant("bias field", FIELD, True, lambda model, case, e, n, s: _scored(_field(model, n, s), model, case)),
    *_loops(FIELD, lambda model, e: _field(model).perturbation),
    Contestant("elastic", WARP, True, _attack(lambda e, n, s: ElasticAttack(steps=n, seed=s))),
    *_loops(WARP, lambda model, e: ElasticAttack().perturbation),
)
