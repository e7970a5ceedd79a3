# SPDX-License-Identifier: Apache-2.0
"""An objective with one more term, which looks at the image by a detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from monai.data import MetaTensor
from torch import nn

from monai_adversarial.attacks.objectives.base import Objective, Parts
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.objectives.wrapped import WrappedObjective, with_inner
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.detection.base import Detector
from monai_adversarial.utils.modules import frozen

__all__ = ["JoinedObjective", "clean_with_affine"]


class JoinedObjective(WrappedObjective):
    """Everything but one term is that of another objective.

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        detector: that the term asks.

    Raises:
        TypeError: for an objective that is no sum over voxels.
    """

    def __init__(self, objective: str | Objective, detector: Detector) -> None:
        super().__init__(objective)
        self.detector = detector

    @abstractmethod
    def _term(self, changed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """What is added, (batch,).

        Args:
            changed: the perturbed batch.
            like: the clean one, with its affine if there is one.
        """

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """The detector's networks are frozen with those that are attacked."""
        others = [one for one in self.detector.networks if all(one is not network for network in networks)]
        with ExitStack() as stack:
            stack.enter_context(super().watching(networks))
            if others:
                stack.enter_context(frozen(others))
            yield

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        return self.objective.combine(parts, target)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """The detector's term with what the inner objective wants of the image."""
        term = self._term(changed, clean_with_affine(bound)).to(changed.dtype)
        inner = super().image_term(bound, changed)
        return with_inner(term, inner)


def clean_with_affine(bound: BoundPerturbation) -> torch.Tensor:
    """The clean batch, with its affine if there is one."""
    clean, affine = bound.scene.image, bound.scene.affine
    if affine is None:
        return clean
    return MetaTensor(clean, affine=affine[0] if len(clean) == 1 else affine)
