# SPDX-License-Identifier: Apache-2.0
"""Local change of volume of a deformation."""

from __future__ import annotations

import torch

__all__ = ["jacobian_determinant"]


def jacobian_determinant(displacement: torch.Tensor, spacing: torch.Tensor | None = None) -> torch.Tensor:
    """Jacobian determinant of ``position + displacement`` at every voxel, by central differences (one-sided at the
    borders).

    Args:
        displacement: (batch, dimension, spatial...) with 1 to 3 dimensions, in voxels, or in mm if ``spacing`` is
            given.
        spacing: voxel spacing in mm, (dimension,) or (batch, dimension). The determinant does not depend on the units
            as long as the displacement and the grid have the same.

    Returns:
        (batch, spatial...); 1 means no change of volume, 0 or less that the deformation folds.
    """
    dimensions = displacement.ndim - 2
    if displacement.shape[1] != dimensions or not 1 <= dimensions <= 3:
        raise ValueError(
            "displacement must have shape (batch, dimension, spatial...) with 1 to 3 dimensions, "
            f"got {tuple(displacement.shape)}."
        )
    if spacing is not None:
        spacing = torch.as_tensor(spacing).to(displacement).reshape(-1, dimensions, *([1] * dimensions))
        displacement = displacement / spacing
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
    if dimensions == 1:
        return rows[0][0]
    if dimensions == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    a, b, c = rows
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
