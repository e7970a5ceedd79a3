# SPDX-License-Identifier: Apache-2.0
"""Adversarial volumes as NIfTI: in the space and dtype of the input file, marked, written whole or not at all."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor

from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.stored_grid import StoredGrid

__all__ = [
    "MARK",
    "read_back",
    "read_reference",
    "round_to_stored",
    "save_adversarial_nifti",
    "save_label_nifti",
    "stored_grid",
    "volume_name",
]

MARK = "ADVERSARIAL EXAMPLE monai_adversarial"
VOLUME_ENDINGS = (".nii.gz", ".nii")

# Fields of the two ways to say where the voxels lie, each valid where its code is above 0.
FORMS = {
    "qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "sform_code": ("srow_x", "srow_y", "srow_z"),
}

# HeaderDataError: for example a scaling with a slope and without a finite intercept.
UNREADABLE = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    OverflowError,
    zlib.error,
)

Returned = TypeVar("Returned")


def volume_name(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Split a file name into stem and ending, ``.nii.gz`` counted as one: ``("case_1", ".nii.gz")``."""
    name = Path(path).name
    for ending in VOLUME_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], name[-len(ending) :]
    return Path(name).stem, Path(name).suffix


def _reading(path: str | os.PathLike[str], read: Callable[[Any], Returned]) -> Returned:
    """Open ``path`` with nibabel and return ``read(image)``; a failure becomes one sentence."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no image file {path}.")
    try:
        image = nibabel.load(path)
        _check_length(path, image)
        return read(image)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            reason = "its header says more voxels than the memory holds"
        raise RuntimeError(f"cannot read {path} as NIfTI: {reason[:160] or type(error).__name__}.") from error


def _check_length(path: str | os.PathLike[str], image: Any) -> None:
    """A header that says more than the file holds is found before memory is taken for it."""
    if Path(path).suffix.lower() != ".nii":
        return
    size = math.prod(int(length) for length in image.shape) * image.get_data_dtype().itemsize
    present = os.stat(path).st_size - int(getattr(image.dataobj, "offset", 0))
    if size > present:
        raise ValueError(f"its header says {size} bytes of voxels, but it holds {max(present, 0)}")


def read_reference(path: str | os.PathLike[str]) -> Any:
    """Header of a NIfTI file as a nibabel image (the voxels stay on disk).

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that is not NIfTI.
    """
    return _reading(path, lambda image: image)


def read_back(path: str | os.PathLike[str]) -> MetaTensor:
    """Read a saved volume as a MetaTensor (channel, spatial...), float32, scaling applied, with its affine.

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that cannot be read whole.
    """

    def read(image: Any) -> MetaTensor:
        voxels = np.squeeze(_as_read(image))
        return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.as_tensor(image.affine, dtype=torch.float64))

    return _reading(path, read)


def _as_read(image: Any) -> np.ndarray:
    """Voxels in float32, by the same steps as MONAI's reader: equal to the bit."""
    return np.asarray(image.dataobj).astype(np.float32)


def _stored_numbers(image: Any) -> np.ndarray:
    """The numbers that lie in a file, without its scaling."""
    unscaled = getattr(image.dataobj, "get_unscaled", None)
    return np.asarray(image.dataobj if unscaled is None else unscaled())


def _scaling(reference: Any) -> tuple[float, float]:
    """Slope and intercept of a file: value = stored * slope + intercept."""
    slope, intercept = getattr(reference.dataobj, "slope", None), getattr(reference.dataobj, "inter", None)
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def stored_grid(reference: str | os.PathLike[str] | Any) -> StoredGrid | None:
    """The values that an integer file can hold, scaling and range of its type included, for
    ``AttackedModel(stored_grid=...)``; None for floating point files.

    Args:
        reference: a file or a nibabel image.
    """
    if isinstance(reference, (str, os.PathLike)):
        reference = read_reference(reference)
    dtype = reference.get_data_dtype()
    if dtype.kind not in "iu":
        return None
    slope, intercept = _scaling(reference)
    edges = sorted(limit * slope + intercept for limit in _type_range(dtype))
    return StoredGrid(abs(slope), intercept, *edges)


def _type_range(dtype: np.dtype) -> tuple[float, float]:
    """Lowest and highest number that an integer type holds and float64 can name."""
    limits = np.iinfo(dtype)
    high = float(limits.max)
    return float(limits.min), high if int(high) <= limits.max else float(np.nextafter(high, 0.0))


def round_to_stored(
    adversarial: torch.Tensor,
    clean: torch.Tensor,
    epsilon: float | None = None,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> torch.Tensor:
    """Round voxels to the values that an integer file can hold, without leaving an L-infinity budget.

    A voxel goes to the nearest stored value; where that is further than ``epsilon`` from the clean voxel it goes to
    the next one on the
    clean voxel's side, which is inside the budget because the clean voxel is itself a stored value.

    Args:
        adversarial: voxels in HU.
        clean: the original voxels, same shape, as read from the file.
        epsilon: budget per voxel in HU; None rounds to the nearest value.
        slope: of the file's scaling, the distance of two stored values in HU.
        intercept: of the file's scaling, in HU.

    Raises:
        ValueError: for different shapes or a slope of 0.
    """
    if adversarial.shape != clean.shape:
        raise ValueError(
            f"adversarial and clean must have the same shape, got {tuple(adversarial.shape)} and {tuple(clean.shape)}."
        )
    if slope == 0:
        raise ValueError("slope must not be 0.")
    # float64: a file's slope can be finer than float32 resolves at 3000 HU
    values, original = adversarial.double(), clean.double()
    rounded = ((values - intercept) / slope).round() * slope + intercept
    if epsilon is not None:
        outside = (rounded - original).abs() > epsilon + 1e-6 * abs(slope)
        toward_clean = rounded - (rounded - original).sign() * abs(slope)
        rounded = torch.where(outside, toward_clean, rounded)
    return rounded.to(adversarial.dtype)


def _spatial(image: Any, reference: Any, what: str) -> np.ndarray:
    """Voxels as an array of the reference's shape."""
    voxels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    shape = tuple(int(size) for size in reference.shape)
    if np.squeeze(voxels).shape != tuple(size for size in shape if size != 1):
        raise ValueError(
            f"{what} has shape {tuple(voxels.shape)} but its file holds {shape}: "
            "save the image in scanner space, on the grid of the file."
        )
    voxels = voxels.reshape(shape)
    if not np.isfinite(voxels).all():
        raise ValueError(f"{what} must be finite, got {int((~np.isfinite(voxels)).sum())} NaN or infinite voxels.")
    return voxels


def _check_range(values: np.ndarray, dtype: np.dtype, scaling: tuple[float, float], what: str) -> None:
    """Raise for values that an integer file cannot hold."""
    slope, intercept = scaling
    edges = sorted(limit * slope + intercept for limit in _type_range(dtype))
    room = 0.5 * abs(slope) + 1e-6 * max(map(abs, edges))  # read as float32
    if values.min() < edges[0] - room or values.max() > edges[1] + room:
        raise ValueError(
            f"{what} reaches from {values.min():g} to {values.max():g}, "
            f"but the {dtype} voxels of the input's file hold {edges[0]:g} to {edges[1]:g}."
        )


def _blank_header(reference: Any) -> Any:
    """A new header with what says where the voxels lie: zooms, units, both forms and their codes. Nothing else is
    copied, because any other field, text or number, can name a patient."""
    source = reference.header if isinstance(reference.header, nibabel.Nifti1Header) else None
    kind = nibabel.Nifti2Header if isinstance(source, nibabel.Nifti2Header) else nibabel.Nifti1Header
    if source is None:
        return kind()
    header = kind(endianness=source.endianness)
    header.set_data_shape(reference.shape)
    header.set_zooms(source.get_zooms()[: len(reference.shape)])
    try:
        header.set_xyzt_units(*source.get_xyzt_units())
    except (KeyError, nibabel.spatialimages.HeaderDataError):  # a code that the standard does not know
        header.set_xyzt_units("mm")
    for code, fields in FORMS.items():
        if int(source[code]) > 0:
            for name in (code, *fields):
                header[name] = source[name]
    if int(source["qform_code"]) > 0:
        header["pixdim"][0] = source["pixdim"][0]  # the handedness that the quaternion needs
    return header


def _write(
    stored: np.ndarray, reference: Any, path: Path, description: str, scaling: tuple[float, float], intent: str
) -> Path:
    """Write stored values in the reference's space."""
    if "adversarial" not in path.name.lower():
        raise ValueError(
            f"path must name the file as adversarial (for example case_adversarial.nii.gz), got {path.name!r}."
        )
    if volume_name(path)[1].lower() not in VOLUME_ENDINGS:
        raise ValueError(f"path must end in .nii or .nii.gz, got {path.name!r}.")
    header = _blank_header(reference)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    header["descrip"] = " ".join(f"{MARK} {description}".split()).encode("ascii", "replace")[:79]
    header["intent_name"] = intent.encode("ascii")[:15]
    try:
        if (
            max(map(abs, scaling)) > np.finfo(np.float32).max
            or abs(scaling[0]) < np.finfo(np.float32).smallest_subnormal
        ):
            raise nibabel.spatialimages.HeaderDataError("the header holds a scaling in float32")
        header.set_data_dtype(stored.dtype)
        image = kind(stored, reference.affine, header)
        image.header.set_slope_inter(*scaling)
    except nibabel.spatialimages.HeaderDataError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"NIfTI cannot hold {stored.dtype} voxels with the scaling {scaling[0]:g} * stored + {scaling[1]:g} of the "
            f"input's file: {reason[:160]}."
        ) from error
    with replace_when_complete(path) as temporary:
        nibabel.save(image, temporary)
    return path


def save_adversarial_nifti(
    image: Any,
    reference: str | os.PathLike[str] | Any,
    path: str | os.PathLike[str],
    description: str = "",
    clean: torch.Tensor | None = None,
    epsilon: float | None = None,
) -> Path:
    """Save an adversarial volume in the space of the file that it was made from.

    Shape, dtype, scaling (of integers), affine, sform and qform codes, zooms and units are those of ``reference``, and
    so are the stored numbers of voxels that did not change. The header is marked: ``descrip`` starts with
    :data:`MARK`, ``intent_name`` is ADVERSARIAL, and the file's name must say so too. All other fields are blank,
    because texts, extensions and numbers of the input can name a patient. The file appears whole or not at all.

    Args:
        image: voxels in HU on the grid of ``reference``, leading dimensions of size 1 are ignored.
        reference: the input's file or nibabel image.
        path: where to write; its name contains "adversarial" and ends in .nii or .nii.gz.
        description: short text for the header, cut so that 79 ASCII characters remain with the mark.
        clean: the original voxels, needed to round inside ``epsilon`` and the range of the file's type.
        epsilon: L-infinity budget in HU that rounding must not leave (see :func:`round_to_stored`).

    What an attack adds beyond the range of an integer file's type is cut off there where ``clean`` shows that the
    image began inside. A cut only brings a voxel nearer to its clean value, so that every budget still holds.
    A warning says how many are cut: scores of the image before are not those of the file. Everything else outside, for
    example an image in other units, is refused.

    Returns:
        The path.

    Raises:
        ValueError: for a shape that is not the file's, NaN, values that the file's dtype cannot hold, a scaling that
            NIfTI cannot, or a path without the mark.
        RuntimeError: for an unreadable reference.
        OSError: where the file cannot be written.
    """
    if isinstance(reference, (str, os.PathLike)):
        reference = read_reference(reference)
    voxels = _spatial(image, reference, "the adversarial image")
    dtype, scaling = reference.get_data_dtype(), _scaling(reference)
    if dtype.kind not in "iuf":
        raise ValueError(
            f"the input's file holds {dtype} voxels: only integer and floating point volumes can be saved."
        )
    same = voxels.astype(np.float32) == _as_read(reference).reshape(voxels.shape)
    if dtype.kind in "iu":
        values = torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float64))
        original = (
            values
            if clean is None
            else torch.from_numpy(_spatial(clean, reference, "the clean image").astype(np.float64))
        )
        values = round_to_stored(values, original, None if clean is None else epsilon, *scaling)
        _check_range(original.numpy(), dtype, scaling, "the adversarial image" if clean is None else "the clean image")
        wanted = np.rint((values.numpy() - scaling[1]) / scaling[0])
        stored = wanted.clip(*_type_range(dtype)).astype(dtype)
        cut = int((stored != wanted).sum())
        if cut:
            warnings.warn(
                f"{cut} of {stored.size} voxels lie beyond what the file's {dtype} holds and are cut there: what "
                "was scored before is another image; give the AttackedModel stored_grid=stored_grid(file).",
                stacklevel=2,
            )
    else:
        # A scaling would move what float32 holds; floating point needs none.
        stored, scaling = voxels.astype(dtype), (1.0, 0.0)
    # What did not change keeps its bits, also where an image in float32 cannot name them.
    before = _stored_numbers(reference) if dtype.kind in "iu" else np.asarray(reference.dataobj)
    stored = np.where(same, before.reshape(stored.shape).astype(dtype), stored)
    return _write(stored, reference, Path(path), description, scaling, "ADVERSARIAL")


def save_label_nifti(
    label: Any, reference: str | os.PathLike[str] | Any, path: str | os.PathLike[str], description: str = ""
) -> Path:
    """Save a class map that belongs to an adversarial image (its moved label, or its prediction) as unsigned integers.

    Args:
        label: class indices on the grid of ``reference``, leading dimensions of size 1 are ignored.
        reference: the input's file or nibabel image.
        path: where to write; its name contains "adversarial" and ends in .nii or .nii.gz.
        description: short text for the header.

    Raises:
        ValueError: for a shape that is not the file's, or values that are not class indices.
        OSError: where the file cannot be written.
    """
    if isinstance(reference, (str, os.PathLike)):
        reference = read_reference(reference)
    classes = _spatial(label, reference, "the label")
    highest = int(classes.max())
    if int(classes.min()) < 0 or highest > 65535 or not np.array_equal(np.rint(classes), classes):
        raise ValueError("label must hold class indices from 0 to 65535.")
    stored = classes.astype(np.uint8 if highest < 256 else np.uint16)
    return _write(stored, reference, Path(path), description, (1.0, 0.0), "ADVERSARIAL")
