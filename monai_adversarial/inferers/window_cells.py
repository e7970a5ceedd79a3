# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows stitched piece by piece, in memory that does not depend on volume times classes.

The edges of all windows cut a volume into boxes, here called cells. Every voxel of a cell lies in the same windows, so
that a cell is complete as soon as the last of them is in: it is handed out and its memory is free again. Only cells
that still wait for a window are held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

__all__ = ["WindowCells"]

Box = tuple[slice, ...]
Cell = tuple[int, ...]


@dataclass
class _Open:
    """A cell that waits for windows: the weighted sum of outputs, the sum of weights, and how many are to come."""

    total: torch.Tensor
    weights: torch.Tensor | None
    left: int


@dataclass
class WindowCells:
    """The weighted mean of windows over one image.

    Outputs are added in the order in which they come, in the arithmetic of MONAI's sliding windows: the voxels are the
    same to the bit.

    Args:
        slices: the windows' places, one slice per spatial axis each.
        weight: blending weights (1, 1, window), None for ones.
        dtype: of the sums.
        device: of the sums.
    """

    slices: Sequence[Box]
    weight: torch.Tensor | None
    dtype: torch.dtype
    device: torch.device
    _edges: list[list[int]] = field(init=False)
    _expected: dict[Cell, int] = field(init=False)
    _open: dict[Cell, _Open] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        axes = range(len(self.slices[0]))
        self._edges = [sorted({edge for w in self.slices for edge in (w[axis].start, w[axis].stop)}) for axis in axes]
        self._expected = {}
        for window in self.slices:
            for cell in self._cells_of(window):
                self._expected[cell] = self._expected.get(cell, 0) + 1

    def _cells_of(self, window: Box) -> Iterator[Cell]:
        ranges = [
            range(edges.index(part.start), edges.index(part.stop))
            for edges, part in zip(self._edges, window, strict=True)
        ]
        return itertools.product(*ranges)

    def add(self, window: Box, output: torch.Tensor) -> Iterator[tuple[Box, torch.Tensor]]:
        """Add one window; the cells that are complete with it, and their stitched output (1, K, cell).

        Args:
            window: its place, one of ``slices``.
            output: what the network returned for it, (1, K, window).
        """
        for cell in self._cells_of(window):
            place = tuple(slice(edges[n], edges[n + 1]) for edges, n in zip(self._edges, cell, strict=True))
            inside = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(place, window, strict=True))
            piece = output[(slice(None), slice(None), *inside)]
            weight = None if self.weight is None else self.weight[(slice(None), slice(None), *inside)]
            if weight is not None:
                piece = piece * weight.to(piece.device)
            waiting = self._open.get(cell)
            if waiting is None:
                total = torch.zeros(piece.shape, dtype=self.dtype, device=self.device)
                shape = (1, 1, *piece.shape[2:])
                weights = None
                # One window alone without weights is its own mean.
                if weight is not None or self._expected[cell] > 1:
                    weights = torch.zeros(shape, dtype=self.dtype, device=self.device)
                waiting = self._open[cell] = _Open(total, weights, self._expected[cell])
            waiting.total += piece.to(self.device)
            if waiting.weights is not None:
                waiting.weights += 1.0 if weight is None else weight.to(self.device)
            waiting.left -= 1
            if not waiting.left:
                del self._open[cell]
                if waiting.weights is not None:
                    waiting.total /= waiting.weights
                yield place, waiting.total
