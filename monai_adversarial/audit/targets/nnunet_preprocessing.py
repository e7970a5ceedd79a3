# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's own preprocessing as dictionary transforms whose images know where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.nnunet_folder import NNUNetPlans
from monai_adversarial.audit.targets.nnunet_geometry import affine_as_read, cropped, resampled, transposed
from monai_adversarial.utils.intensity import IntensityMap

__all__ = [
    "LabelNNUNetd",
    "LoadNNUNetd",
    "NormalizeNNUNetd",
    "ResampleNNUNetd",
    "as_classes",
    "case_properties",
    "image_files",
    "read_images",
    "region_masks",
]

#: key of the image's meta that holds what nnU-Net needs to know of a case, as JSON: it comes through collation whole
PROPERTIES = "nnunet_properties"
_AS_THEY_ARE = IntensityMap(1.0, 0.0)


def image_files(given: Any, channels: int) -> list[str]:
    """The files of an image: one for each of the network's input channels.

    Raises:
        TypeError: for what is no path.
        ValueError: for another number of files than channels.
        FileNotFoundError: for a file that is not there.
    """
    one = isinstance(given, (str, os.PathLike))
    if not one and not (isinstance(given, Sequence) and all(isinstance(part, (str, os.PathLike)) for part in given)):
        raise TypeError(f"the image must be the path of a file or a list of them, got {type(given).__name__}.")
    files = [os.fspath(given)] if one else [os.fspath(part) for part in given]
    if len(files) != channels:
        raise ValueError(
            f"the image must be {channels} file{'s' if channels != 1 else ''}, one for each input channel of the "
            f"nnU-Net, got {len(files)}."
        )
    for file in files:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"there is no image at {file}.")
    return files


def read_images(plans: NNUNetPlans, given: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Array (channel, z, y, x), float32, and properties, of the reader that the plans name.

    Args:
        plans: of the trained nnU-Net.
        given: path of the image, or a list with one for each channel.

    Raises:
        TypeError, ValueError, FileNotFoundError: for files that do not fit the channels, or that the reader refuses.
    """
    array, properties = read_files(plans, image_files(given, plans.channels))
    if array.shape[0] != plans.channels:
        raise ValueError(
            f"the image has {array.shape[0]} channels, but the nnU-Net takes {plans.channels}: give one 3D file for "
            "each."
        )
    return array, properties


def read_files(plans: NNUNetPlans, files: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """As :func:`read_images`, for any number of files.

    Raises:
        ValueError: for files that the reader refuses, with what it printed.
    """
    said = StringIO()
    with redirect_stdout(said):
        try:
            array, properties = plans.reader().read_images(list(files))
        except (RuntimeError, AssertionError, ValueError, OSError) as error:
            why = " ".join(f"{error} {said.getvalue()}".split())
            raise ValueError(f"nnU-Net cannot read {', '.join(map(os.path.basename, files))}: {why[:300]}") from error
    return array, properties


class LoadNNUNetd(MapTransform):
    """Reads an image as nnU-Net does, in its axis order, and crops it to what is not zero.

    Args:
        keys: key of the path, or of a list with one path for each channel.
        plans: of the trained nnU-Net.

    Returns:
        The item with a ``MetaTensor`` (channel, spatial...), float32, in raw values; the spatial axes are z, y, x in
        the order of the plans' ``transpose_forward``; its affine is that of the cropped grid.
    """

    #: reading and cropping leave values as they are
    intensity_map = _AS_THEY_ARE

    def __init__(self, keys: Any, plans: NNUNetPlans) -> None:
        super().__init__(keys)
        self.plans = plans

    def __call__(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """See the class."""
        item: dict[Any, Any] = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._load(item[key])
        return item

    def _load(self, given: Any) -> MetaTensor:
        from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

        array, properties = read_images(self.plans, given)
        file = image_files(given, self.plans.channels)[0]
        if not np.isfinite(array).all():
            raise ValueError(f"{os.path.basename(file)} holds NaN or infinite values.")
        if not array.any():
            raise ValueError(f"{os.path.basename(file)} is zero everywhere: nnU-Net crops to what is not zero.")
        order = self.plans.manager.transpose_forward
        affine = transposed(affine_as_read(properties), order)
        array = array.transpose([0, *(axis + 1 for axis in order)])
        properties["shape_before_cropping"] = array.shape[1:]
        array, _, box = crop_to_nonzero(array)
        properties["bbox_used_for_cropping"] = box
        properties["shape_after_cropping_and_before_resampling"] = array.shape[1:]
        meta = {"filename_or_obj": file, PROPERTIES: json.dumps(properties, default=_plain)}
        image = torch.from_numpy(np.ascontiguousarray(array))
        return MetaTensor(image, affine=torch.from_numpy(cropped(affine, box)), meta=meta)


class NormalizeNNUNetd(MapTransform):
    """nnU-Net's normalization of each channel.

    Args:
        keys: key of what ``LoadNNUNetd`` has made.
        plans: of the trained nnU-Net.

    Attributes:
        intensity_map: map from raw values to the network's, where it is the same for all images; None where it depends
            on the image.
    """

    def __init__(self, keys: Any, plans: NNUNetPlans) -> None:
        super().__init__(keys)
        self.plans = plans
        self.intensity_map = plans.intensity
        # Voxels outside the mask stay 0: known to what fits the map of each image.
        self.nonzero = self.intensity_map is None and any(plans.configuration.use_mask_for_norm)

    def __call__(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """See the class."""
        from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

        item: dict[Any, Any] = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            array = image.as_tensor().numpy().copy()
            outside = np.where(create_nonzero_mask(array), np.int8(0), np.int8(-1))[None]
            statistics = self.plans.manager.foreground_intensity_properties_per_channel
            array = self.plans.preprocessor()._normalize(array, outside, self.plans.configuration, statistics)
            item[key] = MetaTensor(torch.from_numpy(array), meta=dict(image.meta))
        return item


class ResampleNNUNetd(MapTransform):
    """nnU-Net's resampling to the spacing of its plans.

    Args:
        keys: key of what ``NormalizeNNUNetd`` has made.
        plans: of the trained nnU-Net.
    """

    #: voxels are mixed with their neighbors; values stay in their units
    intensity_map = _AS_THEY_ARE

    def __init__(self, keys: Any, plans: NNUNetPlans) -> None:
        super().__init__(keys)
        self.plans = plans

    def __call__(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """See the class."""
        from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

        item: dict[Any, Any] = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            spacing, target = self.plans.spacings(case_properties(image))
            old = tuple(image.shape[1:])
            new = compute_new_shape(old, spacing, target)
            if min(new) < 1:
                raise ValueError(
                    f"the image has {old} voxels of {spacing} mm, of which nnU-Net makes {tuple(map(int, new))} voxels "
                    f"of {target} mm: it is too small."
                )
            array = self.plans.configuration.resampling_fn_data(image.as_tensor().numpy(), new, spacing, target)
            affine = resampled(image.affine.numpy(), old, new)
            made = MetaTensor(torch.as_tensor(np.asarray(array, dtype=np.float32)), meta=dict(image.meta))
            made.affine = torch.from_numpy(affine)
            item[key] = made
        return item


class LabelNNUNetd(MapTransform):
    """A label file on the network's grid, by nnU-Net's own cropping and resampling; where there is one.

    Args:
        keys: key of the path; what is no path stays as it is.
        image_key: key of what ``ResampleNNUNetd`` has made.
        plans: of the trained nnU-Net.

    Returns:
        The item with a ``MetaTensor``: class map (1, spatial...), or for region-based training one mask for each region
        (region, spatial...); uint8, or int32 for labels from 256.
    """

    intensity_map = _AS_THEY_ARE

    def __init__(self, keys: Any, image_key: str, plans: NNUNetPlans) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key, self.plans = image_key, plans

    def __call__(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """See the class."""
        item: dict[Any, Any] = dict(data)
        for key in self.key_iterator(item):
            if isinstance(item[key], (str, os.PathLike)):
                item[key] = self._load(os.fspath(item[key]), item[self.image_key])
        return item

    def _load(self, file: str, image: MetaTensor) -> MetaTensor:
        properties = case_properties(image)
        array, own = read_files(self.plans, [file])
        array = array.transpose([0, *(axis + 1 for axis in self.plans.manager.transpose_forward)])
        shape, spacing = properties["shape_before_cropping"], properties["spacing"]
        if len(array) != 1 or list(array.shape[1:]) != shape or not np.allclose(own["spacing"], spacing, rtol=1e-3):
            raise ValueError(
                f"the label {os.path.basename(file)} must be on the image's grid, {shape} voxels of {spacing} mm, got "
                f"{list(array.shape[1:])} of {own['spacing']}."
            )
        box = tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])
        before, after = self.plans.spacings(properties)
        resample = self.plans.configuration.resampling_fn_seg
        made = np.asarray(resample(np.ascontiguousarray(array[(slice(None), *box)]), image.shape[1:], before, after))
        classes = as_classes(made)
        regions = self.plans.regions
        found = MetaTensor(classes if regions is None else region_masks(classes, regions))
        found.affine = image.affine
        found.meta["filename_or_obj"] = file
        return found


def as_classes(array: np.ndarray) -> torch.Tensor:
    """Whole numbers of an array as uint8, or int32 from 256."""
    kind = torch.uint8 if array.max(initial=0) < 256 else torch.int32
    return torch.as_tensor(np.ascontiguousarray(array).astype(np.int32), dtype=kind)


def region_masks(classes: torch.Tensor, regions: Sequence[Sequence[int]]) -> torch.Tensor:
    """One mask for each region.

    Args:
        classes: class map (1, spatial...).
        regions: label values of each.

    Returns:
        (region, spatial...), uint8.
    """
    return torch.cat([torch.isin(classes, torch.tensor(region)) for region in regions]).to(torch.uint8)


def case_properties(*images: Any) -> dict[str, Any]:
    """What nnU-Net knows of a case, from the first of some images whose meta holds it.

    Raises:
        ValueError: where none does.
    """
    for image in images:
        meta = getattr(image, "meta", None)
        held = meta.get(PROPERTIES) if isinstance(meta, Mapping) else None
        if isinstance(held, (list, tuple)) and len(held) == 1:
            held = held[0]
        if isinstance(held, str):
            return json.loads(held)
    raise ValueError(
        f"the item carries no {PROPERTIES!r} in its image's meta: it must have gone through the nnU-Net's "
        "preprocessing and stay a MetaTensor."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TargetError(f"nnU-Net's reader says something that is not understood, a {type(value).__name__}.")
