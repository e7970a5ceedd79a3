# SPDX-License-Identifier: Apache-2.0
"""Rows of numbers that are gathered from all processes, also from one that has none."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from monai.utils.dist import get_dist_device

__all__ = ["GatheredRows"]


class GatheredRows(CumulativeIterationMetric):
    """A metric of MONAI whose rows all have one shape.

    MONAI's own metrics leave out the exchange where a process has no case, and the others wait for it for ever.

    >>> import torch
    >>> from monai_adversarial.metrics.gathered_rows import GatheredRows
    >>> class Pairs(GatheredRows):
    ...     row_shape = (2,)
    ...     def _compute_tensor(self, y_pred, y=None, **options):
    ...         return y_pred
    ...     def aggregate(self):
    ...         return self.get_buffer().sum(dim=0).tolist()
    >>> pairs = Pairs()
    >>> pairs.aggregate()
    [0.0, 0.0]
    >>> _ = pairs(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> pairs.aggregate()
    [4.0, 6.0]

    Attributes:
        row_shape: of the row of a case.
    """

    row_shape: tuple[int, ...] = ()

    def _sync(self) -> None:
        if self._synced:
            return
        own = self._buffers[0] if self._buffers is not None else []
        rows = torch.stack(own).double() if own else torch.empty(0, *self.row_shape, dtype=torch.float64)
        gathered = evenly_divisible_all_gather(rows.to(get_dist_device()), concat=True)
        self._synced_tensors = [gathered.cpu()]
        self._synced = True

    def get_buffer(self) -> torch.Tensor:
        """The rows of all cases of all processes, (case, *row_shape), float64 on the CPU."""
        self._sync()
        assert self._synced_tensors is not None and self._synced_tensors[0] is not None
        return self._synced_tensors[0].clone()
