# SPDX-License-Identifier: Apache-2.0
"""Local change of volume of a deformation."""

from __future__ import annotations

import itertools

import torch

__all__ = ["jacobian_determinant", "lowest_corner_determinant"]


def jacobian_determinant(displacement: torch.Tensor, spacing: torch.Tensor | None = None) -> torch.Tensor:
    """Jacobian determinant of ``position + displacement`` at every voxel, by central differences (one-sided at the
    borders).

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations import jacobian_determinant
    >>> grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"))[None]
    >>> jacobian_determinant(0.1 * grid).unique().tolist() == [torch.tensor(1.1).pow(3).item()]
    True

    Args:
        displacement: (batch, dimension, spatial...) with 1 to 3 dimensions, in voxels, or in mm if ``spacing`` is
            given.
        spacing: voxel spacing in mm, (dimension,) or (batch, dimension). The determinant does not depend on the units
            as long as the displacement and the grid have the same.

    Returns:
        (batch, spatial...); 1 means no change of volume, 0 or less that the deformation folds.
    """
    displacement = _in_voxels(displacement, spacing)
    dimensions = displacement.ndim - 2
    rows = []
    for i in range(dimensions):
        row = []
        for j in range(dimensions):
            component = displacement[:, i]
            if component.shape[j + 1] > 1:
                derivative = torch.gradient(component, dim=j + 1)[0]
            else:
                derivative = torch.zeros_like(component)
            row.append(derivative + 1 if i == j else derivative)
        rows.append(row)
    return _determinant(rows)


def lowest_corner_determinant(displacement: torch.Tensor, spacing: torch.Tensor | None = None) -> torch.Tensor:
    """Lowest Jacobian determinant at the corners and the center of any cell between neighboring voxels, where the
    displacement is interpolated linearly, (batch,).

    At a corner the derivatives are those along the cell's edges that meet there: one-sided, where central differences
    average over two cells.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations import jacobian_determinant, lowest_corner_determinant
    >>> kink = torch.tensor([[[0.0, 0.0, 0.0, -1.5, 0.0, 0.0]]])
    >>> float(jacobian_determinant(kink).min()), float(lowest_corner_determinant(kink))
    (0.25, -0.5)

    Args:
        displacement: (batch, dimension, spatial...) with 1 to 3 dimensions, in voxels, or in mm if ``spacing`` is
            given.
        spacing: see :func:`jacobian_determinant`.
    """
    displacement = _in_voxels(displacement, spacing)
    dimensions = displacement.ndim - 2
    long = [axis for axis in range(dimensions) if displacement.shape[axis + 2] > 1]
    edges = [displacement.diff(dim=axis + 2) for axis in long]
    lowest: torch.Tensor | None = None
    for sides in [*itertools.product((0, 1), repeat=len(long)), None]:
        columns = {}
        for axis, edge in zip(long, edges, strict=True):
            for position, other in enumerate(long):
                if other == axis:
                    continue
                length = edge.shape[other + 2] - 1
                first, second = (edge.narrow(other + 2, side, length) for side in (0, 1))
                edge = (first + second) / 2 if sides is None else (first, second)[sides[position]]
            columns[axis] = edge
        # Along an axis of one voxel nothing changes.
        still = torch.zeros_like(next(iter(columns.values()))) if columns else torch.zeros_like(displacement)
        rows = [
            [columns.get(j, still)[:, i] + (1.0 if i == j else 0.0) for j in range(dimensions)]
            for i in range(dimensions)
        ]
        found = _determinant(rows).flatten(1).amin(dim=1)
        lowest = found if lowest is None else torch.minimum(lowest, found)
    assert lowest is not None
    return lowest


def _in_voxels(displacement: torch.Tensor, spacing: torch.Tensor | None) -> torch.Tensor:
    dimensions = displacement.ndim - 2
    if displacement.shape[1] != dimensions or not 1 <= dimensions <= 3:
        raise ValueError(
            "displacement must have shape (batch, dimension, spatial...) with 1 to 3 dimensions, "
            f"got {tuple(displacement.shape)}."
        )
    if spacing is None:
        return displacement
    return displacement / torch.as_tensor(spacing).to(displacement).reshape(-1, dimensions, *([1] * dimensions))


def _determinant(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    dimensions = len(rows)
    if dimensions == 1:
        return rows[0][0]
    if dimensions == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
