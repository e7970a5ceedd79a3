# SPDX-License-Identifier: Apache-2.0
"""A displacement of every voxel that is to be as small as possible."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from monai.networks.layers import gaussian_1d, separable_filtering

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, per_sample
from monai_adversarial.attacks.perturbations.flow import BoundFlowField, FlowField
from monai_adversarial.attacks.perturbations.geometric import shared_spacing
from monai_adversarial.attacks.perturbations.minimal_base import BoundMinimal, MinimalPerturbation
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundMinimalFlow", "MinimalFlow"]

#: length in mm of a random start
START = 0.1


class MinimalFlow(FlowField, MinimalPerturbation):
    """A displacement of every voxel whose largest length an attack makes as small as it can. Labels move with the
    image.

    >>> from monai_adversarial.attacks import MinimalFlow
    >>> MinimalFlow(smoothing=2.0)
    MinimalFlow(max_displacement=None, smoothing=2.0)

    Args:
        max_displacement: the largest length that is allowed, in mm; None for no limit.
        smoothing: standard deviation in mm of the Gaussian that makes steps and random draws smooth; 0 for none.

    Raises:
        ValueError: for a number out of range, and in an attack for a batch of different voxel sizes with smoothing.
    """

    budget_attributes = ()
    norm = "displacement"

    def __init__(self, max_displacement: float | None = None, smoothing: float = 3.0) -> None:
        self.max_displacement = (
            math.inf if max_displacement is None else check_positive("max_displacement", max_displacement)
        )
        self.smoothing = check_positive("smoothing", smoothing, allow_zero=True)

    def bind(self, scene: Scene) -> BoundMinimalFlow:
        """Tie the flow to a batch.

        Raises:
            ValueError: for a missing spacing.
        """
        return BoundMinimalFlow(self, scene)


class BoundMinimalFlow(BoundFlowField, BoundMinimal):
    """The flow of one batch, with what the search for the smallest one needs of it.

    >>> import torch
    >>> from monai_adversarial.attacks import ADef
    >>> from monai_adversarial.data.example import example_case
    >>> result = ADef(steps=4)(*example_case(16))
    >>> half = result.bound.toward(result.parameters, torch.tensor([0.5]))
    >>> round(float(result.bound.length(half[0]) / result.smallest_norm.values), 3)
    0.5
    """

    norm = "displacement"

    def __init__(self, perturbation: MinimalFlow, scene: Scene) -> None:
        super().__init__(perturbation, scene)
        self.kernels: list[torch.Tensor] = []
        if perturbation.smoothing:
            steps = shared_spacing(scene, "smoothing")
            self.kernels = [gaussian_1d(torch.tensor(perturbation.smoothing / step)).to(scene.image) for step in steps]

    @cached_property
    def span(self) -> torch.Tensor:
        """One mm."""
        image = self.scene.image
        return per_sample(image.new_ones(image.shape[0]), image)

    @property
    def size_name(self) -> str:
        """The longest displacement."""
        return "displacement_euclidean"

    def smooth(self, field: torch.Tensor) -> torch.Tensor:
        """A field through the Gaussian, which is its own adjoint; outside of the volume is nothing."""
        return separable_filtering(field, self.kernels, mode="zeros") if self.kernels else field

    def length(self, noise: torch.Tensor) -> torch.Tensor:
        """Length of the longest displacement in mm, (batch,)."""
        return noise.norm(dim=1).flatten(1).amax(dim=1)

    def finished_length(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The same: images show a flow only where they are not flat."""
        return self.length(parameters[0])

    def toward(self, parameters: Parameters, share: torch.Tensor) -> Parameters:
        """All displacements times the share."""
        return self.project((parameters[0] * per_sample(share, parameters[0]),))

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """A small smooth flow."""
        return self._drawn(generators, torch.full_like(self.span.flatten(), START))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """A random flow that is as smooth and as long."""
        return self._drawn(generators, self.length(parameters[0].detach()))

    def _drawn(self, generators: list[torch.Generator], length: torch.Tensor) -> Parameters:
        (draw,) = self.zeros()
        for sample, generator in zip(draw, generators, strict=True):
            sample.normal_(generator=generator)
        draw = self.smooth(draw)
        if self.scene.region is not None:
            draw = draw * self.scene.region
        found = self.length(draw).clamp_min(torch.finfo(draw.dtype).tiny)
        return self.project((draw * per_sample(length / found, draw),))

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """As of a flow with a limit."""
        found = super().measure(image, adversarial, parameters, rounding)
        if math.isinf(self.limit):
            moved = found[self.size_name]
            found[self.size_name] = Measurement(moved.values, moved.units)
        return found
