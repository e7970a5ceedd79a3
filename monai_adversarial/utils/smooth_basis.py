# SPDX-License-Identifier: Apache-2.0
"""Smooth fields as products of one-dimensional basis functions: Legendre polynomials and uniform cubic B-splines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

__all__ = [
    "bspline_fit",
    "bspline_matrix",
    "evaluate_separable",
    "legendre_exponents",
    "legendre_fit",
    "legendre_matrix",
    "linear_matrix",
    "number_of_controls",
]

NODES_PER_FUNCTION = 4
FIT_DAMPING = 0.01


def evaluate_separable(coefficients: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Evaluate a tensor product basis on a grid, one axis after the other: no map of a single basis function is ever
    built.

    Args:
        coefficients: (batch, ..., functions along each axis).
        matrices: one per axis, (grid points, functions).

    Returns:
        (batch, ..., grid points along each axis), differentiable in the coefficients.
    """
    rank = len(matrices)
    field = coefficients
    # Autocast would round the field to half precision, and with it the budget.
    with torch.autocast(device_type=coefficients.device.type, enabled=False):
        for axis in reversed(range(rank)):
            position = field.ndim - rank + axis
            before, functions, after = field.shape[:position], field.shape[position], field.shape[position + 1 :]
            if axis == rank - 1:
                field = field @ matrices[axis].T
            else:
                field = matrices[axis] @ field.reshape(-1, functions, math.prod(after))
            field = field.reshape(*before, matrices[axis].shape[0], *after)
    return field


def legendre_matrix(length: int, degree: int) -> torch.Tensor:
    """Legendre polynomials of degree 0 to ``degree`` at ``length`` points from -1 to 1, (length, degree + 1),
    float64."""
    return torch.from_numpy(np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, length), degree))


def legendre_fit(degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Legendre polynomials at the nodes of a Gauss quadrature, and the quadrature that takes values at the nodes back
    to coefficients: exact for polynomials, orthogonal in the mean square over the axis for everything else.

    Returns:
        (nodes, degree + 1) and (degree + 1, nodes), float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_FUNCTION * (degree + 1))
    values = np.polynomial.legendre.legvander(nodes, degree)
    back = (np.arange(degree + 1)[:, None] + 0.5) * weights * values.T
    return torch.from_numpy(values), torch.from_numpy(back)


def legendre_exponents(degree: int, dimensions: int) -> list[tuple[int, ...]]:
    """Degrees along each axis of every product of total degree ``degree`` or less, in the order of MONAI's
    ``RandBiasField``.

    MONAI's field of two dimensions takes the lower triangle of its coefficient matrix instead, which treats the axes
    differently; in three dimensions the order is the same.
    """
    if dimensions == 0:
        return [()]
    return [
        (first, *rest) for first in range(degree + 1) for rest in legendre_exponents(degree - first, dimensions - 1)
    ]


def _intervals(length: int, spacing: float, control_spacing: float) -> int:
    return max(1, math.ceil((length - 1) * spacing / control_spacing - 1e-6))


def number_of_controls(length: int, spacing: float, control_spacing: float) -> int:
    """Controls of a uniform cubic B-spline along an axis of ``length`` voxels; three more than its intervals."""
    return _intervals(length, spacing, control_spacing) + 3


def bspline_matrix(
    length: int, spacing: float, control_spacing: float, points: int | None = None, derivative: bool = False
) -> torch.Tensor:
    """Uniform cubic B-splines along one axis, centered on the volume.

    The functions are non-negative and add up to one everywhere, so that a field is never larger than its largest
    control value.

    Args:
        length: voxels along the axis.
        spacing: voxel spacing in mm.
        control_spacing: distance of the controls in mm.
        points: evaluate at this many points, evenly from the first voxel to the last, instead of at the voxels.
        derivative: the derivative per mm instead of the value.

    Returns:
        (length or points, controls), float64.
    """
    intervals = _intervals(length, spacing, control_spacing)
    extent = (length - 1) * spacing
    position = torch.linspace(0.0, extent, length if points is None else points, dtype=torch.float64)
    position = (position - extent / 2) / control_spacing + intervals / 2
    first = position.floor().clamp(0, intervals - 1)
    t = (position - first).clamp(0, 1)
    if derivative:
        weights = [-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2]
        weights = [w / control_spacing for w in weights]
    else:
        weights = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    matrix = torch.zeros(len(position), intervals + 3, dtype=torch.float64)
    return matrix.scatter_(1, first.long()[:, None] + torch.arange(4), torch.stack(weights, dim=1))


def bspline_fit(length: int, spacing: float, control_spacing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``bspline_matrix`` at a few points per interval, and a damped least-squares fit back to the controls; damped,
    because the outermost controls hardly reach the volume.

    Returns:
        (points, controls) and (controls, points), float64.
    """
    points = min(length, NODES_PER_FUNCTION * _intervals(length, spacing, control_spacing) + 1)
    values = bspline_matrix(length, spacing, control_spacing, points)
    normal = values.T @ values
    damping = FIT_DAMPING * torch.eye(len(normal), dtype=torch.float64) * normal.diagonal().mean()
    return values, torch.linalg.solve(normal + damping, values.T)


def linear_matrix(length: int, nodes: int) -> torch.Tensor:
    """Linear interpolation from ``nodes`` points to ``length`` points over the same extent, (length, nodes), float64.

    Weights are non-negative and add up to one; with as many nodes as points it is the identity.
    """
    matrix = torch.zeros(length, nodes, dtype=torch.float64)
    if nodes == 1:
        return matrix.fill_(1.0)
    position = torch.arange(length, dtype=torch.float64) * (nodes - 1) / max(length - 1, 1)
    first = position.floor().clamp(0, nodes - 2)
    fraction = (position - first).clamp(0, 1)
    return matrix.scatter_(1, first.long()[:, None] + torch.arange(2), torch.stack([1 - fraction, fraction], dim=1))
