# SPDX-License-Identifier: Apache-2.0
"""In which order windows are taken so that as little as possible waits to be stitched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from monai_adversarial.inferers.window_cells import CellGrid

__all__ = ["frugal_order", "most_waiting"]

Box = tuple[slice, ...]
Starts = tuple[int, ...]
# More windows are taken in their own order: looking for a better one would be work to speak of.
_MOST_WINDOWS = 4096
# Another order than MONAI's must be worth it.
_WORTH = 0.95


def frugal_order(batches: Sequence[Sequence[Sequence[slice]]]) -> list[int]:
    """Numbers of batches of windows in the order in which the fewest voxels wait for further windows.

    Windows go along one axis after the other. Where two neighbors share more than half of their voxels, as the last two
    along an axis mostly do, everything between them waits for a whole sheet of windows, unless both are taken together.
    Tried are each axis as the outermost, with such neighbors apart and together.

    Args:
        batches: full index (image, channels, spatial slices) of each window of each batch.
    """
    windows = [index for where in batches for index in where]
    if len(windows) > _MOST_WINDOWS:
        return list(range(len(batches)))
    key = tuple(tuple((index[0].start, *(part.start for part in index[2:])) for index in where) for where in batches)
    return list(_frugal_order(key, tuple(part.stop - part.start for part in windows[0][2:])))


@lru_cache(maxsize=16)
def _frugal_order(batches: tuple[tuple[Starts, ...], ...], size: Starts) -> tuple[int, ...]:
    first = batches[0][0][0]
    slices = [_box(start[1:], size) for where in batches for start in where if start[0] == first]
    usual = tuple(range(len(batches)))
    grid = CellGrid(slices)
    if all(len(windows) == 1 for windows in grid.windows.values()):
        return usual
    numbers = {tuple(part.start for part in box): number for number, box in enumerate(slices)}
    units = [[(start[0], numbers[start[1:]]) for start in where] for where in batches]
    best, least = usual, _WORTH * most_waiting(grid, units)
    for key in _keys(slices, size):
        order = tuple(sorted(usual, key=lambda n: (batches[n][0][0], key(batches[n][0][1:]))))
        found = most_waiting(grid, [units[n] for n in order])
        if found < least:
            best, least = order, found
    return best


def _box(start: Starts, size: Starts) -> Box:
    return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))


def _keys(slices: Sequence[Box], size: Starts) -> Iterator[Callable[[Starts], tuple[Starts, Starts]]]:
    """Sort keys of windows: group of near neighbors, then the place within it, with each axis first."""
    axes = range(len(size))
    group: list[dict[int, int]] = []
    for axis in axes:
        found: dict[int, int] = {}
        begin = None
        for start in sorted({box[axis].start for box in slices}):
            begin = start if begin is None or 2 * (start - begin) >= size[axis] else begin
            found[start] = begin
        group.append(found)
    for together, outermost in itertools.product((True, False), axes):
        order = (outermost, *(axis for axis in axes if axis != outermost))

        def key(start: Starts, order: Starts = order, together: bool = together) -> tuple[Starts, Starts]:
            groups = tuple(group[axis][start[axis]] for axis in order) if together else ()
            return groups, tuple(start[axis] for axis in order)

        yield key


def most_waiting(grid: CellGrid, batches: Sequence[Sequence[tuple[int, int]]]) -> int:
    """Most voxels of outputs that are held at once by ``WindowCells`` when windows come in some order.

    Args:
        grid: cells of the windows of one image.
        batches: (image, number of the window) of each window that comes, in batches.
    """
    added: dict[tuple[int, ...], int] = {}
    early: dict[tuple[int, ...], set[int]] = {}
    held = most = 0
    for image, number in itertools.chain.from_iterable(batches):
        # As they are added: cells that are held already come first.
        for cell in sorted(grid.cells_of(number), key=lambda one: (image, *one) not in added):
            key, windows, voxels = (image, *cell), grid.windows[cell], grid.voxels(cell)
            done = added.setdefault(key, 0)
            first = done == 0
            if windows[done] != number:
                early.setdefault(key, set()).add(number)
                held += voxels
                most = max(most, held)
                continue
            waiting = early.get(key, set())
            held += voxels if first else 0
            most = max(most, held)
            done += 1
            while done < len(windows) and windows[done] in waiting:
                waiting.discard(windows[done])
                held -= voxels
                done += 1
            added[key] = done
            held -= voxels if done == len(windows) else 0
    return most
