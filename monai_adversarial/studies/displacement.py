# SPDX-License-Identifier: Apache-2.0
"""Where a geometric attack moved the anatomy, for pictures."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import AttackResult
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.perturbations.chain import BoundChain
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric
from monai_adversarial.attacks.perturbations.warp import warp_linear

__all__ = ["displacement_in_mm"]


@torch.no_grad()
def displacement_in_mm(result: AttackResult) -> torch.Tensor | None:
    """Where the anatomy of the first sample went: displacement (axis, spatial...) in mm along the voxel axes.

    >>> from monai_adversarial.attacks import ElasticAttack
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.studies import displacement_in_mm
    >>> moved = displacement_in_mm(ElasticAttack(5.0, steps=2)(*example_case()))
    >>> moved.shape, 0 < float(moved.norm(dim=0).max()) < 5.01
    (torch.Size([3, 32, 32, 32]), True)

    Returns:
        On the CPU; None where nothing geometric was done.
    """
    total: torch.Tensor | None = None
    spacing: torch.Tensor | None = None
    for bound, parameters in _members(result.bound, result.parameters):
        if isinstance(bound, BoundGeometric):
            # The way from clean to moved is the inverse of the way along which the image was sampled.
            step = bound.displacement(parameters, inverse=True)[:1]
            # Anatomy first follows the earlier members: total(p) + step(p + total(p)).
            total = step if total is None else total + warp_linear(step, total)
            spacing = bound.spacing[:1]
    if total is None or spacing is None:
        return None
    return (total[0] * spacing.to(total)[0].reshape(-1, *([1] * (total.ndim - 2)))).cpu()


def _members(bound: BoundPerturbation, parameters: Parameters) -> list[tuple[BoundPerturbation, Parameters]]:
    return list(bound._each(parameters)) if isinstance(bound, BoundChain) else [(bound, parameters)]
