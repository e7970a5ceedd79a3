# SPDX-License-Identifier: Apache-2.0
"""A network over the windows of a batch, one batch of windows after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from monai_adversarial.inferers.memory_bounded import WindowPlan
from monai_adversarial.inferers.window_cells import WindowCells
from monai_adversarial.inferers.window_order import frugal_order
from monai_adversarial.inferers.window_pass import Index, pack_outputs
from monai_adversarial.models.first_batch import check_answer
from monai_adversarial.models.output_values import OutputSummary
from monai_adversarial.utils.allocator import EXCESS, give_back_excess, give_back_growth

__all__ = ["LookAtWindows", "WindowRun"]

#: bytes of the output of a batch of windows from which memory is worth more than the page faults of getting it again
LARGE_OUTPUT = 2**25

#: is shown the places of some windows in the padded image, and their logits (window, class, spatial...)
LookAtWindows = Callable[["WindowRun", list[Index], torch.Tensor], None]


class WindowRun:
    """The windows of a batch.

    Args:
        plan: the windows and what to call.
        pick: the attacked tensor among what the network returned for an image.
        as_logits: logits of what was picked.

    Attributes:
        first: summary of the output of the first batch of windows that was predicted.
    """

    def __init__(
        self,
        plan: WindowPlan,
        pick: Callable[[Any, torch.Tensor], Any],
        as_logits: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.plan = plan
        self._pick, self._as_logits = pick, as_logits
        self.first: OutputSummary | None = None

    def batches(self) -> list[list[Index]]:
        """Full index (image, channels, spatial slices) of each window in the padded image, in batches of windows."""
        return self.plan.windows.batches(self.plan.image.shape[0])

    def outputs(self, windows: Sequence[torch.Tensor], where: list[Index]) -> torch.Tensor:
        """The attacked tensor for some windows, (window, class, spatial...), in the caller's gradient mode.

        Raises:
            TypeError, ValueError: for an answer that is no segmentation of a window.
        """
        made = self.plan.windows.predict(windows, where)
        # What is asked of it is its shape.
        whole = windows[0].new_empty(1).expand(len(where), *windows[0].shape[1:])
        picked = self._pick(pack_outputs(made, self.plan.windows.keys), whole)
        check_answer(picked, whole)
        if self.first is None:
            self.first = OutputSummary.of(picked)
        return picked

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits of what ``outputs`` has returned."""
        return self._as_logits(outputs)

    def stitched(self, look: LookAtWindows | None = None) -> Iterator[tuple[slice, tuple[slice, ...], torch.Tensor]]:
        """Samples, box and stitched output (sample, class, box) of one finished piece of the image after the other.

        Args:
            look: is shown the logits of each batch of windows.
        """
        plan = self.plan
        windows = plan.windows
        cells = [
            WindowCells(windows.slices, windows.weight, plan.image.dtype, windows.output_device)
            for _ in range(plan.image.shape[0])
        ]
        batches = self.batches()
        for number in frugal_order(batches):
            where = batches[number]
            outputs = self.outputs([plan.image[index] for index in where], where)
            if look is not None:
                look(self, where, self.logits(outputs))
            for index, window in zip(where, outputs.split(1), strict=True):
                row = index[0].start
                for place, piece in cells[row].add(index[2:], window):
                    inner, box = plan.inside(place)
                    if all(part.stop > part.start for part in inner):
                        yield slice(row, row + 1), inner, piece[(slice(None), slice(None), *box)]
            # Outputs leave holes that the next one does not fit in exactly: memalign of glibc before 2.38 asks for more
            # than it takes.
            hole = outputs.numel() * outputs.element_size()
            del outputs, window
            if hole >= LARGE_OUTPUT:
                give_back_excess(plan.image.device)
            else:
                give_back_growth(plan.image.device, max(hole, EXCESS))
