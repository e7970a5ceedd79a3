# SPDX-License-Identifier: Apache-2.0
"""A sliding-window inferer that leaves out windows whose every voxel is known already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import fall_back_tuple

from monai_adversarial.inferers.outputs import map_outputs

__all__ = ["SkippedWindows"]


class SkippedWindows:
    """Runs the windows that hold a wanted voxel; where no window ran, the output is 0.

    A wanted voxel's output is that of the whole inferer, since every window that covers it runs. Counts the windows in
    ``computed`` and ``skipped``.

    Args:
        inferer: whose windows are taken; it is not changed.
        wanted: boolean (batch, 1, spatial...); inputs hold this batch once or several times, one after the other.
    """

    def __init__(self, inferer: SlidingWindowInferer, wanted: torch.Tensor) -> None:
        self.inferer = copy.copy(inferer)
        self.passes_coordinates = bool(inferer.with_coord)
        # Coordinates are how a window is recognized; with buffers MONAI would give them another form.
        self.inferer.with_coord, self.inferer.buffer_steps = True, None
        self.wanted = wanted.cpu()
        self.computed = self.skipped = 0
        self._needed: dict[tuple[int, ...], bool] = {}
        self._template: Any = None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As the inferer's own call."""
        spatial = tuple(inputs.shape[2:])
        roi = fall_back_tuple(self.inferer.roi_size, spatial)
        before = [max(window - size, 0) // 2 for window, size in zip(roi, spatial, strict=True)]

        def some(windows: torch.Tensor, where: Sequence[Sequence[slice]], *args: Any, **kwargs: Any) -> Any:
            run = [row for row, index in enumerate(where) if self._is_needed(index, before)]
            self.computed += len(run)
            self.skipped += len(where) - len(run)
            if not run and self._template is not None:
                return map_outputs(lambda part: part.new_zeros((len(where), *part.shape[1:])), self._template)
            if len(run) == len(where) or not run:
                coordinates = [where] if self.passes_coordinates else []
                found = network(windows, *coordinates, *args, **kwargs)
            else:
                coordinates = [[where[row] for row in run]] if self.passes_coordinates else []
                if isinstance(kwargs.get("condition"), torch.Tensor):
                    kwargs = {**kwargs, "condition": kwargs["condition"][run]}
                found = network(windows[run], *coordinates, *args, **kwargs)
                found = map_outputs(lambda part: _spread(part, run, len(where)), found)
            if self._template is None:
                self._template = map_outputs(lambda part: part[:1].detach(), found)
            return found

        return self.inferer(inputs, some, *args, **kwargs)

    def _is_needed(self, index: Sequence[slice], before: Sequence[int]) -> bool:
        sample = index[0].start % self.wanted.shape[0]
        place = (sample, *(part.start for part in index[2:]))
        if place not in self._needed:
            inside = tuple(
                slice(max(part.start - shift, 0), max(part.stop - shift, 0))
                for part, shift in zip(index[2:], before, strict=True)
            )
            self._needed[place] = bool(self.wanted[(sample, slice(None), *inside)].any())
        return self._needed[place]


def _spread(part: torch.Tensor, rows: Sequence[int], count: int) -> torch.Tensor:
    spread = part.new_zeros((count, *part.shape[1:]))
    spread[list(rows)] = part
    return spread
