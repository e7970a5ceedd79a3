# SPDX-License-Identifier: Apache-2.0
"""From logits on the network's grid to the segmentation that nnU-Net saves, on the grid of the image's file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.nnunet_folder import NNUNetFolder, NNUNetPlans
from monai_adversarial.audit.targets.nnunet_geometry import on_file_grid
from monai_adversarial.audit.targets.nnunet_preprocessing import as_classes, case_properties, region_masks

__all__ = ["Components", "SegmentNNUNetd", "read_components"]

_LARGEST = "remove_all_but_largest_component_from_segmentation"


@dataclass(frozen=True)
class Components:
    """What nnU-Net's ``apply_postprocessing`` does to a segmentation: keep the largest component of some labels.

    Args:
        functions, arguments: of it, in order.
        source: the file that says so, relative to the results folder; empty for nothing.
    """

    functions: tuple[Callable[..., np.ndarray], ...] = ()
    arguments: tuple[Mapping[str, Any], ...] = ()
    source: str = ""

    def __call__(self, segmentation: np.ndarray) -> np.ndarray:
        """The segmentation (z, y, x) after it."""
        for function, arguments in zip(self.functions, self.arguments, strict=True):
            segmentation = function(segmentation, **arguments)
        return segmentation


def read_components(folder: NNUNetFolder, folds: Sequence[int | str], trust: bool) -> Components:
    """The postprocessing that nnU-Net found best for exactly these folds.

    ``postprocessing.json`` beside it says in words what ``postprocessing.pkl`` holds as functions, and is read without
    running anything; only where it is absent or says something else the pickle is needed.

    Raises:
        TargetError: for a pickle without ``trust``.
    """
    names = (f"crossval_results_folds_{'_'.join(map(str, folds))}", ".")
    for file in (folder.path / name / "postprocessing.pkl" for name in names):
        text = file.with_suffix(".json")
        source = str(text.relative_to(folder.path))
        if text.is_file():
            found = _from_json(text, source)
            if found is not None:
                return found
        if file.is_file():
            if not trust:
                raise TargetError(
                    f"{file} holds pickled functions, which may run any program when they are read, and no "
                    "postprocessing.json beside it says what they are: give --trust (trust=True) if you know where it "
                    "comes from."
                )
            return _from_pickle(file, str(file.relative_to(folder.path)))
    return Components()


def _from_json(file: Path, source: str) -> Components | None:
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        functions, arguments = said["postprocessing_fns"], said["postprocessing_kwargs"]
        known = [
            {"labels_or_regions": [tuple(part) if isinstance(part, list) else part for part in _listed(given)]}
            for name, given in zip(functions, (one["labels_or_regions"] for one in arguments), strict=True)
            if name == _LARGEST
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(known) != len(functions) or any(set(one) != {"labels_or_regions"} for one in arguments):
        return None
    return Components((remove_all_but_largest_component_from_segmentation,) * len(known), tuple(known), source)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _from_pickle(file: Path, source: str) -> Components:
    try:
        with open(file, "rb") as stream:
            functions, arguments = pickle.load(stream)
    except Exception as error:
        raise TargetError(f"{file} cannot be read as nnU-Net's postprocessing ({type(error).__name__}).") from error
    if not all(map(callable, functions)) or len(functions) != len(arguments):
        raise TargetError(f"{file} must hold a list of functions and one of their arguments.")
    return Components(tuple(functions), tuple(arguments), source)


class SegmentNNUNetd(MapTransform):
    """nnU-Net's own way from logits to its segmentation: resampled to the image's spacing, classified, put back where
    it was cropped from, turned to the file's order of axes, and its components where nnU-Net found that they help.

    Args:
        keys: key of the logits (class, spatial...) on the network's grid.
        image_key: key of the preprocessed image, whose meta knows the case.
        plans: of the trained nnU-Net.
        components: postprocessing.

    Returns:
        The item with a ``MetaTensor`` on the grid of the image's file and with its affine: class map (1, x, y, z), or
        for region-based training one mask for each region (region, x, y, z); uint8, or int32 for 256 labels and more.
    """

    def __init__(self, keys: Any, image_key: str, plans: NNUNetPlans, components: Components) -> None:
        super().__init__(keys)
        self.image_key, self.plans, self.components = image_key, plans, components

    def __call__(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        """See the class."""
        item: dict[Any, Any] = dict(data)
        for key in self.key_iterator(item):
            logits = item[key]
            properties = case_properties(item.get(self.image_key), logits)
            item[key] = self._segment(torch.as_tensor(logits), properties)
        return item

    def _segment(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> MetaTensor:
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            plain.detach().float().cpu(),
            self.plans.manager,
            self.plans.configuration,
            self.plans.labels,
            dict(properties),
            num_threads_torch=torch.get_num_threads(),
        )
        return self.on_file(np.asarray(segmentation), properties)

    def on_file(self, segmentation: np.ndarray, properties: Mapping[str, Any]) -> MetaTensor:
        """What nnU-Net has made, (z, y, x), as it is deployed; see the class."""
        array, affine = on_file_grid(self.components(segmentation), properties)
        classes = as_classes(array)[None]
        regions = self.plans.regions
        found = classes if regions is None else region_masks(classes, regions)
        return MetaTensor(found, affine=torch.from_numpy(np.ascontiguousarray(affine)))
