# SPDX-License-Identifier: Apache-2.0
"""Segmentations as target makers work on them: one organ of one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_adversarial.utils.arrays import as_given, as_tensor, computable
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import spacing_of
from monai_adversarial.utils.validation import check_count

__all__ = ["Segmentations", "changed_organ", "spacing_in_mm"]


class Segmentations:
    """A batch of segmentations in any form, with its organs as masks.

    Args:
        given: class map (batch, 1, spatial...), one-hot (batch, class, spatial...), or masks that may overlap.

    Raises:
        TypeError: for something that is no array of numbers.
        ValueError: for another shape, fractions, and values that are no classes.
    """

    def __init__(self, given: Any) -> None:
        self.given = given
        found = computable(as_plain(as_tensor("segmentation", given)))
        if not 3 <= found.ndim <= 5:
            raise ValueError(
                "segmentation must have shape (batch, 1 or class, spatial...) with 1 to 3 spatial dimensions, got "
                f"{tuple(found.shape)}."
            )
        if found.is_floating_point() and not bool((found == found.round()).all()):
            raise ValueError("segmentation must hold whole numbers (class indices or masks), got fractions.")
        if bool((found < 0).any()):
            raise ValueError(f"segmentation must hold classes >= 0, got {int(found.min())}.")
        channels = found.shape[1]
        if channels > 1 and bool((found > 1).any()):
            raise ValueError(
                f"segmentation with {channels} channels must hold masks of 0 and 1, got {int(found.max())}."
            )
        #: exclusive classes, one per voxel; otherwise masks that may overlap
        self.exclusive = channels == 1 or bool((found.sum(dim=1) == 1).all())
        self.classes = channels if channels > 1 else None
        self.values = (found.argmax(dim=1, keepdim=True) if channels > 1 else found) if self.exclusive else found
        self.values = self.values.clone()

    def check_organ(self, organ: int, name: str = "organ", needed: bool = True) -> int:
        """A class above the background (with overlapping masks: any channel), which every sample contains.

        Raises:
            ValueError: for another number, and where a sample does not contain it.
        """
        lowest = 1 if self.exclusive else 0
        check_count(name, organ, minimum=lowest)
        if self.classes is not None and organ >= self.classes:
            raise ValueError(f"{name} must be a class from {lowest} to {self.classes - 1}, got {organ}.")
        if needed:
            for sample in range(len(self)):
                if not bool(self.mask(sample, organ).any()):
                    raise ValueError(f"{name} {organ} is not in the segmentation of sample {sample}.")
        return organ

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def mask(self, sample: int, organ: int) -> torch.Tensor:
        """Boolean (spatial...)."""
        return self.values[sample, 0] == organ if self.exclusive else self.values[sample, organ] > 0

    def free(self, sample: int, organ: int, over_organs: bool) -> torch.Tensor:
        """Boolean (spatial...): voxels that the organ may take; the background, or all where organs may be covered or
        overlap anyway."""
        if over_organs or not self.exclusive:
            return torch.ones_like(self.mask(sample, organ))
        return (self.values[sample, 0] == 0) | self.mask(sample, organ)

    def put(self, sample: int, organ: int, mask: torch.Tensor) -> None:
        """Make ``mask`` (spatial...) the organ of a sample; what it leaves becomes background.

        Raises:
            ValueError: where nothing changes.
        """
        before = self.mask(sample, organ)
        mask = mask.to(before.device)
        if torch.equal(before, mask):
            raise ValueError(
                f"the wanted segmentation of organ {organ} equals the given one in sample {sample}: nothing is left to "
                "attack."
            )
        if self.exclusive:
            values = self.values[sample, 0]
            values[before] = 0
            values[mask] = organ
        else:
            self.values[sample, organ] = mask.to(self.values.dtype)

    def finish(self) -> Any:
        """The batch in the form and type in which it was given."""
        made = self.values
        if self.exclusive and self.classes is not None:
            numbers = torch.arange(self.classes, device=made.device).view(1, -1, *[1] * (made.ndim - 2))
            made = (made == numbers).to(torch.uint8)
        return as_given(made, self.given)


def spacing_in_mm(segmentation: Any, spacing: Any) -> torch.Tensor:
    """Voxel size of each sample, (batch, spatial dimensions) in mm.

    Raises:
        ValueError: where neither ``spacing`` nor an affine says it.
    """
    table = spacing_of(as_tensor("segmentation", segmentation), spacing)
    if table is None:
        raise ValueError(
            "spacing is missing: the wanted segmentation is made in mm, so pass a MetaTensor with an affine or "
            "spacing=(mm along each axis)."
        )
    return table


def changed_organ(
    segmentation: Any,
    organ: int,
    spacing: Any,
    change: Callable[[torch.Tensor, torch.Tensor, list[float]], torch.Tensor],
    over_organs: bool = False,
) -> Any:
    """Replace the mask of an organ in every sample.

    Args:
        segmentation: the batch.
        organ: class, or channel of masks that overlap.
        spacing: see ``spacing_in_mm``.
        change: the organ's mask, the voxels that it may take (both (spatial...), boolean) and the spacing in mm -> its
            new mask.
        over_organs: the new mask may cover other organs.
    """
    batch = Segmentations(segmentation)
    batch.check_organ(organ)
    table = spacing_in_mm(segmentation, spacing).tolist()
    for sample in range(len(batch)):
        mask, free = batch.mask(sample, organ), batch.free(sample, organ, over_organs)
        batch.put(sample, organ, change(mask, free, table[sample]))
    return batch.finish()
