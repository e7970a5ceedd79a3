# SPDX-License-Identifier: Apache-2.0
"""The voxel grid of a phantom, and smooth random fields that live in millimeters rather than in voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["draw_affine", "draw_waves", "evaluate_waves", "world_coordinates"]

# Voxel axis directions in RAS+ world space that scanners and converters actually write.
_STORAGE_DIRECTIONS = {"LPS": (-1.0, -1.0, 1.0), "RAS": (1.0, 1.0, 1.0), "LAS": (-1.0, 1.0, 1.0)}


def draw_affine(
    rng: np.random.Generator,
    size: Sequence[int],
    spacing: Sequence[float] | None,
    oblique: bool | None,
) -> np.ndarray:
    """Draw a voxel-to-world (RAS+, mm) matrix whose world origin is the center of the volume.

    Args:
        rng: random generator; always advanced by the same number of draws, whatever the other arguments are.
        size: number of voxels along each axis.
        spacing: voxel size in mm, or None to draw a field of view of 318-360 mm in plane and 215-260 mm along z.
        oblique: tilt the grid by a few degrees (True), keep it straight (False), or do so in 3 of 10 cases (None).
    """
    in_plane, height = rng.uniform(318.0, 360.0), rng.uniform(215.0, 260.0)
    directions = _STORAGE_DIRECTIONS[rng.choice(["LPS", "LPS", "RAS", "LAS"])]
    tilt = np.deg2rad(rng.uniform(-7.0, 7.0, size=3))
    tilted = bool(rng.random() < 0.3) if oblique is None else oblique
    if spacing is None:
        spacing = np.round(np.array([in_plane, in_plane, height]) / np.asarray(size), 3)
    linear = np.diag(np.asarray(spacing, dtype=np.float64) * np.asarray(directions))
    if tilted:
        linear = _rotation(tilt) @ linear
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.asarray(size) - 1) / 2.0)
    return affine


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation about x, then y, then z; angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def world_coordinates(affine: np.ndarray, size: Sequence[int]) -> list[np.ndarray]:
    """World x, y, z in mm of every voxel center: three float32 arrays of shape `size`."""
    i, j, k = (np.arange(n, dtype=np.float64) for n in size)
    return [
        (
            (row[0] * i + row[3])[:, None, None].astype(np.float32)
            + (row[1] * j)[None, :, None].astype(np.float32)
            + (row[2] * k)[None, None, :].astype(np.float32)
        )
        for row in affine[:3]
    ]


def draw_waves(
    rng: np.random.Generator, count: int, shortest: float, longest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a random band-limited field as a sum of plane waves with wavelengths between two lengths in mm.

    Returns:
        Wave vectors (count, 3) in rad/mm, phases (count,) and amplitudes (count,) of unit root-mean-square in total.
    """
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = rng.uniform(shortest, longest, size=(count, 1))
    phase = rng.uniform(0.0, 2.0 * np.pi, size=count)
    return direction * (2.0 * np.pi / wavelength), phase, np.full(count, np.sqrt(2.0 / count))


def evaluate_waves(
    waves: tuple[np.ndarray, np.ndarray, np.ndarray], affine: np.ndarray, size: Sequence[int]
) -> np.ndarray:
    """Evaluate plane waves on a voxel grid, as float32 of shape `size`.

    A plane wave on an affine grid is a product of one factor per axis, so the whole sum is one matrix product; the
    field belongs to the world, so the same waves give the same anatomy on any grid.
    """
    vectors, phase, amplitude = waves
    steps = vectors @ affine[:3, :3]
    start = vectors @ affine[:3, 3] + phase
    first = amplitude[:, None] * np.exp(1j * (start[:, None] + steps[:, :1] * np.arange(size[0])))
    second = np.exp(1j * steps[:, 1:2] * np.arange(size[1]))
    third = np.exp(1j * steps[:, 2:3] * np.arange(size[2]))
    rest = (second.astype(np.complex64)[:, :, None] * third.astype(np.complex64)[:, None, :]).reshape(len(phase), -1)
    left = np.concatenate([first.real, -first.imag]).astype(np.float32)
    right = np.concatenate([rest.real, rest.imag])
    return (left.T @ right).reshape(tuple(size))
