# SPDX-License-Identifier: Apache-2.0
"""Slices to a grid: order and affine from their positions, and one sentence for each thing that makes it none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_adversarial.data.dicom.frames import Frame
from monai_adversarial.data.file_names import shown

__all__ = ["LPS_TO_RAS", "arrange", "lps_affine", "number_notes"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Direction cosines are written with some six digits.
SAME_DIRECTION = 1e-4
SAME_SPACING_MM = 1e-4
# Positions are written with as few as two decimals: 0.625 mm becomes 0.62 and 0.63.
OFF_THE_GRID_MM, OFF_THE_GRID_STEPS = 0.02, 0.01
# An angle between the stack and the slices' normal below this is rounding of positions.
TILT_DEGREES = 0.1


def arrange(frames: Sequence[Frame], shear: bool = False) -> tuple[list[Frame], list[str]]:
    """Order slices along their normal, right-handed: column number, row number, slice number.

    Args:
        frames: slices of one series in any order.
        shear: accept a stack at an angle to the slices' normal (gantry tilt).

    Returns:
        The ordered slices, and sentences on what is unusual but harmless.

    Raises:
        ValueError: one sentence on why the slices are no evenly spaced grid.
    """
    if len(frames) < 2:
        raise ValueError(f"{frames[0].name} is a single slice: nothing says how thick a volume of it is.")
    _check_alike(frames)
    normal = np.cross(frames[0].orientation[:3], frames[0].orientation[3:])
    normal /= np.linalg.norm(normal)
    ordered = sorted(frames, key=lambda frame: float(normal @ np.array(frame.position)))
    heights = np.array([normal @ np.array(frame.position) for frame in ordered])
    _check_even(ordered, heights)
    notes = _check_straight(ordered)
    return ordered, notes + _check_tilt(ordered, normal, shear)


def lps_affine(ordered: Sequence[Frame]) -> np.ndarray:
    """Voxel (column, row, slice) to mm in LPS: directions and spacing of the first slice, and the mean step from slice
    to slice."""
    first = ordered[0]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = _step(ordered)
    affine[:3, 3] = first.position
    return affine


def _step(ordered: Sequence[Frame]) -> np.ndarray:
    return (np.array(ordered[-1].position) - np.array(ordered[0].position)) / (len(ordered) - 1)


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if (frame.rows, frame.columns) != (first.rows, first.columns):
            raise ValueError(
                f"the slices differ in size: {first.name} has {first.columns} x {first.rows} pixels, {frame.name} has "
                f"{frame.columns} x {frame.rows}."
            )
        if np.abs(np.subtract(frame.orientation, first.orientation)).max() > SAME_DIRECTION:
            raise ValueError(
                f"the slices differ in orientation: {first.name} has {first.orientation}, {frame.name} has "
                f"{frame.orientation}; give the files of one orientation."
            )
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > SAME_SPACING_MM:
            raise ValueError(
                f"the slices differ in pixel spacing: {first.name} has {first.spacing} mm, {frame.name} has "
                f"{frame.spacing} mm."
            )
        if frame.frame_of_reference != first.frame_of_reference:
            raise ValueError(
                f"{first.name} and {frame.name} have different frames of reference: their positions cannot be compared."
            )


def _check_even(ordered: Sequence[Frame], heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    doubled = [i for i, gap in enumerate(gaps) if gap < max(1e-3, 0.05 * usual)]
    if doubled:
        one, two = ordered[doubled[0]], ordered[doubled[0] + 1]
        numbers = sorted({frame.acquisition_number for frame in ordered} - {""})
        several = f"; the series holds the acquisitions {shown(numbers)}, give the files of one" if numbers[1:] else ""
        raise ValueError(
            f"{len(doubled)} of the slices are doubled: {one.name} and {two.name} lie at the same place{several}."
        )
    tolerance = max(OFF_THE_GRID_MM, OFF_THE_GRID_STEPS * usual)
    off = [i for i, gap in enumerate(gaps) if abs(gap - usual) > 2 * tolerance]
    if not off:
        return
    worst = max(off, key=lambda i: abs(gaps[i] - usual))
    between = f"between {ordered[worst].name} and {ordered[worst + 1].name} are {gaps[worst]:.3f} mm"
    ratios = gaps[off] / usual
    if bool((np.abs(ratios - ratios.round()) < 0.1).all()) and bool((ratios.round() >= 2).all()):
        count = int((ratios.round() - 1).sum())
        raise ValueError(f"{count} slice(s) are missing: {between} where others are {usual:.3f} mm apart.")
    raise ValueError(f"the slices are not evenly spaced: {between}, the median is {usual:.3f} mm.")


def _check_straight(ordered: Sequence[Frame]) -> list[str]:
    """All positions lie on the line from the first to the last, evenly."""
    step = _step(ordered)
    line = np.array(ordered[0].position) + np.arange(len(ordered))[:, None] * step
    off = np.linalg.norm(np.array([frame.position for frame in ordered]) - line, axis=1)
    worst, size = int(off.argmax()), float(off.max())
    if size > max(OFF_THE_GRID_MM, OFF_THE_GRID_STEPS * float(np.linalg.norm(step))):
        raise ValueError(
            f"the slices do not lie on one even grid: {ordered[worst].name} is {size:.3f} mm from its place between "
            "the first and the last slice."
        )
    if size > 1e-3:
        return [f"positions are rounded: slices lie up to {size:.4f} mm from their place on the grid."]
    return []


def _check_tilt(ordered: Sequence[Frame], normal: np.ndarray, shear: bool) -> list[str]:
    step = _step(ordered)
    sine = float(np.linalg.norm(np.cross(step, normal)) / np.linalg.norm(step))
    degrees = float(np.degrees(np.arcsin(min(sine, 1.0))))
    stated = max((frame.gantry_tilt for frame in ordered), key=abs)
    if degrees <= TILT_DEGREES:
        if abs(stated) > TILT_DEGREES:
            return [f"the header states a gantry tilt of {stated:g} degrees, but the positions show none: they count."]
        return []
    if not shear:
        raise ValueError(
            f"the stack is tilted: slices follow each other at {degrees:.2f} degrees to their normal (gantry tilt, "
            f"stated as {stated:g}), so that the grid is sheared; pass gantry_tilt='shear' for the voxels as they are "
            "with the sheared affine, or resample the series first."
        )
    return [f"the grid is sheared by a gantry tilt of {degrees:.2f} degrees; the affine says so, voxels are as stored."]


def number_notes(ordered: Sequence[Frame]) -> list[str]:
    """What is unusual about the instance numbers of ordered slices; positions alone decide."""
    numbers = [frame.instance_number for frame in ordered]
    known = [number for number in numbers if number is not None]
    order = "the order comes from the positions"
    if len(known) < len(numbers):
        return [f"{len(numbers) - len(known)} of {len(numbers)} slices have no instance number: {order}."]
    if len(set(known)) < len(known):
        return [f"instance numbers repeat ({len(set(known))} for {len(known)} slices): {order}."]
    steps = np.diff(known)
    if bool((steps < 0).all()):
        return [f"instance numbers run against the slices' normal: {order}."]
    if not bool((steps > 0).all()):
        return [f"instance numbers do not follow the positions: {order}."]
    return []
