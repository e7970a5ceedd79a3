# SPDX-License-Identifier: Apache-2.0
"""From what a generator says to the parameters of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monai_adversarial.attacks.perturbations import BoundPerturbation, Parameters
from monai_adversarial.networks.perturbation_generator import PerturbationGenerator
from monai_adversarial.utils.scene import Scene

__all__ = ["Made", "made_by", "shown_to_network"]


@dataclass(frozen=True)
class Made:
    """What a generator made of a batch.

    Args:
        parameters: inside the budget; with gradient where gradients are on.
        attention: map (batch, 1, spatial...) between 0 and 1, of a generator that has one.
    """

    parameters: Parameters
    attention: torch.Tensor | None


def shown_to_network(scene: Scene, image: torch.Tensor) -> torch.Tensor:
    """The image as the attacked network sees it: generators and discriminators see the same."""
    return scene.intensity(image) if scene.image_units == "HU" and scene.intensity is not None else image


def made_by(
    network: PerturbationGenerator,
    bound: BoundPerturbation,
    generators: list[torch.Generator],
    drop: torch.Tensor | None = None,
) -> Made:
    """One forward pass of the generator.

    Shares are multiplied with the half-width of the budget and projected into it. The gradient goes past the projection
    as if it were the identity, so that voxels at the end of their range go on learning.

    Args:
        network: the generator.
        bound: the perturbation on a clean batch.
        generators: of the normal numbers that it is told, one for each sample.
        drop: (batch,), the loss of Dice that it is told, if any.
    """
    scene = bound.scene
    shapes = [tuple(zero.shape[1:]) for zero in bound.zeros()]
    conditions = _normal(network.conditions, generators, scene.image)
    shares, attention = network(shown_to_network(scene, scene.image), shapes, conditions, drop)
    wanted = tuple(share.to(radius) * radius for share, radius in zip(shares, bound.radii, strict=True))
    with torch.no_grad():
        feasible = bound.project(tuple(part.detach().clone() for part in wanted))
    if torch.is_grad_enabled():
        feasible = tuple(part + (held - part.detach()) for part, held in zip(wanted, feasible, strict=True))
    return Made(feasible, attention)


def _normal(count: int, generators: list[torch.Generator], like: torch.Tensor) -> torch.Tensor | None:
    """Normal numbers of each sample's own, (batch, count); None for none."""
    if not count:
        return None
    draws = like.new_empty(like.shape[0], count)
    for row, generator in zip(draws, generators, strict=True):
        row.normal_(generator=generator)
    return draws
