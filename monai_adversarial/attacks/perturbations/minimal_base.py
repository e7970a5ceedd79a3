# SPDX-License-Identifier: Apache-2.0
"""Perturbations that are to be as small as possible, instead of inside a given budget."""

from __future__ import annotations

from abc import abstractmethod

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, Perturbation

__all__ = ["BoundMinimal", "MinimalPerturbation"]


class MinimalPerturbation(Perturbation):
    """A perturbation whose size a :class:`~monai_adversarial.attacks.MinimalNormAttack` makes as small as it can; it
    binds to a :class:`BoundMinimal`.

    >>> from monai_adversarial.attacks import MinimalFlow, MinimalNoise
    >>> from monai_adversarial.attacks.perturbations import MinimalPerturbation
    >>> isinstance(MinimalNoise("l2"), MinimalPerturbation), isinstance(MinimalFlow(), MinimalPerturbation)
    (True, True)

    Attributes:
        norm: name of its size.
    """

    norm: str


class BoundMinimal(BoundPerturbation):
    """A perturbation with a size, on one batch.

    >>> from monai_adversarial.attacks import ADef
    >>> from monai_adversarial.data.example import example_case
    >>> bound = ADef(steps=1)(*example_case(16)).bound
    >>> bound.norm, bound.size_name
    ('displacement', 'displacement_euclidean')

    Attributes:
        norm: name of the size.
        mask: boolean, like the parameters: what may change; None for all.
    """

    norm: str
    mask: torch.Tensor | None = None

    @property
    @abstractmethod
    def span(self) -> torch.Tensor:
        """What searches count in, (batch, 1...), in the parameters' units."""

    @property
    @abstractmethod
    def size_name(self) -> str:
        """The name under which ``measure`` has the size of a finished image's change."""

    @abstractmethod
    def length(self, noise: torch.Tensor) -> torch.Tensor:
        """The size of some parameters, (batch,)."""

    @abstractmethod
    def toward(self, parameters: Parameters, share: torch.Tensor) -> Parameters:
        """Parameters with a share of the size, (batch,), below or above one."""

    @abstractmethod
    def finished_length(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The size of a finished image's change, (batch,)."""
