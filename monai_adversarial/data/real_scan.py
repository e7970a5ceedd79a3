# SPDX-License-Identifier: Apache-2.0
"""A labelled abdominal CT in the field of view that the networks of :mod:`monai_adversarial.networks` expect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    Orientationd,
    SpatialCropd,
    get_largest_connected_component_mask,
)

__all__ = ["LabelledScan", "load_labelled_scan"]

RAS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class LabelledScan:
    """A CT and its organs on the scanner's voxels, canonical (RAS) orientation.

    Args:
        image: (1, 1, spatial...) in HU, float32, whole numbers, with the affine of the crop.
        label: (1, 1, spatial...) class indices, int64, on the same grid.
    """

    image: MetaTensor
    label: MetaTensor


def load_labelled_scan(
    image_path: str | os.PathLike[str],
    label_path: str | os.PathLike[str],
    first_slice: int = 0,
    body_threshold: float = -500.0,
) -> LabelledScan:
    """Load a CT with its label, turn it to RAS, drop the slices below ``first_slice`` and crop to the body.

    Nothing is resampled: voxels keep their HU and size. The body is the bounding box of the largest connected part
    above ``body_threshold``, so that the table is left out.

    Args:
        image_path: CT in HU.
        label_path: class indices on the same grid.
        first_slice: number of slices to drop at the feet's end.
        body_threshold: HU.

    Raises:
        FileNotFoundError: where a file is absent.
        ValueError: for a label on another grid or a ``first_slice`` that leaves nothing.
    """
    for name, path in (("image_path", image_path), ("label_path", label_path)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name} must be a NIfTI file, but there is no file {str(path)!r}.")
    keys = ("image", "label")
    load = Compose([LoadImaged(keys, ensure_channel_first=True), Orientationd(keys, axcodes="RAS", labels=RAS)])
    loaded = load({"image": str(image_path), "label": str(label_path)})
    size = tuple(loaded["image"].shape[1:])
    same_affine = torch.allclose(loaded["image"].affine, loaded["label"].affine, atol=1e-3)
    if tuple(loaded["label"].shape[1:]) != size or not same_affine:
        raise ValueError(
            f"label_path must be on the grid of image_path ({size} voxels), "
            f"got {tuple(loaded['label'].shape[1:])} voxels{'' if same_affine else ' and another affine'}."
        )
    if not 0 <= first_slice < size[2]:
        raise ValueError(f"first_slice must be from 0 to {size[2] - 1} for this scan, got {first_slice!r}.")
    crop = Compose(
        [
            SpatialCropd(keys, roi_start=(0, 0, first_slice), roi_end=size),
            CropForegroundd(
                keys,
                source_key="image",
                select_fn=lambda image: get_largest_connected_component_mask(image > body_threshold),
                allow_smaller=True,
            ),
            EnsureTyped(keys, dtype=(torch.float32, torch.int64)),
            Lambdad(keys, lambda volume: volume[None]),
        ]
    )
    cropped = crop(loaded)
    return LabelledScan(image=cropped["image"], label=cropped["label"])
