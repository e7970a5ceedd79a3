# SPDX-License-Identifier: Apache-2.0
"""One class map from one mask per organ, as TotalSegmentator writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

from monai_adversarial.data.saving import read_reference
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import file_hash, fingerprint

__all__ = ["merged_label"]


def merged_label(
    case: str,
    masks: Mapping[str, Path],
    class_names: Sequence[str] | None,
    merge_dir: str | os.PathLike[str] | None,
) -> Path:
    """Write the class map of a case and return its path, whose name says what it was made from; one that is there
    already is kept.

    Args:
        case: name of the case, for errors.
        masks: organ -> file of 0 and 1.
        class_names: names of the classes, background first; organs of other names are background.
        merge_dir: folder to write to.

    Raises:
        ValueError: without ``class_names`` or ``merge_dir``, where no mask has the name of a class, and for masks of
            different shape or space, or that overlap.
    """
    organs = ", ".join(list(masks)[:6])
    if class_names is None or merge_dir is None:
        raise ValueError(
            f"{case} has one mask per organ ({organs}, ...): pass class_names (background first) and merge_dir, where "
            "the class map is written."
        )
    chosen = {index: masks[name] for index, name in enumerate(class_names) if index > 0 and name in masks}
    if not chosen:
        raise ValueError(
            f"class_names {list(class_names)} name none of the masks of {case} ({organs}, ...): use their file names."
        )
    # The content is the name: no other case, class list or older mask is ever taken for this one, and a folder that
    # names a patient is not repeated.
    parts = {"classes": list(class_names), "masks": {str(i): file_hash(file) for i, file in chosen.items()}}
    path = Path(merge_dir) / f"{fingerprint(parts)[:24]}_label.nii.gz"
    if path.is_file():
        return path
    first = read_reference(next(iter(chosen.values())))
    merged = np.zeros(first.shape, dtype=np.uint8 if len(class_names) <= 256 else np.uint16)
    for index, file in chosen.items():
        mask = np.asarray(read_reference(file).dataobj) > 0
        if mask.shape != merged.shape:
            raise ValueError(f"the masks of {case} must have one shape, got {merged.shape} and {mask.shape} ({file}).")
        if not np.allclose(read_reference(file).affine, first.affine, atol=1e-2):
            raise ValueError(f"the masks of {case} must lie in one space, but {file} has another affine.")
        if bool((merged[mask] > 0).any()):
            raise ValueError(f"the masks of {case} overlap at {file.name}: a class map holds one organ per voxel.")
        merged[mask] = index
    with replace_when_complete(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(merged, first.affine), temporary)
    return path
