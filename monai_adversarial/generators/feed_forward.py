# SPDX-License-Identifier: Apache-2.0
"""No search at all: a trained network says the parameters."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations import BoundPerturbation, Parameters
from monai_adversarial.attacks.search import Search, SearchRun
from monai_adversarial.generators.made import made_by
from monai_adversarial.networks.perturbation_generator import PerturbationGenerator
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.validation import check_fraction, check_instance

__all__ = ["FeedForward"]


class FeedForward(Search):
    """The parameters that a trained generator gives for the image, in one forward pass of its own.

    The attacked model is not asked for them. An attack with ``steps=1`` asks it to score what was made, and to score
    the clean image. A generator that is told normal numbers draws new ones in each restart.

    Example:
        >>> from monai_adversarial.generators import FeedForward
        >>> from monai_adversarial.networks import PerturbationGenerator
        >>> FeedForward(PerturbationGenerator([1]))
        FeedForward(generator=<PerturbationGenerator>, drop=None)

    Args:
        generator: trained for the perturbation of the attack.
        drop: loss of Dice that a generator with a prescribed drop is told, 0 to 1.

    Raises:
        TypeError: for another network.
        ValueError: for a drop outside 0 to 1; when the attack begins, for an untrained generator, one of another
            perturbation, or an attack that begins elsewhere.

    Source: our own part; what is trained is in the recipes that use it.
    """

    uses_gradients = False

    def __init__(self, generator: PerturbationGenerator, drop: float | None = None) -> None:
        self.generator = check_instance("generator", generator, PerturbationGenerator, "PerturbationGenerator([1])")
        self.drop = None if drop is None else check_fraction("drop", drop)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _FeedForwardRun(bound, steps, self)


class _FeedForwardRun(SearchRun):
    def __init__(self, bound: BoundPerturbation, steps: int, search: FeedForward) -> None:
        super().__init__(bound, steps)
        self.search, self.has_begun = search, False

    def first(self, parameters: Parameters) -> Parameters:
        network, image = self.search.generator, self.bound.scene.image
        if int(network.steps) == 0:
            raise ValueError("generator was not trained: call fit(model, cases), or load the weights of one that was.")
        weight = next(network.parameters())
        if weight.device != image.device:
            raise ValueError(f"generator must be on the image's device {image.device}, but is on {weight.device}.")
        drop = None if self.search.drop is None else image.new_full((image.shape[0],), self.search.drop)
        self.has_begun = True
        with frozen([network]):
            return made_by(network, self.bound, self.generators, drop).parameters

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        if not self.has_begun:
            raise ValueError("FeedForward begins where its generator says: leave out start= and random_start=False.")
        return parameters
