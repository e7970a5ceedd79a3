# SPDX-License-Identifier: Apache-2.0
"""The way from a scanner's voxel grid to the grid a network works on, and back."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from monai.data.utils import AFFINE_TOL, affine_to_spacing, compute_shape_offset, to_affine_nd, zoom_affine
from monai.networks.layers import AffineTransform

from monai_adversarial.utils.separable_resampling import AxisInterpolation, resample_axes

__all__ = ["NetworkGrid", "valid_axcodes"]

# Off-axis sampling offsets below this many voxels come from rounding of the affine, and are ignored.
_SEPARABLE_TOLERANCE = 1e-3


class NetworkGrid:
    """Exact flips and permutation to ``axcodes``, then linear resampling to ``pixdim``, and the inverse of both.

    The target grid is that of MONAI's ``Orientation`` and ``Spacing`` (``diagonal=False``), so rotation is kept and
    shear is removed. Without shear the resampling is separable; with shear (tilted gantry) MONAI's own resampling
    layer does it.

    Args:
        shape: spatial shape of the scanner's grid.
        affine: voxel to world (RAS+, mm) matrix (4, 4), or (3, 3) in 2D.
        pixdim: spacing in mm, None for no resampling.
        axcodes: orientation, None for the scanner's.

    Raises:
        ValueError: when the affine is singular, or ``axcodes`` names fewer axes than ``shape`` has.
    """

    def __init__(
        self, shape: Sequence[int], affine: np.ndarray, pixdim: Sequence[float] | None, axcodes: str | None
    ) -> None:
        rank = len(shape)
        affine = to_affine_nd(rank, affine)
        if abs(np.linalg.det(affine)) < 1e-12:
            raise ValueError(f"affine must be invertible, got {affine.tolist()}.")
        self.scanner_shape = tuple(int(size) for size in shape)
        self.flips, self.permutation, oriented = _orient(self.scanner_shape, affine, axcodes)
        self.inverse_permutation = [self.permutation.index(axis) for axis in range(rank)]
        self.oriented_shape = tuple(self.scanner_shape[axis] for axis in self.permutation)
        self.network_shape, self.affine = _target_grid(self.oriented_shape, oriented, pixdim)
        self._forward = _Resampling(self.oriented_shape, self.network_shape, np.linalg.solve(oriented, self.affine))
        self._backward = _Resampling(self.network_shape, self.oriented_shape, np.linalg.solve(self.affine, oriented))

    def to_network(self, image: torch.Tensor) -> torch.Tensor:
        """From (B, C, scanner_shape) to (B, C, network_shape)."""
        image = image.flip([axis + 2 for axis in self.flips]) if self.flips else image
        image = image.permute(0, 1, *[axis + 2 for axis in self.permutation]).contiguous()
        return self._forward(image)

    def to_scanner(self, image: torch.Tensor) -> torch.Tensor:
        """From (B, C, network_shape) to (B, C, scanner_shape)."""
        image = self._backward(image).permute(0, 1, *[axis + 2 for axis in self.inverse_permutation])
        image = image.flip([axis + 2 for axis in self.flips]) if self.flips else image
        return image.contiguous()


class _Resampling:
    """Linear sampling of a grid at ``transform @ voxel`` for each output voxel, border values repeated outside."""

    def __init__(self, size: Sequence[int], output_size: Sequence[int], transform: np.ndarray) -> None:
        rank = len(size)
        same_grid = np.allclose(transform, np.eye(rank + 1), atol=AFFINE_TOL) and tuple(size) == tuple(output_size)
        self.output_size = tuple(output_size)
        self.transform = transform
        self.axes: list[AxisInterpolation | None] | None = [None] * rank
        off_axis = transform[:rank, :rank] * (1 - np.eye(rank)) * (np.asarray(output_size) - 1)
        if same_grid:  # as MONAI: no resampling at all
            return
        if np.abs(off_axis).sum(axis=1).max() > _SEPARABLE_TOLERANCE:
            self.axes = None
            return
        for axis in range(rank):
            positions = transform[axis, axis] * np.arange(output_size[axis]) + transform[axis, -1]
            same_axis = len(positions) == size[axis] and np.allclose(
                positions, np.arange(size[axis]), rtol=0, atol=_SEPARABLE_TOLERANCE
            )
            self.axes[axis] = None if same_axis else AxisInterpolation(size[axis], positions)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self.axes is not None:
            return resample_axes(image, self.axes)
        layer = AffineTransform(
            normalized=False, mode="bilinear", padding_mode="border", align_corners=False, reverse_indexing=True
        )
        theta = torch.as_tensor(self.transform, dtype=image.dtype, device=image.device)
        with torch.autocast(image.device.type, enabled=False):  # sampling positions need float32
            result: torch.Tensor = layer(image, theta=theta, spatial_size=self.output_size)
        return result


def _orient(shape: tuple[int, ...], affine: np.ndarray, axcodes: str | None) -> tuple[list[int], list[int], np.ndarray]:
    """Axes to flip, then the permutation to apply, and the affine after both."""
    rank = len(shape)
    if axcodes is None:
        return [], list(range(rank)), affine
    target = nib.orientations.axcodes2ornt(axcodes[:rank])
    if len(target) < rank:
        raise ValueError(f"axcodes must name {rank} axes, got {axcodes!r}.")
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target)
    flips = [axis for axis in range(rank) if change[axis, 1] == -1]
    permutation = [int(axis) for axis in np.argsort(change[:, 0])]
    return flips, permutation, affine @ nib.orientations.inv_ornt_aff(change, shape)


def _target_grid(
    shape: tuple[int, ...], affine: np.ndarray, pixdim: Sequence[float] | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine after resampling, by the rules of MONAI's ``Spacing``."""
    if pixdim is None:
        return shape, affine
    rank = len(shape)
    original = affine_to_spacing(affine, rank)
    padded = np.array([*pixdim, *[pixdim[-1]] * rank][:rank])
    keep = (np.abs(padded - original) <= AFFINE_TOL) | (padded <= 0)
    target = zoom_affine(affine, np.where(keep, original, padded), diagonal=False)
    output_shape, offset = compute_shape_offset(shape, affine, target)
    target[:rank, -1] = offset[:rank]
    if tuple(output_shape) == shape and np.allclose(affine, target, atol=AFFINE_TOL):
        return shape, affine
    return tuple(int(size) for size in output_shape), target


def valid_axcodes(axcodes: str) -> str:
    """The codes as a string in upper case.

    Raises:
        ValueError: when they are not two or three letters of L/R, P/A, I/S on different axes.
    """
    codes = "".join(axcodes).upper()
    axes = [next((axis for axis, pair in enumerate(("LR", "PA", "IS")) if code in pair), None) for code in codes]
    if len(codes) not in (2, 3) or None in axes or len(set(axes)) != len(codes):
        raise ValueError(f"axcodes must be two or three of L/R, P/A, I/S such as 'RAS', got {axcodes!r}.")
    return codes
