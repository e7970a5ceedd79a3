# SPDX-License-Identifier: Apache-2.0
"""CT series as cases of an audit: the voxels of DICOM files as NIfTI, to the bit, which every pipeline reads alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from monai_adversarial.data.dicom import CTSeries, find_series, holds_dicom, read_label, read_series
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.plain import as_plain

__all__ = ["dicom_cases", "is_dicom"]


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds DICOM files and no NIfTI."""
    folder = Path(path)
    return folder.is_dir() and not any(folder.rglob("*.nii*")) and holds_dicom(folder)


def dicom_cases(
    path: str | os.PathLike[str],
    work_dir: str | os.PathLike[str],
    class_names: Sequence[str] | Mapping[Any, str] | None,
    limit: int = 0,
    labels: bool = True,
) -> list[dict[str, Any]]:
    """The CT series below a folder as cases, named case_000, ... in the order of their folders.

    MONAI's two DICOM readers disagree on tilted, incomplete and renumbered series, and neither says so. Here a series
    that is not a plain stack of slices is a case that fails with its reason.

    Args:
        path: folder of a series, of a patient or of patients.
        work_dir: where the voxels are written as NIfTI, without anything else of the header.
        class_names: of the network, background first, for structure sets and segmentations.
        limit: the first so many series; 0 for all.
        labels: read structure sets and segmentations.

    Returns:
        Cases with ``image``, ``case_id``, ``dicom`` (the series' files), ``notes``, ``label`` where there is one, and
        ``problem`` where the series cannot be used.

    Raises:
        FileNotFoundError: for a folder without a CT series.
    """
    found = find_series(path)
    cases = []
    for number, one in enumerate(found[:limit] if limit else found):
        name = f"case_{number:03d}"
        files = [str(file) for file in one.files]
        case: dict[str, Any] = {"case_id": name, "image": str(Path(work_dir) / f"{name}.nii"), "dicom": files}
        # Names of files and folders may name patients: a report says them of no case.
        paths = [*one.files, *one.labels]
        case["hidden"] = [text for path in paths for text in (str(path), f"{path.parent.name}/{path.name}", path.name)]
        try:
            series = read_series(one.files)
            case["notes"] = list(series.notes)
            _write(series, Path(case["image"]))
            if labels and one.labels:
                case["label"] = _label(series, one.labels, class_names, Path(work_dir) / f"{name}_label.nii")
        except (ValueError, RuntimeError, OSError) as error:
            case["problem"] = " ".join(str(error).split())
        cases.append(case)
    return cases


def _write(series: CTSeries, path: Path) -> None:
    """Whole HU in whole numbers, so that adversarial images are rounded as the series will be."""
    voxels = as_plain(series.image)[0].numpy()
    grid = series.stored_grid
    whole = grid is not None and grid.step == 1 and float(grid.intercept).is_integer()
    _save(voxels.astype(np.int32 if whole else np.float32), series, path)


def _label(series: CTSeries, files: Sequence[Any], class_names: Any, path: Path) -> str:
    if len(files) > 1:
        names = ", ".join(Path(file).name for file in files[:5])
        raise ValueError(f"the series has {len(files)} structure sets or segmentations ({names}): keep one.")
    if class_names is None:
        raise ValueError(
            "class_names must name the network's classes, to tell which structure of a label file is which."
        )
    named = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    classes = {str(name): int(index) for index, name in named.items() if int(index)}
    _save(as_plain(read_label(files[0], series, classes))[0].numpy().astype(np.int16), series, path)
    return str(path)


def _save(voxels: np.ndarray, series: CTSeries, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_complete(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, series.affine.numpy()), temporary)
