# SPDX-License-Identifier: Apache-2.0
"""One class map on a series' grid out of named organs, which neither overlap nor go missing unnoticed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor

from monai_adversarial.data.dicom.geometry import lps_affine
from monai_adversarial.data.dicom.series import CTSeries
from monai_adversarial.data.file_names import shown

__all__ = ["ClassMap", "check_classes", "chosen_names"]


def check_classes(classes: Mapping[str, int]) -> None:
    """Raise unless ``classes`` maps names of organs to class indices from 1 to 65535."""
    if not isinstance(classes, Mapping) or not classes:
        raise TypeError(f"classes must map names to class indices, such as {{'liver': 1}}, got {classes!r}.")
    for name, index in classes.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 1 <= index <= 65535:
            raise ValueError(f"classes must map names to whole numbers from 1 to 65535, got {index!r} for {name!r}.")


def chosen_names(
    found: Sequence[str], classes: Mapping[str, int], ignored: Iterable[str], where: str
) -> dict[str, int]:
    """The names of a label object that become classes.

    A class of which the object holds nothing is warned of: its voxels count as background.

    Raises:
        ValueError: for names that are neither in ``classes`` nor ``ignored``, names that occur twice, and an object
            that holds none of the classes.
    """
    ignored = [ignored] if isinstance(ignored, str) else list(ignored)
    unknown = sorted({name for name in found if name not in classes and name not in ignored})
    if unknown:
        raise ValueError(
            f"{where} holds names that are not in classes: {', '.join(map(repr, unknown))}; map them to a class index, "
            "or pass them as ignored."
        )
    chosen = [name for name in found if name in classes and name not in ignored]
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise ValueError(f"{where} holds several objects of the name {twice[0]!r}: which one counts is not guessed.")
    if not chosen:
        raise ValueError(f"{where} holds none of the classes {shown(map(repr, classes))}.")
    missing = [name for name, index in classes.items() if index not in {classes[one] for one in chosen}]
    if missing:
        warnings.warn(
            f"{where} holds nothing of {shown(map(repr, missing))}: its voxels count as background.", stacklevel=3
        )
    return {name: classes[name] for name in chosen}


class ClassMap:
    """A class map (column, row, slice) that is filled organ by organ.

    Args:
        series: the series on whose grid it lies.
        classes: name of each organ to its class index.
        where: the label object for a sentence.
    """

    def __init__(self, series: CTSeries, classes: Mapping[str, int], where: str) -> None:
        self.affine = lps_affine(series.frames)
        self.series_affine = series.affine
        self.where = where
        self.classes = dict(classes)
        kind = np.uint8 if max(self.classes.values()) < 256 else np.int32
        self.voxels = np.zeros(series.image.shape[1:], dtype=kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Columns, rows, slices."""
        return self.voxels.shape

    def mark(self, name: str, places: tuple[np.ndarray | slice | int, ...], mask: np.ndarray) -> None:
        """Give an organ's class to the voxels of ``self.voxels[places]`` where ``mask``.

        Raises:
            ValueError: where another class is there already.
        """
        index = self.classes[name]
        part = self.voxels[places]
        taken = (part > 0) & (part != index) & mask
        if bool(taken.any()):
            other = next(known for known, number in self.classes.items() if number == int(part[taken][0]))
            raise ValueError(
                f"{name!r} and {other!r} of {self.where} overlap in {int(taken.sum())} voxels of a slice: a class map "
                "holds one class per voxel."
            )
        self.voxels[places] = np.where(mask, np.array(index, dtype=self.voxels.dtype), part)

    def finished(self) -> MetaTensor:
        """The class map (1, column, row, slice) with the series' affine.

        Raises:
            ValueError: where no voxel of any organ lies on the grid.
        """
        if not bool(self.voxels.any()):
            raise ValueError(f"{self.where} marks no voxel of the series: it belongs to another series or is empty.")
        return MetaTensor(torch.from_numpy(self.voxels)[None], affine=self.series_affine.clone())
