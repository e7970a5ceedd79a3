# SPDX-License-Identifier: Apache-2.0
"""A sharper or smoother reconstruction kernel."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.plane import in_plane_axes
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.purifiers.discrete_cosine import blockwise_dct
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundReconstructionKernel", "ReconstructionKernel", "in_plane_frequency"]


class ReconstructionKernel(AcquisitionBlock):
    """A radial frequency response within slices, ``1 + a(f)``: linear between ``bands`` frequencies, 1 at zero.

    The mean of a slice stays as it is. Slices continue as their mirror image, so that no border rings.

    >>> from monai_adversarial.attacks import Attack, ReconstructionKernel
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(ReconstructionKernel(0.3), "dice", steps=2)(model, image, label)
    >>> round(result.budgets["kernel_response"].limit.item(), 3)
    0.3

    Args:
        max_change: largest relative change of the response at any frequency, below 1.
        bands: number of frequencies, evenly spaced up to the Nyquist frequency of the finer axis.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a number out of range.

    Survey entry: A15 (own).

    Source: our own, of the modulation transfer function of reconstruction kernels (textbook).
    """

    budget_attributes = ("max_change",)

    def __init__(self, max_change: float = 0.3, bands: int = 4, axial_axis: int = -1) -> None:
        self.max_change = check_positive("max_change", max_change, allow_zero=True)
        if self.max_change >= 1:
            raise ValueError(f"max_change must be below 1, got {max_change}.")
        self.bands = check_count("bands", bands)
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundReconstructionKernel:
        """Tie the kernel to a batch; ValueError where the spacing is not known."""
        return BoundReconstructionKernel(self, scene)


def in_plane_frequency(scene: Scene, axial_axis: int, what: str) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Length of the frequency of each coefficient of a slice's cosine transform, 1 at the Nyquist frequency of the
    finer axis, (batch, 1, spatial... with 1 across slices); and the block of the transform."""
    axes = in_plane_axes(scene, axial_axis)
    spacing = scene.require_spacing(what)
    finest = torch.minimum(spacing[:, axes[0]], spacing[:, axes[1]])
    dimensions = len(scene.spatial_shape)
    squared = torch.zeros(scene.batch, 1, *[1] * dimensions, dtype=torch.float64)
    block = [1] * dimensions
    for axis in axes:
        length = block[axis] = scene.spatial_shape[axis]
        share = (finest / spacing[:, axis])[:, None] * torch.arange(length, dtype=torch.float64) / length
        shape = [1] * dimensions
        shape[axis] = length
        squared = squared + share.square().view(-1, 1, *shape)
    return squared.sqrt().to(scene.image), tuple(block)


class BoundReconstructionKernel(BoundAcquisitionBlock):
    """Relative change of the response at each frequency, (batch, bands)."""

    def __init__(self, block: ReconstructionKernel, scene: Scene) -> None:
        limit = block.max_change
        super().__init__(scene, (Variable("kernel_response", "fraction", (block.bands,), -limit, limit),))
        frequency, self.block = in_plane_frequency(scene, block.axial_axis, "the frequency of a reconstruction kernel")
        place = (frequency * block.bands).clamp_max(float(block.bands))
        nodes = torch.arange(1, block.bands + 1, dtype=place.dtype, device=place.device).view(
            1, -1, *[1] * (place.ndim - 2)
        )
        self.basis = (1 - (place - nodes).abs()).clamp_min(0)

    def response(self, parameters: Parameters) -> torch.Tensor:
        """Relative change of each coefficient, (batch, 1, spatial... with 1 across slices)."""
        amounts = parameters[0].view(*parameters[0].shape, *[1] * (self.basis.ndim - 2))
        return (amounts * self.basis).sum(dim=1, keepdim=True)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        coefficients = blockwise_dct(image, self.block)
        return blockwise_dct(coefficients * self.response(parameters), self.block, inverse=True)
