# SPDX-License-Identifier: Apache-2.0
"""How far two predictions of the same anatomy differ, in their values and in their contours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from monai_adversarial.losses.voxelwise import Logits, VoxelwiseLoss
from monai_adversarial.utils.validation import check_positive

__all__ = ["ConsistencyLoss"]

_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class ConsistencyLoss(VoxelwiseLoss):
    """``mse_weight * |p - p'|^2 + contour_weight * |Sobel(p) - Sobel(p')|^2``, without labels.

    The first term is summed over the classes and averaged over the voxels; the second is averaged over the foreground
    classes (all channels with sigmoid), the axes and the voxels. After a geometric attack, bring the adversarial logits
    back to the clean grid first and give the voxels that have a source as ``mask``; a contour counts where all its
    neighbors are valid.

    >>> import torch
    >>> from monai_adversarial.losses import ConsistencyLoss
    >>> clean, other = torch.rand(1, 3, 8, 8, 8), torch.rand(1, 3, 8, 8, 8)
    >>> loss = ConsistencyLoss()
    >>> loss(clean, clean).item(), loss(clean, other).item() > 0
    (0.0, True)

    Args:
        mse_weight: weight of the probabilities.
        contour_weight: weight of their edges.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.
        stop_gradient: the clean prediction is a constant, as in AdvChain and virtual adversarial training.

    Raises:
        ValueError: for negative weights, both zero, or an unknown ``activation``.

    Source: Chen et al. 2022, "Enhancing MR image segmentation with realistic adversarial data augmentation" (AdvChain:
    weights 1 and 0.5, 2D). 3D, the replicated border, and the mean over valid voxels only are reconstructions.

    Survey entry: X10 (adapted).
    """

    replaces_task_loss = False
    #: what an attack is to leave: the clean answer that the loss compares with
    attack_reference = "probabilities"

    def __init__(
        self,
        mse_weight: float = 1.0,
        contour_weight: float = 0.5,
        activation: str | None = None,
        stop_gradient: bool = True,
    ) -> None:
        super().__init__(activation)
        self.mse_weight = check_positive("mse_weight", mse_weight, allow_zero=True)
        self.contour_weight = check_positive("contour_weight", contour_weight, allow_zero=True)
        self.stop_gradient = bool(stop_gradient)
        if self.mse_weight == self.contour_weight == 0:
            raise ValueError("mse_weight and contour_weight must not both be 0.")

    def forward(
        self,
        clean_logits: Logits,
        adversarial_logits: Logits,
        label: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            clean_logits: (batch, channel, spatial...), or a list of several levels.
            adversarial_logits: of the same shape, on the clean image's grid.
            label: not used; it is there so that all losses are called alike.
            mask: valid voxels (batch, 1, spatial...), above 0.5; None for all. A sample without any has loss 0.
        """
        outputs = {"clean_logits": clean_logits, "adversarial_logits": adversarial_logits}
        return self.mean_over_levels(outputs, None, mask)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        softmax = activation == "softmax"
        clean, adversarial = (part.softmax(dim=1) if softmax else part.sigmoid() for part in logits)
        difference = adversarial - (clean.detach() if self.stop_gradient else clean)
        valid = None if mask is None else (mask > 0.5).to(difference.dtype)
        total = difference.new_zeros(len(difference))
        if self.mse_weight > 0:
            squares = difference.square().sum(dim=1, keepdim=True)
            total = total + self.mse_weight * _mean(squares, valid)
        if self.contour_weight > 0:
            # Sobel is linear: the difference of the edges is the edge of the difference.
            foreground = difference[:, 1:] if softmax else difference
            derivatives = [edge.square().mean(dim=1, keepdim=True) for edge in _sobel(foreground)]
            edges = torch.stack(derivatives).mean(dim=0)
            total = total + self.contour_weight * _mean(edges, None if valid is None else _eroded(valid))
        return total


def _sobel(volume: torch.Tensor) -> list[torch.Tensor]:
    """Sobel derivative of (batch, channel, spatial...) along each axis, borders replicated.

    Smoothing along the other axes has sum 1, so that the scale is that of the usual 3 x 3 filter in any dimension.
    """
    axes = range(2, volume.ndim)
    derivatives = []
    for along in axes:
        edge = volume
        for axis in axes:
            before, here, after = _neighbors(edge, axis)
            edge = 4 * (after - before) if axis == along else 0.25 * (before + after) + 0.5 * here
        derivatives.append(edge)
    return derivatives


def _neighbors(volume: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = volume.shape[axis]
    before = torch.cat([volume.narrow(axis, 0, 1), volume.narrow(axis, 0, size - 1)], dim=axis)
    after = torch.cat([volume.narrow(axis, 1, size - 1), volume.narrow(axis, size - 1, 1)], dim=axis)
    return before, volume, after


def _eroded(valid: torch.Tensor) -> torch.Tensor:
    """Voxels whose neighbors are valid, too; what is outside the volume counts as valid."""
    return 1 - _POOL[valid.ndim - 2](1 - valid, kernel_size=3, stride=1, padding=1)


def _mean(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Mean of (batch, 1, spatial...) over the valid voxels of each sample."""
    if valid is None:
        return values.flatten(1).mean(dim=1)
    return (values * valid).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1).clamp_min(1)
