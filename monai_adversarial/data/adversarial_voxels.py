# SPDX-License-Identifier: Apache-2.0
"""What an adversarial image must be before it is written into a copy of its scan."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["checked_voxels"]

# An image that spans less of the scan's range of HU than this is in other units.
SAME_UNITS = 0.05


def checked_voxels(image: Any, clean: torch.Tensor, epsilon: float | None, rounding: float) -> torch.Tensor:
    """Voxels of ``image`` on the grid of the scan, after a check that they can be an image of that scan.

    Args:
        image: voxels in HU, leading dimensions of 1 are ignored.
        clean: the scan, spatial dimensions only.
        epsilon: L-infinity budget in HU, or None.
        rounding: by how much rounding may have moved a voxel, in HU.

    Raises:
        ValueError: for another shape, NaN, an image that leaves ``epsilon``, and one in other units than HU.
    """
    voxels = torch.as_tensor(image.as_tensor() if hasattr(image, "as_tensor") else image).detach().cpu()
    voxels = voxels if voxels.is_floating_point() else voxels.float()
    if tuple(voxels.shape) != (1,) * (voxels.ndim - clean.ndim) + tuple(clean.shape):
        raise ValueError(
            f"image must have the shape {(1, *clean.shape)} of the scan, got {tuple(voxels.shape)}: save it in scanner "
            "space."
        )
    voxels = voxels.reshape(clean.shape)
    if not bool(torch.isfinite(voxels).all()):
        raise ValueError(f"image must be finite, got {int((~torch.isfinite(voxels)).sum())} NaN or infinite voxels.")
    change = float((voxels - clean).abs().max())
    if epsilon is not None and change > epsilon + rounding:
        raise ValueError(
            f"image differs from the scan by up to {change:g} HU, more than epsilon={epsilon:g}: it belongs to another "
            "scan, is not in HU, or left its budget."
        )
    span, wanted = float(voxels.max() - voxels.min()), float(clean.max() - clean.min())
    if epsilon is None and span < SAME_UNITS * wanted:
        raise ValueError(
            f"image spans {span:g}, the scan {wanted:g} HU: give the image in HU, not in a network's values."
        )
    return voxels
