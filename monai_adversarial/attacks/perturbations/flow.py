# SPDX-License-Identifier: Apache-2.0
"""A displacement for every voxel, bounded in mm."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation, limit_length
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric
from monai_adversarial.attacks.perturbations.warp import inverted
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundFlowField", "FlowField", "total_variation"]

#: under the root of the total variation, so that it has a gradient where neighbors move alike
ROOT = 1e-8
#: share of the limit at which a displacement is cut, so that rounding does not carry its length beyond
INSIDE = 1 - 1e-6


def total_variation(flow: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """Mean over voxels of ``|flow(p) - flow(q)| / |p - q|``, added up over the neighbors ``q`` along each axis (6 in
    3D), (batch,): 0 for a translation, and free of units.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations.flow import total_variation
    >>> flow = torch.tensor([[[0.0, 0.0, 3.0, 3.0]]])  # one edge of 3 mm over a distance of 1.5 mm, seen from two sides
    >>> total_variation(flow, torch.tensor([[1.5]])).round(decimals=3)
    tensor([1.])

    Args:
        flow: displacement in mm, (batch, dimension, spatial...).
        spacing: in mm, (batch or 1, dimension).

    Source: Xiao et al., ICLR 2018, equation 4, here for each mm between neighbors and as a mean instead of a sum.
    """
    total = flow.new_zeros(flow.shape[0])
    for axis in range(flow.shape[1]):
        step = flow.diff(dim=axis + 2).square().sum(dim=1).flatten(1) / spacing[:, axis : axis + 1].square()
        total = total + ((step + ROOT).sqrt() - ROOT**0.5).sum(dim=1)
    return 2 * total / flow[0, 0].numel()


class FlowField(Perturbation):
    """A displacement of every voxel by itself, which may fold: no grid of controls makes it smooth.

    Use it with an objective that charges for its roughness (``FlowPenalized``). Labels move with the image.

    >>> from monai_adversarial.attacks import Attack, FlowField
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(FlowField(3.0), steps=2)(*example_case(16))
    >>> result.bound.geometric, bool(result.budgets["displacement_euclidean"].values <= 3)
    (True, True)

    Args:
        max_displacement: largest length of the displacement of a voxel in mm; 0 is the identity.

    Raises:
        ValueError: for a number that is negative or not finite.
    """

    budget_attributes: tuple[str, ...] = ("max_displacement",)

    def __init__(self, max_displacement: float = 3.0) -> None:
        self.max_displacement = check_positive("max_displacement", max_displacement, allow_zero=True)

    def bind(self, scene: Scene) -> BoundFlowField:
        """Tie the flow to a batch.

        Raises:
            ValueError: for a missing spacing.
        """
        return BoundFlowField(self, scene)


class BoundFlowField(BoundGeometric):
    """The flow of one batch; the parameter holds mm along the image's axes, (batch, dimension, spatial...).

    With a region, voxels outside of it stay where they are.

    >>> import torch
    >>> from monai_adversarial.attacks import Attack, FlowField
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(FlowField(3.0), steps=1)(*example_case(16))
    >>> torch.equal(result.bound.displacement_mm(result.parameters), result.parameters[0])
    True
    """

    def __init__(self, perturbation: FlowField, scene: Scene) -> None:
        super().__init__(scene)
        self.limit = perturbation.max_displacement
        self._spacing = scene.require_spacing("max_displacement").to(scene.image)

    @property
    def spacing(self) -> torch.Tensor:
        """Voxel spacing in mm, (batch, dimension)."""
        return self._spacing

    @property
    def radii(self) -> Parameters:
        """The largest length in mm."""
        return (self.scene.image.new_tensor(self.limit),)

    @property
    def norms(self) -> tuple[str, ...]:
        """Each voxel's displacement has its own length."""
        return ("vector",)

    def zeros(self) -> Parameters:
        """No displacement."""
        image = self.scene.image
        return (image.new_zeros(image.shape[0], image.ndim - 2, *image.shape[2:]),)

    def project(self, parameters: Parameters) -> Parameters:
        """Displacements that are too long are shortened; those outside the region are none."""
        flow = limit_length(parameters[0], self.limit * INSIDE)
        return (flow if self.scene.region is None else flow * self.scene.region,)

    def displacement_mm(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The parameter itself, or the way back in mm."""
        return super().displacement_mm(parameters, inverse) if inverse else parameters[0]

    def displacement(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in voxels, (batch, dimension, spatial...); ``inverse`` by fixed-point iteration, which only
        converges where the flow does not fold."""
        (flow,) = parameters
        moved = flow / self.spacing.to(flow.dtype).reshape(*self.spacing.shape, *[1] * (flow.ndim - 2))
        return inverted(moved) if inverse else moved

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Longest displacement, total variation and folds of the flow, and whether it explains the finished image."""
        measured = self.measured_motion(image, adversarial, parameters, self.limit, rounding)
        with torch.no_grad():
            rough = total_variation(parameters[0].double(), self.spacing.double())
        return {**measured, "flow_total_variation": Measurement(rough, "ratio")}
