# SPDX-License-Identifier: Apache-2.0
"""No search: what a given point does."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.search.base import Search, SearchRun

__all__ = ["FixedPoint"]


class FixedPoint(Search):
    """Stays where it starts: an attack with ``steps=1`` and ``start=`` says what known parameters do to another image,
    with its budget verified.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, FixedPoint
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> noise, other = AdditiveNoise(16, units="HU"), example_case(16, seed=1)[1]
    >>> found = Attack(noise, steps=4)(model, image, label)
    >>> again = Attack(noise, search=FixedPoint(), steps=1)(model, other, label, start=found.parameters)
    >>> bool(again.adversarial_dice < again.clean_dice), again.backwards
    (True, 0)
    """

    uses_gradients = False

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _FixedPointRun(bound, steps)


class _FixedPointRun(SearchRun):
    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        return parameters
