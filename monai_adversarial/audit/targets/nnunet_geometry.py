# SPDX-License-Identifier: Apache-2.0
"""Where the voxels are that nnU-Net works on: its arrays run along z, y, x, and each of its readers says it its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_adversarial.audit.facts import TargetError

__all__ = ["affine_as_read", "cropped", "on_file_grid", "resampled", "transposed"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _of_itk(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> np.ndarray:
    """Index (i, j, k) to RAS in mm, of an ITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction, dtype=float).reshape(3, 3) * np.asarray(spacing, dtype=float)
    affine[:3, 3] = origin
    return _LPS_TO_RAS @ affine


def affine_as_read(properties: Mapping[str, Any]) -> np.ndarray:
    """Affine (4, 4), index in the array's order (z, y, x) to RAS in mm, from what a reader of nnU-Net says.

    Args:
        properties: what ``read_images`` of ``SimpleITKIO``, ``NibabelIO`` or their reorienting forms returns.

    Raises:
        TargetError: for images that are not three-dimensional, and readers that know no position in the patient.
    """
    itk, nibabel = properties.get("sitk_stuff"), properties.get("nibabel_stuff")
    if itk is not None:
        if len(itk["spacing"]) != 3:
            raise TargetError(
                f"nnU-Net images must be 3D files, one for each channel, got one with {len(itk['spacing'])} axes."
            )
        affine = _of_itk(itk["spacing"], itk["origin"], itk["direction"])
    elif nibabel is not None:
        affine = np.asarray(nibabel.get("reoriented_affine", nibabel["original_affine"]), dtype=float)
    else:
        raise TargetError(
            "this nnU-Net reads its images with a reader that knows no position in the patient (pictures, TIFF): only "
            "SimpleITKIO, NibabelIO and their reorienting forms are audited."
        )
    return affine[:, [2, 1, 0, 3]]


def transposed(affine: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Affine of an array whose axes were put in ``order``."""
    return affine[:, [*order, 3]]


def cropped(affine: np.ndarray, box: Sequence[Sequence[int]]) -> np.ndarray:
    """Affine of what is inside ``box``, the first and last (exclusive) index along each axis."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.asarray([first for first, _ in box], dtype=float)
    return moved


def resampled(affine: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Affine of an array of shape ``old`` that was resampled to shape ``new``.

    nnU-Net rounds the new shape and then aligns the arrays' outer faces, so that the spacing is the old one times the
    ratio of the shapes, not exactly that of the plans.
    """
    ratio = np.asarray(old, dtype=float) / np.asarray(new, dtype=float)
    step = np.diag([*ratio, 1.0])
    step[:3, 3] = 0.5 * ratio - 0.5
    return affine @ step


def on_file_grid(array: np.ndarray, properties: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """An array as nnU-Net's reader has it, (z, y, x), on the grid of the image's file.

    Returns:
        The array (i, j, k) and its affine (4, 4; RAS, mm): also where the reader had turned the image to RAS.
    """
    itk, nibabel = properties.get("sitk_stuff"), properties.get("nibabel_stuff")
    if itk is not None and "original_orientation" in itk:
        import SimpleITK

        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(itk["spacing"])
        image.SetOrigin(itk["origin"])
        image.SetDirection(itk["direction"])
        image = SimpleITK.DICOMOrient(image, itk["original_orientation"])
        turned = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        return turned, _of_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if nibabel is not None and "reoriented_affine" in nibabel:
        from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

        original = np.asarray(nibabel["original_affine"], dtype=float)
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(original))
        return apply_orientation(array.transpose(2, 1, 0), back), original
    return array.transpose(2, 1, 0), affine_as_read(properties)[:, [2, 1, 0, 3]]
