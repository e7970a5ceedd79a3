# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage volumes as cases of an audit: their voxels as NIfTI, which every pipeline reads alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from monai_adversarial.data import find_cases
from monai_adversarial.data.itk_volumes import read_volume
from monai_adversarial.utils.plain import as_plain

__all__ = ["holds_itk_volumes", "itk_cases"]

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


def holds_itk_volumes(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds NRRD or MetaImage files, or is one."""
    root = Path(path)
    if root.is_file():
        return root.suffix.lower() in ENDINGS
    return root.is_dir() and any(file.suffix.lower() in ENDINGS for file in root.rglob("*"))


def itk_cases(path: str | os.PathLike[str], work_dir: str | os.PathLike[str], **options: Any) -> list[dict[str, Any]]:
    """The cases of a folder of NRRD or MetaImage files, laid out as ``find_cases`` knows it.

    Args:
        path: folder, or one file.
        work_dir: where the voxels are written as NIfTI, under the names of the files; a folder that is removed
            afterwards, as names of files may name patients.
        options: of ``find_cases``.

    Returns:
        Cases of ``find_cases``; one whose file cannot be read has its reason as ``problem``.
    """
    root, mirror = Path(path), Path(work_dir)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    base = root.parent if root.is_file() else root
    problems: dict[str, str] = {}
    hidden: dict[str, list[str]] = {}
    last = mirror
    for file in files:
        place = mirror / file.relative_to(base)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() not in ENDINGS:
            if file.name.lower().endswith((".nii", ".nii.gz", ".json")):
                place.symlink_to(file.resolve())
            continue
        last = place.with_suffix(".nii")
        try:
            volume = read_volume(file)
            voxels = as_plain(volume.image)[0].numpy()
            whole = volume.dtype.kind in "iu"
            image = nibabel.Nifti1Image(voxels.astype(np.int32 if whole else np.float32), volume.affine.numpy())
            nibabel.save(image, last)
        except (ValueError, RuntimeError, OSError) as error:
            problems[str(last)] = " ".join(str(error).split())
            hidden[str(last)] = [str(file), file.name]
            last.touch()
    cases = find_cases(last if root.is_file() else mirror, **options)
    for case in cases:
        bad = [str(case[key]) for key in ("image", "label") if str(case.get(key)) in problems]
        if bad:
            case["problem"], case["hidden"] = problems[bad[0]], hidden[bad[0]]
    return cases
