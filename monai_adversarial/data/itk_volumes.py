# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage (MHA) volumes in and out, through MONAI's ITKReader (extra ``itk``)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ITKReader, MetaTensor

from monai_adversarial.data.adversarial_voxels import checked_voxels
from monai_adversarial.data.saving import MARK, round_to_stored
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.stored_grid import StoredGrid
from monai_adversarial.utils.validation import check_positive

__all__ = ["ITKVolume", "read_volume", "save_adversarial_volume"]

# Ending -> what in the header says how the voxels lie in space.
ORIENTED_BY: dict[str, set[bytes]] = {
    ".nrrd": {b"space"},
    ".nhdr": {b"space"},
    ".mha": {b"TransformMatrix", b"Rotation", b"Orientation"},
    ".mhd": {b"TransformMatrix", b"Rotation", b"Orientation"},
}
WRITTEN = (".nrrd", ".mha")

HEADER_BYTES = 65536


@dataclass(frozen=True, eq=False)
class ITKVolume:
    """A volume from a NRRD or MetaImage file.

    Args:
        image: MetaTensor (1, x, y, z) in HU, float32; its affine is RAS in mm, float64.
        file: the file.
        dtype: type of its voxels.
    """

    image: MetaTensor
    file: Path
    dtype: np.dtype

    @property
    def affine(self) -> torch.Tensor:
        """Voxel to mm, RAS, (4, 4) float64."""
        return self.image.affine

    @property
    def stored_grid(self) -> StoredGrid | None:
        """The values that an integer file can hold; None for floating point files."""
        if self.dtype.kind not in "iu":
            return None
        limits = np.iinfo(self.dtype)
        return StoredGrid(1.0, 0.0, float(limits.min), float(limits.max))


def _itk() -> Any:
    try:
        return import_module("itk")
    except ImportError as error:
        raise ImportError('NRRD and MHA need itk: pip install "monai-adversarial[itk]".') from error


def read_volume(path: str | os.PathLike[str]) -> ITKVolume:
    """Read a three-dimensional CT volume from ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Raises:
        FileNotFoundError: where there is no file.
        ImportError: where itk is missing.
        RuntimeError: for a file that ITK cannot read.
        ValueError: for another ending, a file that says nothing of its orientation, and voxels that are not one finite
            number each in three dimensions.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ORIENTED_BY:
        raise ValueError(f"path must end in one of {', '.join(ORIENTED_BY)}, got {path.name!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {path}.")
    image = _read(path)
    if image.GetImageDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            f"{path.name} must hold one number per voxel in three dimensions, got {image.GetImageDimension()} "
            f"dimensions and {image.GetNumberOfComponentsPerPixel()} numbers."
        )
    if not ORIENTED_BY[ending] & _header_keys(path):
        raise ValueError(f"{path.name} does not say how its voxels lie in space: left and right are not guessed.")
    voxels, meta = ITKReader().get_data(image)
    if not np.isfinite(voxels).all():
        raise ValueError(f"{path.name} must hold finite values, got {int((~np.isfinite(voxels)).sum())} others.")
    values = np.ascontiguousarray(voxels, dtype=np.float32)
    if voxels.dtype.kind in "iu" and not np.array_equal(values.astype(np.float64), voxels.astype(np.float64)):
        raise ValueError(f"{path.name} holds {voxels.dtype} values that float32 cannot tell apart.")
    affine = torch.as_tensor(np.asarray(meta["affine"], dtype=np.float64))
    return ITKVolume(MetaTensor(torch.from_numpy(values)[None], affine=affine), path, voxels.dtype)


def _read(path: Path) -> Any:
    _itk()
    try:
        return ITKReader().read(path)
    except (RuntimeError, OSError, TypeError, KeyError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(f"cannot read {path.name}: {lines[-1].strip()[:200]}.") from error


def _header_keys(path: Path) -> set[bytes]:
    """Names of the fields of a header, which ends with an empty line (NRRD) or the field ElementDataFile."""
    keys: set[bytes] = set()
    with path.open("rb") as stream:
        for line in stream.read(HEADER_BYTES).splitlines():
            key = re.split(rb"[=:]", line, maxsplit=1)[0].strip()
            if not key or b"ElementDataFile" in keys:
                break
            keys.add(key)
    return keys


def save_adversarial_volume(
    image: torch.Tensor,
    volume: ITKVolume,
    path: str | os.PathLike[str],
    description: str = "",
    epsilon: float | None = None,
) -> Path:
    """Write an adversarial volume as ``.nrrd`` or ``.mha`` with the space and type of its source.

    The header holds the key ``adversarial`` with :data:`MARK`, and no other key of the source's. Integer files get
    rounded voxels, inside the budget; what an attack adds beyond the range of the type is cut off there. The file is
    read back and compared before it takes its name.

    Args:
        image: voxels in HU, (1, x, y, z); leading dimensions of 1 are ignored.
        volume: the source as :func:`read_volume` returned it.
        path: where to write; its name contains "adversarial".
        description: short text beside the mark.
        epsilon: L-infinity budget in HU that rounding must not leave.

    Returns:
        The path.

    Raises:
        ImportError: where itk is missing.
        ValueError: for another shape, NaN, an image that is not in HU or leaves ``epsilon``, a path without the mark,
            with another ending or that of the source.
        RuntimeError: where the source cannot be read any more.
        OSError: where the file cannot be written.
    """
    path = Path(path)
    epsilon = None if epsilon is None else check_positive("epsilon", epsilon, allow_zero=True)
    if "adversarial" not in path.name.lower():
        raise ValueError(f"path must name the file as adversarial (case_adversarial.nrrd), got {path.name!r}.")
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(
            f"path must end in .nrrd or .mha, which hold header and voxels in one file, got {path.name!r}."
        )
    if path.resolve() == volume.file.resolve():
        raise ValueError(f"path must not be the source's file, got {path.name!r}.")
    itk, source = _itk(), _read(volume.file)
    stored = _stored(image, volume, epsilon)
    written = itk.image_from_array(np.ascontiguousarray(stored.T))
    written.CopyInformation(source)
    keys = written.GetMetaDataDictionary()
    keys["adversarial"] = " ".join(f"{MARK} not for clinical use {description}".split())
    written.SetMetaDataDictionary(keys)
    with replace_when_complete(path) as temporary:
        try:
            itk.imwrite(written, str(temporary), compression=True)
        except RuntimeError as error:
            raise OSError(5, str(error).strip().splitlines()[-1][:200]) from error
        again = read_volume(temporary)
        off = float((again.affine - volume.affine).abs().max())
        if again.dtype != volume.dtype or not np.array_equal(again.image.numpy()[0], stored.astype(np.float32)):
            raise RuntimeError(f"{path.name} does not hold the values that it should.")
        if off > 1e-6:
            raise RuntimeError(f"{path.name} lies {off:g} mm from its source.")
    return path


def _stored(image: torch.Tensor, volume: ITKVolume, epsilon: float | None) -> np.ndarray:
    clean, grid = volume.image.as_tensor()[0], volume.stored_grid
    voxels = checked_voxels(image, clean, epsilon, 0.5)
    if grid is None:
        return voxels.numpy().astype(volume.dtype)
    rounded = round_to_stored(voxels.double(), clean.double(), epsilon)
    return rounded.clamp(grid.low, grid.high).numpy().astype(volume.dtype)
