# SPDX-License-Identifier: Apache-2.0
"""Which windows' graphs are kept from the forward pass, instead of computed again in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from monai_adversarial.utils.free_memory import allocated_bytes, free_bytes
from monai_adversarial.utils.saved_bytes import SavedBytes

if TYPE_CHECKING:
    from monai_adversarial.inferers.window_pass import Index, Outputs, WindowPass

__all__ = ["KeptWindows", "window_leaves"]

# Two processes of one machine that look at the same moment take two thirds together, and leave one.
_SHARE_OF_FREE_MEMORY = 1 / 3
# Stitched logits, the objective's softmax and gradient, and what is computed on the way: they come later, and go first.
_VOLUMES_OF_AN_OBJECTIVE = 6


def window_leaves(image: torch.Tensor, where: list[Index]) -> list[torch.Tensor]:
    """Windows of an image, each a leaf of a graph of its own."""
    return [image[index].detach().requires_grad_() for index in where]


class KeptWindows:
    """Runs windows, with a graph that is kept as long as a memory budget lasts.

    The last batch of windows is kept whatever the budget: its graph is the only one in memory when the backward pass
    begins, which takes it first, and needs as much memory for each batch that it computes again. What a batch costs is
    measured on the first: bytes that autograd saves, or that were allocated and not given back, whichever is more
    (activation checkpointing inside the network hides what it keeps from autograd).

    Args:
        windows: what is run.
        image: the volume (B, C, spatial).
        module: the module behind the network, None where it is not known.
        budget: bytes for graphs besides the last; None to take a share of the memory that is free once the first batch
            has run. A network in training mode counts each pass in its normalization layers: there None means 0, so
            that the machine does not decide what they count.
    """

    def __init__(
        self, windows: WindowPass, image: torch.Tensor, module: torch.nn.Module | None, budget: float | None
    ) -> None:
        self.windows, self.image, self.module = windows, image, module
        self.last = len(windows.batches(image.shape[0])) - 1
        trains = module is None or any(part.training for part in module.modules())
        self.chosen_by_memory = budget is None and not trains
        self.remaining = budget or 0.0
        self.cost: int | None = None
        self.keeps_last = True
        self._graphs: dict[int, tuple[list[torch.Tensor], Outputs]] = {}

    def run(self, number: int, where: list[Index]) -> Outputs:
        """Outputs of batch ``number`` of windows, without a graph; where it fits, the graph is kept."""
        if not self._may_be_kept(number):
            return self.windows.predict([self.image[index] for index in where], where)
        measures = self.cost is None and number != self.last
        leaves = window_leaves(self.image, where)
        saved = SavedBytes(self._there_anyway() if measures else ())
        before = allocated_bytes(self.windows.window_device) if measures else None
        with torch.enable_grad(), saved.watching() if measures else nullcontext():
            outputs = self.windows.predict(leaves, where)
        if measures:
            self._measure(saved, before, outputs)
        if number == self.last:
            self._graphs[number] = leaves, outputs
        elif self.cost is not None and self.cost <= self.remaining:
            self.remaining -= self.cost
            self._graphs[number] = leaves, outputs
        return [output.detach() for output in outputs]

    def pop(self, number: int) -> tuple[list[torch.Tensor], Outputs] | None:
        """Leaves and outputs of a batch whose graph was kept. A graph serves once."""
        return self._graphs.pop(number, None)

    def __contains__(self, number: int) -> bool:
        return number in self._graphs

    def _may_be_kept(self, number: int) -> bool:
        if number == self.last:
            return self.keeps_last
        if self.cost is None:
            return self.chosen_by_memory or self.remaining > 0
        return self.cost <= self.remaining

    def _there_anyway(self) -> list[torch.Tensor]:
        module = self.module
        return [self.image] if module is None else [self.image, *module.parameters(), *module.buffers()]

    def _measure(self, saved: SavedBytes, before: int | None, outputs: Outputs) -> None:
        device = self.windows.window_device
        for output in outputs:
            saved.add(output)
        now = None if before is None else allocated_bytes(device)
        self.cost = saved.total if now is None or before is None else max(saved.total, now - before)
        free = free_bytes(device) if self.chosen_by_memory else None
        if free is not None:
            later = _VOLUMES_OF_AN_OBJECTIVE * self._stitched_bytes(outputs)
            self.remaining = _SHARE_OF_FREE_MEMORY * (free + self.cost - later)
            # The one case in which the last graph does cost: beside it the objective's volumes do not fit.
            self.keeps_last = free >= later

    def _stitched_bytes(self, outputs: Sequence[torch.Tensor]) -> float:
        """Size of the stitched outputs, as far as they compete with the windows for memory."""
        windows, batch = self.windows, self.image.shape[0]
        if windows.output_device != windows.window_device:
            return 0.0
        windows_of_volume = math.prod(self.image.shape[2:]) / math.prod(windows.window_size)
        return sum(output[:1].numel() * self.image.element_size() for output in outputs) * windows_of_volume * batch
