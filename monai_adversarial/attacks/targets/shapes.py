# SPDX-License-Identifier: Apache-2.0
"""Wanted segmentations in which an organ is elsewhere, smaller or larger: in mm and in ml."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms.utils import distance_transform_edt

from monai_adversarial.attacks.targets.segmentations import changed_organ
from monai_adversarial.utils.validation import check_positive

__all__ = ["dilated_organ", "distance_outside", "eroded_organ", "grown_by_volume", "shifted_organ", "shrunk_by_volume"]


def distance_outside(mask: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """Distance of each voxel's center to the nearest center inside a mask, (spatial...) in mm, float64; 0 inside.

    Args:
        mask: boolean (spatial...), at least one voxel.
        spacing: mm along each axis.
    """
    outside = (~mask).cpu().numpy()[None]
    return torch.as_tensor(distance_transform_edt(outside, sampling=list(spacing)))[0].double()


def shifted_organ(segmentation: Any, organ: int, shift: Sequence[float], *, spacing: Any = None) -> Any:
    """The segmentation in which an organ lies elsewhere.

    The shift is rounded to whole voxels. The organ covers what lies where it goes; where it was becomes background. A
    part that leaves the volume is lost, with a warning.

    Args:
        segmentation: class map (batch, 1, spatial...), one-hot (batch, class, spatial...) or masks that overlap.
        organ: its class; of overlapping masks, its channel.
        shift: along each axis of the array, in mm.
        spacing: mm along each axis; None for that of a ``MetaTensor``'s affine.

    Raises:
        ValueError: where a sample does not contain the organ, the spacing is not known, the shift is less than half a
            voxel, or the whole organ leaves the volume.

    Example:
        >>> from monai_adversarial.attacks.targets import shifted_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = shifted_organ(label, 1, (6, 0, 0), spacing=3.0)
        >>> bool(((wanted == 1)[:, :, 2:] == (label == 1)[:, :, :-2]).all())
        True
    """
    lengths = _lengths("shift", shift)

    def change(mask: torch.Tensor, free: torch.Tensor, steps: list[float]) -> torch.Tensor:
        if len(lengths) != mask.ndim:
            raise ValueError(f"shift must give {mask.ndim} lengths in mm, one per axis, got {list(shift)}.")
        voxels = [round(length / step) for length, step in zip(lengths, steps, strict=True)]
        if not any(voxels):
            raise ValueError(f"shift must be at least half a voxel of {steps} mm along some axis, got {list(shift)}.")
        moved = _moved(mask, voxels)
        lost = 1 - int(moved.sum()) / int(mask.sum())
        if lost == 1:
            raise ValueError(f"shift {list(shift)} mm moves all of organ {organ} out of the volume.")
        if lost > 0:
            warnings.warn(f"shift {list(shift)} mm moves {lost:.1%} of organ {organ} out of the volume.", stacklevel=4)
        return moved

    return changed_organ(segmentation, organ, spacing, change, over_organs=True)


def _lengths(name: str, values: Sequence[float]) -> list[float]:
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be lengths in mm, one per axis, got {values!r}.") from None
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be finite, got {found}.")
    return found


def _moved(mask: torch.Tensor, voxels: Sequence[int]) -> torch.Tensor:
    """A mask moved by whole voxels; what leaves the volume is lost."""
    made = torch.zeros_like(mask)
    there, here = [], []
    for size, by in zip(mask.shape, voxels, strict=True):
        here.append(slice(max(0, -by), max(0, min(size, size - by))))
        there.append(slice(max(0, by), max(0, min(size, size + by))))
    made[tuple(there)] = mask[tuple(here)]
    return made


def eroded_organ(segmentation: Any, organ: int, distance: float, *, spacing: Any = None) -> Any:
    """The segmentation in which an organ has lost a rim: voxels whose center is at most ``distance`` from one outside.

    The rim becomes background. An organ that ends at the border of the volume loses nothing there.

    Args:
        segmentation, organ, spacing: see :func:`shifted_organ`.
        distance: width of the rim in mm.

    Raises:
        ValueError: where a sample does not contain the organ, the spacing is not known, nothing changes, or nothing is
            left (``empty_organ`` says so on purpose).

    Example:
        >>> from monai_adversarial.attacks.targets import eroded_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = eroded_organ(label, 1, 1.0, spacing=1.0)
        >>> 0 < int((wanted == 1).sum()) < int((label == 1).sum())
        True
    """
    distance = check_positive("distance", distance)

    def change(mask: torch.Tensor, free: torch.Tensor, steps: list[float]) -> torch.Tensor:
        left = distance_outside(~mask, steps).to(mask.device) > distance if not bool(mask.all()) else mask
        if not bool(left.any()):
            raise ValueError(f"distance {distance:g} mm leaves nothing of organ {organ}: use empty_organ for that.")
        return left

    return changed_organ(segmentation, organ, spacing, change)


def dilated_organ(
    segmentation: Any, organ: int, distance: float, *, spacing: Any = None, over_organs: bool = False
) -> Any:
    """The segmentation in which an organ has grown a rim: voxels whose center is at most ``distance`` from one inside.

    Args:
        segmentation, organ, spacing: see :func:`shifted_organ`.
        distance: width of the rim in mm.
        over_organs: grow over other organs as well, and not into the background alone.

    Raises:
        ValueError: where a sample does not contain the organ, the spacing is not known, or nothing changes.

    Example:
        >>> from monai_adversarial.attacks.targets import dilated_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = dilated_organ(label, 1, 1.0, spacing=1.0)
        >>> bool((wanted[label == 1] == 1).all()) and int((wanted == 1).sum()) > int((label == 1).sum())
        True
    """
    distance = check_positive("distance", distance)

    def change(mask: torch.Tensor, free: torch.Tensor, steps: list[float]) -> torch.Tensor:
        return (distance_outside(mask, steps).to(mask.device) <= distance) & free

    return changed_organ(segmentation, organ, spacing, change, over_organs)


def grown_by_volume(
    segmentation: Any, organ: int, volume: float, *, spacing: Any = None, over_organs: bool = False
) -> Any:
    """The segmentation in which an organ is larger by a volume: it takes the nearest voxels around it.

    The volume is met to within half a voxel. Of voxels at the same distance those that come first in the array are
    taken.

    Args:
        segmentation, organ, spacing, over_organs: see :func:`dilated_organ`.
        volume: in ml.

    Raises:
        ValueError: where a sample does not contain the organ, the spacing is not known, the volume is less than half a
            voxel, or there is not so much room.

    Example:
        >>> from monai_adversarial.attacks.targets import grown_by_volume
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = grown_by_volume(label, 1, 0.5, spacing=3.0)
        >>> round(int((wanted == 1).sum() - (label == 1).sum()) * 0.027, 1)
        0.5
    """
    volume = check_positive("volume", volume)

    def change(mask: torch.Tensor, free: torch.Tensor, steps: list[float]) -> torch.Tensor:
        count, room = _voxels(volume, steps), free & ~mask
        if count > int(room.sum()):
            raise ValueError(
                f"volume {volume:g} ml is more than the {_ml(int(room.sum()), steps):.3g} ml around organ {organ}."
            )
        return mask | _nearest(lambda: distance_outside(mask, steps), room, count)

    return changed_organ(segmentation, organ, spacing, change, over_organs)


def shrunk_by_volume(segmentation: Any, organ: int, volume: float, *, spacing: Any = None) -> Any:
    """The segmentation in which an organ is smaller by a volume: it loses the voxels nearest to its surface.

    The volume is met to within half a voxel. What is lost becomes background.

    Args:
        segmentation, organ, spacing: see :func:`shifted_organ`.
        volume: in ml.

    Raises:
        ValueError: where a sample does not contain the organ, the spacing is not known, the volume is less than half a
            voxel, or the organ has no more than that.

    Example:
        >>> from monai_adversarial.attacks.targets import shrunk_by_volume
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = shrunk_by_volume(label, 1, 0.5, spacing=3.0)
        >>> round(int((label == 1).sum() - (wanted == 1).sum()) * 0.027, 1)
        0.5
    """
    volume = check_positive("volume", volume)

    def change(mask: torch.Tensor, free: torch.Tensor, steps: list[float]) -> torch.Tensor:
        count, whole = _voxels(volume, steps), int(mask.sum())
        if count >= whole:
            raise ValueError(
                f"volume {volume:g} ml is all or more than the {_ml(whole, steps):.3g} ml of organ {organ}: use "
                "empty_organ to remove it."
            )
        if bool(mask.all()):
            raise ValueError(f"organ {organ} fills the volume: it has no surface at which it could shrink.")
        return mask & ~_nearest(lambda: distance_outside(~mask, steps), mask, count)

    return changed_organ(segmentation, organ, spacing, change)


def _ml(voxels: int, steps: Sequence[float]) -> float:
    return voxels * math.prod(steps) / 1000


def _voxels(volume: float, steps: Sequence[float]) -> int:
    """The number of voxels nearest to a volume in ml."""
    if len(steps) != 3:
        raise ValueError(f"a volume in ml needs 3 spatial dimensions, got {len(steps)}.")
    count = round(volume / _ml(1, steps))
    if count == 0:
        raise ValueError(f"volume must be at least half a voxel ({_ml(1, steps) / 2:.3g} ml), got {volume:g} ml.")
    return count


def _nearest(distance: Callable[[], torch.Tensor], among: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` voxels of a mask with the smallest distance."""
    ranked = torch.where(among.cpu(), distance(), torch.inf).flatten()
    taken = torch.zeros_like(ranked, dtype=torch.bool)
    taken[ranked.argsort(stable=True)[:count]] = True
    return taken.view(among.shape).to(among.device)
