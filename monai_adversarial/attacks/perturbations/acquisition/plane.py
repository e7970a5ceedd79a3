# SPDX-License-Identifier: Apache-2.0
"""Axes and positions of a scan in mm."""

from __future__ import annotations

import torch

from monai_adversarial.utils.scene import Scene

__all__ = ["axial_axis_of", "in_plane_axes", "positions", "slices_required"]


def axial_axis_of(scene: Scene, axial_axis: int) -> int | None:
    """The spatial axis across slices, from 0; None for images of one slice.

    Raises:
        ValueError: for an axis that the image does not have.
    """
    dimensions = len(scene.spatial_shape)
    if dimensions < 2:
        raise ValueError(f"image must have 2 or 3 spatial axes for an acquisition block, got {dimensions}.")
    if dimensions == 2:
        return None
    if not -dimensions <= axial_axis < dimensions:
        raise ValueError(f"axial_axis must be one of the {dimensions} spatial axes of the image, got {axial_axis}.")
    return axial_axis % dimensions


def slices_required(scene: Scene, axial_axis: int, what: str) -> int:
    """The axis across slices of a volume, or ValueError that says who needs it."""
    axis = axial_axis_of(scene, axial_axis)
    if axis is None:
        raise ValueError(f"image must be a volume: {what} is about slices, got an image of one slice.")
    return axis


def in_plane_axes(scene: Scene, axial_axis: int) -> tuple[int, int]:
    """The two spatial axes of a slice."""
    across = axial_axis_of(scene, axial_axis)
    first, second = (axis for axis in range(len(scene.spatial_shape)) if axis != across)
    return first, second


def positions(scene: Scene, axis: int, what: str) -> torch.Tensor:
    """Distance of each voxel from the center of the volume along a spatial axis in mm, (batch, 1, 1.., length, ..1).

    Raises:
        ValueError: where the spacing is not known; ``what`` says who needs it.
    """
    length = scene.spatial_shape[axis]
    spacing = scene.require_spacing(what)[:, axis]
    along = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2)[None] * spacing[:, None]
    shape = [1] * len(scene.spatial_shape)
    shape[axis] = length
    return along.to(scene.image).view(-1, 1, *shape)
