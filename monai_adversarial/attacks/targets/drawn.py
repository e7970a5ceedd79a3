# SPDX-License-Identifier: Apache-2.0
"""Wanted segmentations that somebody drew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from monai.transforms import LoadImage

from monai_adversarial.attacks.targets.segmentations import Segmentations
from monai_adversarial.utils.plain import as_plain

__all__ = ["drawn_mask"]

#: mm by which the corners of two grids may differ, for float32 headers
SAME_PLACE = 1e-2


def drawn_mask(file: str | os.PathLike[str], segmentation: Any, organ: int | None = None) -> Any:
    """A wanted segmentation from a file that was drawn on the grid of the image.

    Args:
        file: NIfTI, or anything else that MONAI reads: whole numbers on the grid of ``segmentation``. Grids are
            compared by shape and, for a ``MetaTensor``, by affine.
        segmentation: of one sample, class map (1, 1, spatial...), one-hot (1, class, spatial...) or masks that overlap;
            usually the clean prediction.
        organ: the drawing is a mask (0: outside) of this class or channel, and replaces it in ``segmentation``; None
            where the drawing holds all classes.

    Returns:
        the wanted segmentation, in the form and type of the given one.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for another grid, an empty drawing, values that are no classes, and a drawing that equals
            ``segmentation``.

    Example:
        >>> import nibabel, numpy, tempfile
        >>> from monai_adversarial.attacks.targets import drawn_mask
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> drawing = numpy.zeros((32, 32, 32), dtype=numpy.uint8)
        >>> drawing[4:9, 4:9, 4:9] = 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nibabel.save(nibabel.Nifti1Image(drawing, numpy.eye(4)), f"{folder}/drawing.nii.gz")
        ...     wanted = drawn_mask(f"{folder}/drawing.nii.gz", label.as_tensor(), organ=1)
        >>> int((wanted == 1).sum())
        125
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"file must be a drawn segmentation, but {str(path)!r} does not exist.")
    batch = Segmentations(segmentation)
    if len(batch) != 1:
        raise ValueError(f"segmentation must hold the one sample that was drawn on, got {len(batch)}.")
    read = LoadImage(image_only=True, ensure_channel_first=True)(path)
    drawn = as_plain(read)[None]
    _check_grid(path, read, segmentation, drawn, batch)
    if bool((drawn != drawn.round()).any()) or bool((drawn < 0).any()) or not bool(torch.isfinite(drawn).all()):
        raise ValueError(f"{path.name} must hold whole numbers >= 0, a mask or classes, got other values.")
    if not bool(drawn.any()):
        raise ValueError(f"{path.name} must hold a drawing, but all of its voxels are 0.")
    if organ is not None:
        batch.check_organ(organ, needed=False)
        batch.put(0, organ, drawn[0, 0] > 0)
        return batch.finish()
    if not batch.exclusive:
        raise ValueError(
            "organ must name the channel that was drawn, because the segmentation holds masks that overlap."
        )
    highest = int(drawn.max())
    if batch.classes is not None and highest >= batch.classes:
        raise ValueError(f"{path.name} must hold classes 0 to {batch.classes - 1}, got {highest}.")
    wanted = drawn.to(batch.values)
    if torch.equal(wanted, batch.values):
        raise ValueError(f"{path.name} equals the segmentation: nothing is left to attack.")
    batch.values = wanted
    return batch.finish()


def _check_grid(path: Path, read: Any, segmentation: Any, drawn: torch.Tensor, batch: Segmentations) -> None:
    """Raise where a drawing has another shape, or its corner voxels lie elsewhere."""
    expected, found = tuple(batch.values.shape[2:]), tuple(drawn.shape[2:])
    if drawn.shape[1] != 1 or found != expected:
        raise ValueError(
            f"{path.name} must be on the grid of the image, {expected} voxels, got {tuple(drawn.shape[1:])}."
        )
    affine = getattr(segmentation, "affine", None)
    if affine is None:
        return
    own = torch.as_tensor(affine, dtype=torch.float64).cpu().reshape(-1, *affine.shape[-2:])[0]
    other = torch.as_tensor(read.affine, dtype=torch.float64).cpu()
    size = len(expected)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, length - 1.0], dtype=torch.float64) for length in expected])
    corners = corners.reshape(-1, size)

    def place(matrix: torch.Tensor) -> torch.Tensor:
        return corners @ matrix[:size, :size].T + matrix[:size, -1]

    apart = float((place(own) - place(other)).norm(dim=1).max())
    if apart > SAME_PLACE:
        raise ValueError(f"{path.name} must be on the grid of the image, but its corners lie up to {apart:.3g} mm off.")
