# SPDX-License-Identifier: Apache-2.0
"""What a saved file shows of a budget, in NumPy and SciPy on the bytes of both files: none of the package's measuring.

Every function returns sentences about what is outside; an empty list means that the budget holds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import map_coordinates

from benchmarks.nifti_bytes import RawNifti

__all__ = ["AIR", "FIELD_OF_VIEW", "PADDING", "Bounds", "changeable", "gain_bounds", "geometry", "moved", "within"]

AIR, PADDING, FIELD_OF_VIEW = -1000.0, -1024.0, -1500.0
#: HU of what is added up on the way to a small value, such as the edges of a window
SUMMANDS = 256.0

#: lowest and highest value that each voxel may have
Bounds = tuple[np.ndarray, np.ndarray]


def _room(clean: RawNifti, saved: RawNifti, units_in_last_place: float = 4.0) -> np.ndarray:
    """What float32 may misplace: nothing of note between stored integers, some units in the last place of a float."""
    size = np.maximum(np.abs(clean.values), np.abs(saved.values)).clip(SUMMANDS)
    if clean.stored.dtype.kind in "iu":
        return 1e-5 * abs(clean.slope) + 1e-12 * size
    return units_in_last_place * np.spacing(size.astype(np.float32)).astype(np.float64)


def within(clean: RawNifti, saved: RawNifti, bounds: Bounds, what: str) -> list[str]:
    """Voxels outside their bounds."""
    low, high = bounds
    values, room = saved.values, _room(clean, saved)
    excess = np.maximum(low - values, values - high) - room
    if excess.max() > 0:
        place = np.unravel_index(excess.argmax(), excess.shape)
        return [
            f"{what}: {int((excess > 0).sum())} voxels outside, the worst by {excess.max():.6g} "
            f"(clean {clean.values[place]:.6g}, saved {values[place]:.6g})"
        ]
    return []


def unchanged(clean: RawNifti, saved: RawNifti, where: np.ndarray, what: str) -> list[str]:
    """Voxels that had to keep their stored bits."""
    if clean.stored.dtype.kind == "f" or (saved.slope, saved.intercept) != (clean.slope, clean.intercept):
        differs = saved.values.astype(np.float32) != clean.values.astype(np.float32)
    else:
        differs = saved.stored != clean.stored
    count = int((differs & where).sum())
    return [f"{what}: {count} voxels changed that must not"] if count else []


def changeable(clean: RawNifti, region: np.ndarray | None) -> np.ndarray:
    """Where additive noise may change a voxel."""
    inside = clean.values.astype(np.float32) > FIELD_OF_VIEW
    return inside if region is None else inside & region


def gain_bounds(
    low_values: np.ndarray, high_values: np.ndarray, gain: float, domain: str, window: tuple[float, float]
) -> Bounds:
    """Bounds of values between two bounds after a gain between ``1 / (1 + gain)`` and ``1 + gain``."""

    def ends(values: np.ndarray) -> Bounds:
        offset = {"window": window[0], "attenuation": AIR, "image": 0.0}[domain]
        value = values - offset
        scaled = (value / (1 + gain) + offset, value * (1 + gain) + offset)
        low, high = np.minimum(*scaled), np.maximum(*scaled)
        if domain == "window":
            high = np.minimum(high, window[1])
            fixed = (values <= window[0]) | (values >= window[1])
        elif domain == "attenuation":
            fixed = values <= AIR
        else:
            fixed = value == 0
            floor = np.minimum(values, PADDING)
            low, high = np.maximum(low, floor), np.maximum(high, floor)
        return np.where(fixed, values, low), np.where(fixed, values, high)

    first, second = ends(low_values), ends(high_values)
    low, high = np.minimum(first[0], second[0]), np.maximum(first[1], second[1])
    # An interval that crosses an edge of the domain holds values that stay as they are.
    return np.minimum(low, low_values), np.maximum(high, high_values)


def moved(values: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Linear interpolation at displaced voxels, border values outside.

    Args:
        values: (spatial...).
        displacement: (axis, spatial...) in voxels.
    """
    places = np.indices(values.shape).astype(np.float64) + displacement
    for axis, size in enumerate(values.shape):
        places[axis] = places[axis].clip(0, size - 1)
    return map_coordinates(values.astype(np.float64), places, order=1, mode="nearest")


def geometry(
    displacement_mm: np.ndarray, spacing: tuple[float, ...], longest: float, norm: str, min_jacobian: float | None
) -> list[str]:
    """The length of a displacement in mm and its Jacobian determinant by central differences."""
    size = np.linalg.norm(displacement_mm, axis=0) if norm == "euclidean" else np.abs(displacement_mm)
    found = []
    if size.max() > longest * (1 + 1e-4) + 1e-6:
        found.append(f"displacement {size.max():.6g} mm above {longest:g} mm")
    if min_jacobian is not None:
        axes = len(spacing)
        matrix = np.empty((*displacement_mm.shape[1:], axes, axes))
        for i in range(axes):
            for j in range(axes):
                slope = np.gradient(displacement_mm[i], spacing[j], axis=j)
                matrix[..., i, j] = slope + (i == j)
        lowest = float(np.linalg.det(matrix).min())
        if lowest < min_jacobian * (1 - 1e-3) - 1e-6:
            found.append(f"Jacobian determinant {lowest:.6g} below {min_jacobian:g}")
    return found


def explained(clean: RawNifti, saved: RawNifti, expected: np.ndarray, room: float, what: str) -> list[str]:
    """Voxels further from what their displacement says than rounding puts them."""
    span = float(np.ptp(clean.values))
    difference = float(np.abs(saved.values - expected).max())
    most = room + 1e-4 * span + 1e-3
    if difference <= most:
        return []
    return [f"{what}: {difference:.6g} HU from what the displacement says, above {most:.6g}"]


def euclidean(clean: RawNifti, saved: RawNifti, where: np.ndarray, norm: str, epsilon: float) -> list[str]:
    """The L2 norm of the change, or its root mean square over the voxels that may change."""
    before, after = clean.values, saved.values
    if clean.stored.dtype.kind == "f":  # what is attacked and read back is float32
        before, after = (values.astype(np.float32).astype(np.float64) for values in (before, after))
    change = after - before
    length = float(np.sqrt((change**2).sum()))
    if norm == "rms":
        length /= np.sqrt(max(int(where.sum()), 1))
    return [f"{norm} {length:.7g} HU above {epsilon:g} HU"] if length > epsilon * (1 + 1e-5) + 1e-6 else []


Check = Callable[[RawNifti, RawNifti], list[str]]
