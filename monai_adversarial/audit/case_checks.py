# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a case can be audited, before its pipeline hides what is wrong with them."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import torch

from monai_adversarial.data.saving import VOLUME_ENDINGS, read_back, read_reference, volume_name
from monai_adversarial.utils.plain import as_plain

__all__ = ["cause_of", "check_image", "check_label_covers", "check_label_values", "is_nifti", "says_voxel_size"]

#: mm along which no scan extends: the header is not in mm
LONGEST = 10_000.0


def is_nifti(file: Any) -> bool:
    """Whether a file is named as NIfTI."""
    return isinstance(file, (str, os.PathLike)) and volume_name(file)[1].lower() in VOLUME_ENDINGS


def check_image(name: str, files: Any) -> None:
    """Check the NIfTI files of an image; other formats are left to the pipeline's reader.

    An intensity window turns an infinite voxel into an ordinary one, and resampling makes something of every affine, so
    that neither is seen behind the pipeline.

    Args:
        name: of the case.
        files: path, or paths of the channels.

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that cannot be read whole.
        ValueError: for an affine that is no grid in mm, values that are no finite real numbers, and an image without
            voxels or of one value.
    """
    for file in files if isinstance(files, (list, tuple)) else [files]:
        if is_nifti(file):
            _check_file(name, file)


def _check_file(name: str, file: Any) -> None:
    header = read_reference(file)
    kind = header.get_data_dtype()
    if kind.kind not in "iuf":
        raise ValueError(f"the image of {name} must hold real numbers, got {'complex' if kind.kind == 'c' else kind}.")
    if not all(header.shape):
        raise ValueError(f"the image of {name} holds no voxels: its shape is {tuple(header.shape)}.")
    affine = np.asarray(header.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(
            f"the image of {name} has an affine that is no grid (NaN, infinite, or a voxel without volume), so that "
            "neither mm nor ml mean anything: mend its header."
        )
    extent = np.linalg.norm(affine[:3, :3], axis=0)[: len(header.shape)] * np.asarray(header.shape[:3])
    if extent.max() > LONGEST:
        raise ValueError(
            f"the image of {name} extends over {extent.max():.3g} mm, more than {LONGEST:.0f}: its voxel size is not "
            "in mm."
        )
    voxels = as_plain(read_back(file))
    wrong = int((~torch.isfinite(voxels)).sum())
    if wrong:
        raise ValueError(f"the image of {name} must be finite, got {wrong} NaN or infinite voxels.")
    if bool(voxels.min() == voxels.max()):
        raise ValueError(
            f"the image of {name} has the value {float(voxels.min()):g} in every voxel: there is nothing to segment "
            "and nothing to attack."
        )


def says_voxel_size(files: Any) -> bool:
    """Whether a file says how large its voxels are: a NIfTI header of neither form and 1 mm everywhere does not.

    Args:
        files: path, or paths of the channels; formats other than NIfTI are taken to say it.
    """
    first = files[0] if isinstance(files, (list, tuple)) else files
    if not is_nifti(first):
        return True
    header = read_reference(first).header
    coded = any(int(header[code]) for code in ("qform_code", "sform_code") if code in header)
    return coded or any(float(step) != 1.0 for step in header.get_zooms()[:3])


def check_label_covers(name: str, image: Any, shape: tuple[int, ...], affine: torch.Tensor | None) -> None:
    """Check that a label lies on its image: voxels that it does not cover would count as background.

    Args:
        name: of the case.
        image: file of the image.
        shape: of the label's grid.
        affine: of the label's grid.

    Raises:
        ValueError: for a label whose grid ends more than a voxel before that of the image.
    """
    first = image[0] if isinstance(image, (list, tuple)) else image
    if affine is None or len(shape) != 3 or not is_nifti(first):
        return
    header = read_reference(first)
    sizes, own = tuple(header.shape[:3]), np.asarray(header.affine, dtype=np.float64)
    there = affine.double().numpy()
    if len(sizes) != 3:
        return
    if not np.isfinite(there).all() or abs(np.linalg.det(there[:3, :3])) < 1e-12:
        raise ValueError(f"the label of {name} has an affine that is no grid: mend its header.")
    spacing = np.linalg.norm(there[:3, :3], axis=0)
    room = np.maximum(1.0, np.linalg.norm(own[:3, :3], axis=0).max() / spacing)
    corners = np.asarray([[*corner, 1.0] for corner in itertools.product(*((0, size - 1) for size in sizes))])
    places = (np.linalg.inv(there) @ own @ corners.T)[:3].T
    beyond = np.maximum(-places, places - (np.asarray(shape) - 1)).max(axis=0)
    if (beyond > room).any():
        raise ValueError(
            f"the label of {name} does not cover its image: its grid ends {float((beyond * spacing).max()):.0f} mm "
            "before the image does. Save it with the affine and the extent of the image."
        )


def check_label_values(
    name: str, values: torch.Tensor, masks: bool, classes: int, ignore_index: int | None = None
) -> None:
    """Check the classes of a label against the network's channels.

    Args:
        name: of the case.
        values: class map, or masks (channel, spatial...).
        masks: whether they are masks.
        classes: output channels of the network; 1 knows the classes 0 and 1.
        ignore_index: value of voxels that do not count.

    Raises:
        ValueError: for values or channels that the network does not have.
    """
    if masks:
        if values.shape[0] != classes:
            raise ValueError(
                f"the label of {name} holds {values.shape[0]} channels, but the network has {classes} output channels."
            )
        return
    found = sorted({int(value) for value in values.unique().tolist()} - {ignore_index})
    last = max(classes, 2) - 1
    wrong = [value for value in found if not 0 <= value <= last]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise ValueError(
            f"the label of {name} must hold class indices 0 to {last} for a network with {classes} output channels, "
            f"got {shown}: map its values onto those classes."
        )


def cause_of(error: BaseException) -> str:
    """What happened below MONAI's ``applying transform``, on one line."""
    while str(error).startswith("applying transform") and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
