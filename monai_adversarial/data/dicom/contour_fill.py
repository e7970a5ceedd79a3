# SPDX-License-Identifier: Apache-2.0
"""Voxels inside contours by the even-odd rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["inside_contours"]


def inside_contours(contours: Sequence[np.ndarray], columns: int, rows: int) -> np.ndarray:
    """Which pixel centers lie inside an odd number of closed contours.

    A hole is a contour inside another one, or a keyhole. A center on an edge belongs to one side of it only (edges
    hold their lower end, spans their left one). Organs that share an edge neither overlap nor leave a gap, which does
    not hold for fills that count edges as inside, such as ``skimage.draw.polygon``.

    Args:
        contours: points (n, 2) as column and row, pixel centers at whole numbers.
        columns: width of the grid.
        rows: height of the grid.

    Returns:
        Boolean mask (columns, rows).
    """
    starts = np.concatenate([np.asarray(points, dtype=np.float64) for points in contours])
    ends = np.concatenate([np.roll(np.asarray(points, dtype=np.float64), -1, axis=0) for points in contours])
    mask = np.zeros((columns, rows), dtype=bool)
    first, last = int(np.ceil(starts[:, 1].min())), int(np.floor(starts[:, 1].max()))
    for row in range(max(first, 0), min(last, rows - 1) + 1):
        crossing = (starts[:, 1] <= row) != (ends[:, 1] <= row)
        (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
        meets = np.sort(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
        mask[:, row] = np.searchsorted(meets, np.arange(columns), side="right") % 2 == 1
    return mask
