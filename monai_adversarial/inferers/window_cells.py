# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows stitched piece by piece, in memory that does not depend on volume times classes.

The edges of all windows cut a volume into boxes, here called cells. Every voxel of a cell lies in the same windows, so
that a cell is complete as soon as the last of them is in: it is handed out and its memory is free again. Only cells
that still wait for a window are held.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

__all__ = ["CellGrid", "WindowCells"]

Box = tuple[slice, ...]
# Smaller blocks than this are no trouble to any allocator.
_LEAST_BYTES = 2**12
Cell = tuple[int, ...]


class CellGrid:
    """The cells that some windows cut a volume into.

    Args:
        slices: the windows' places, one slice per spatial axis each.

    Attributes:
        windows: cell -> the numbers of the windows that hold it, ascending.
    """

    def __init__(self, slices: Sequence[Box]) -> None:
        axes = range(len(slices[0]))
        self.slices = slices
        self._edges = [sorted({edge for w in slices for edge in (w[axis].start, w[axis].stop)}) for axis in axes]
        self._places = [{edge: place for place, edge in enumerate(edges)} for edges in self._edges]
        self.windows: dict[Cell, list[int]] = {}
        for number in range(len(slices)):
            for cell in self.cells_of(number):
                self.windows.setdefault(cell, []).append(number)

    def cells_of(self, number: int) -> Iterator[Cell]:
        """The cells of a window."""
        parts = zip(self._places, self.slices[number], strict=True)
        return itertools.product(*(range(places[part.start], places[part.stop]) for places, part in parts))

    def place(self, cell: Cell) -> Box:
        """Where a cell is."""
        return tuple(slice(edges[n], edges[n + 1]) for edges, n in zip(self._edges, cell, strict=True))

    def voxels(self, cell: Cell) -> int:
        """How many voxels a cell has."""
        return math.prod(part.stop - part.start for part in self.place(cell))


@dataclass
class _Open:
    """A cell that waits for windows: the weighted sum of outputs, the sum of weights, and how many windows are in it.

    Outputs of windows that came before their turn wait beside the sum.
    """

    total: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    added: int = 0
    early: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class WindowCells:
    """The weighted mean of windows over one image.

    Windows may come in any order. Their outputs are added in the order of ``slices``, in the arithmetic of MONAI's
    sliding windows: the voxels are the same to the bit.

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
    _grid: CellGrid = field(init=False)
    _numbers: dict[tuple[int, ...], int] = field(init=False)
    _open: dict[Cell, _Open] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._grid = CellGrid(self.slices)
        self._numbers = {tuple(part.start for part in window): n for n, window in enumerate(self.slices)}

    def add(self, window: Box, output: torch.Tensor) -> Iterator[tuple[Box, torch.Tensor]]:
        """Add one window; the cells that are complete with it, and their stitched output (1, K, cell).

        Args:
            window: its place, one of ``slices``.
            output: what the network returned for it, (1, K, window).
        """
        number = self._numbers[tuple(part.start for part in window)]
        # Cells that end first: what they free is there for those that begin.
        for cell in sorted(self._grid.cells_of(number), key=lambda one: one not in self._open):
            place, windows = self._grid.place(cell), self._grid.windows[cell]
            inside = self._inside(place, number)
            piece = output[inside]
            if self.weight is not None:
                piece = piece * self.weight[inside].to(piece.device)
            waiting = self._open.setdefault(cell, _Open())
            if windows[waiting.added] != number:
                early = _zeros(piece.shape, piece.dtype, self.device)
                waiting.early[number] = early.copy_(piece)
                continue
            self._add(waiting, piece, windows, place)
            while waiting.added < len(windows) and windows[waiting.added] in waiting.early:
                self._add(waiting, waiting.early.pop(windows[waiting.added]), windows, place)
            if waiting.added == len(windows):
                del self._open[cell]
                total = waiting.total
                assert total is not None
                if waiting.weights is not None:
                    total /= waiting.weights
                yield place, total

    def _inside(self, place: Box, number: int) -> Box:
        """Index of a cell in a window's output."""
        parts = zip(place, self.slices[number], strict=True)
        return (slice(None), slice(None), *(slice(p.start - w.start, p.stop - w.start) for p, w in parts))

    def _add(self, waiting: _Open, piece: torch.Tensor, windows: list[int], place: Box) -> None:
        """Add the piece of the window whose turn it is."""
        weight = None if self.weight is None else self.weight[self._inside(place, windows[waiting.added])]
        if waiting.total is None:
            waiting.total = _zeros(piece.shape, self.dtype, self.device)
            # One window alone without weights is its own mean.
            if weight is not None or len(windows) > 1:
                waiting.weights = _zeros((1, 1, *piece.shape[2:]), self.dtype, self.device)
        waiting.total += piece.to(self.device)
        if waiting.weights is not None:
            waiting.weights += 1.0 if weight is None else weight.to(self.device)
        waiting.added += 1


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros in memory of their own on a CPU: cells outlive the window that they begin in, and would sit in the heap
    where the next window's tensors want to be, so that the heap grows with every window."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _LEAST_BYTES:
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(tuple(shape))
