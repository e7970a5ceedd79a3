# SPDX-License-Identifier: Apache-2.0
"""Whether what has no gradient matters all the same: then the gradient is masked, and the attack could not follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.flags import PAGE, UNBROKEN
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.models.predictor import Predictor

if TYPE_CHECKING:
    from monai_adversarial.attacks.ascent import Step

__all__ = ["LEAST_FROZEN", "FrozenPoint", "say_frozen_voxels"]

#: share of gradient entries that are exactly zero from which four more passes are worth it
LEAST_FROZEN = 0.05
#: Dice of the segmentations before and after what has no gradient was changed, below which it matters
SAME = 0.9
#: stream of the random change; restarts use 0, 1, 2, ... and controls 1,000,000, ...
STREAM = 2_000_000
#: a change that no budget allows
BEYOND = 1e6
#: batches of a model that are looked at
MOST_BATCHES = 3


@dataclass(frozen=True)
class FrozenPoint:
    """The point where the last gradient of a run was taken.

    Args:
        parameters: of the perturbation.
        frozen: boolean, for each parameter: whether its gradient was exactly zero.
        zeros: share of each sample's gradient that was, (batch,).
    """

    parameters: Parameters
    frozen: tuple[torch.Tensor, ...]
    zeros: torch.Tensor

    @classmethod
    def of(cls, step: Step, zeros: torch.Tensor) -> FrozenPoint:
        """The last point of a run, without asking the device anything: this is in the loop.

        Args:
            step: the last one.
            zeros: share of each sample's gradient that is exactly zero, (batch,); NaN where nothing was differentiated.
        """
        return cls(step.parameters, tuple(gradient == 0 for gradient in step.found.gradients), zeros)

    def matters(self) -> bool:
        """Whether so much is frozen that it is worth a look. One host synchronization."""
        return bool((self.zeros >= LEAST_FROZEN).any())


def _changes(bound: BoundPerturbation) -> Iterator[Parameters]:
    """Points inside the budget that are far from each other: one at random, and all voxels brighter, and darker."""
    yield bound.start(bound.scene.generators(STREAM))
    for far in (BEYOND, -BEYOND):
        yield bound.project(tuple(torch.full_like(zero, far) for zero in bound.zeros()))


def _prediction(predictor: Predictor, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor:
    return predictor.answer(bound.finished(bound.scene.image, parameters)).prediction


def say_frozen_voxels(
    point: FrozenPoint,
    bound: BoundPerturbation,
    predictor: Predictor,
    reference: Reference,
    zeros: torch.Tensor,
    clean: torch.Tensor,
    left: torch.Tensor,
    success: torch.Tensor,
) -> None:
    """Change, inside the budget, only what has no gradient, and warn where the segmentation changes.

    A voxel outside of the field of view has no gradient and does nothing. One that a clamp inside the network has cut
    off has none either and would do much: steps by signs leave it where a random start has put it. Four forward passes,
    for the first batches of a model of which an attack leaves more than half of the score.

    Args:
        point: where the last gradient was taken.
        bound: the perturbation on the clean batch.
        predictor: the attacked function.
        reference: of the batch; says what is scored.
        zeros: mean share of gradient entries that were exactly zero, (batch,).
        clean, left: scores before and under attack, (batch,).
        success: boolean (batch,), samples in which the attack succeeded.
    """
    model = predictor.model
    suspicious = (zeros >= LEAST_FROZEN) & ~success & (left > UNBROKEN * clean)
    if bound.geometric or not predictor.is_constant:  # what is random differs in any case
        return
    if model.frozen_batches >= MOST_BATCHES or not bool(suspicious.any()):
        return
    model.frozen_batches += 1
    with torch.no_grad():
        before = _prediction(predictor, bound, point.parameters)
        same = torch.ones_like(left)
        for drawn in _changes(bound):
            mixed = tuple(map(torch.where, point.frozen, drawn, point.parameters))
            after = _prediction(predictor, bound, bound.project(mixed))
            same = torch.minimum(same, replace(reference, label=before).score(after).nan_to_num(1.0))
    matters = suspicious & (same < SAME)
    if not bool(matters.any()):
        return
    model.warn_once(
        "zero gradients",
        f"{float(zeros[matters].mean()):.0%} of the gradient's entries are exactly zero in {int(matters.sum())} of "
        f"{len(matters)} samples, but a change of these voxels alone, inside the budget, changes the segmentation "
        f"(Dice {float(same[matters].min()):.2f} with that before): a clamp, rounding or saturation inside the network "
        "hides what they do, and the score that the attack leaves is too high. Pass random_start=False, and attack by "
        f"queries as AutoAttack3D does; see {PAGE}#zero-gradients.",
    )
