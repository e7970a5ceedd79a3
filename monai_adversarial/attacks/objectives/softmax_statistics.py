# SPDX-License-Identifier: Apache-2.0
"""What losses on hard labels need from softmax: one pass forward, one pass back, no one-hot volume."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

__all__ = ["SoftmaxStatistics", "class_sums", "softmax_statistics"]


class SoftmaxStatistics(NamedTuple):
    """Softmax of a batch of logits, seen from hard labels.

    Args:
        log_own: log probability of each voxel's reference class (batch, spatial...).
        totals: weighted sum of each class's probability over the voxels (batch, class); None unless asked for.
        probabilities: (batch, class, spatial...), without gradient.
        correct: boolean (batch, spatial...), the reference class has the highest logit (ties count as correct).
    """

    log_own: torch.Tensor
    totals: torch.Tensor | None
    probabilities: torch.Tensor
    correct: torch.Tensor


class _SoftmaxStatistics(torch.autograd.Function):
    """Closed-form gradient: for g the gradient of ``log_own``, h of ``totals``, w the voxel weights, p the
    probabilities and y the label, d/dz_k = p_k * (w * (h_k - sum_c h_c p_c) - g) + [k = y] * g."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, index: torch.Tensor, weight: torch.Tensor | None, totals: bool) -> Any:
        ctx.set_materialize_grads(False)
        probabilities = logits.softmax(dim=1)
        own = logits.gather(1, index.unsqueeze(1)).squeeze(1)
        highest = logits.amax(dim=1)
        correct = own == highest
        # The highest probability is 1 / sum(exp(logits - highest)): the exact log softmax without computing exp again.
        log_own = own.sub_(highest).add_(probabilities.amax(dim=1).log_())
        sums = None
        if totals:
            weighted = probabilities if weight is None else probabilities * weight.unsqueeze(1)
            sums = weighted.flatten(2).sum(dim=2)
        ctx.save_for_backward(probabilities, index, weight)
        ctx.mark_non_differentiable(probabilities, correct)
        return log_own, sums, probabilities, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, own_gradient: torch.Tensor | None, totals_gradient: torch.Tensor | None, *_: Any) -> Any:
        probabilities, index, weight = ctx.saved_tensors
        if totals_gradient is None:
            if own_gradient is None:
                return None, None, None, None
            gradient = probabilities * own_gradient.unsqueeze(1).neg()
        else:
            gradient = probabilities * totals_gradient.view(*totals_gradient.shape, *([1] * (index.ndim - 1)))
            common = gradient.sum(dim=1)
            if weight is not None:
                gradient.mul_(weight.unsqueeze(1))
                common.mul_(weight)
            if own_gradient is not None:
                common.add_(own_gradient)
            gradient.addcmul_(probabilities, common.unsqueeze(1), value=-1)
        if own_gradient is not None:
            gradient.scatter_add_(1, index.unsqueeze(1), own_gradient.unsqueeze(1))
        return gradient, None, None, None


def softmax_statistics(
    logits: torch.Tensor, index: torch.Tensor, weight: torch.Tensor | None = None, totals: bool = False
) -> SoftmaxStatistics:
    """Softmax probabilities as losses on hard labels need them.

    Args:
        logits: (batch, class, spatial...).
        index: class indices (batch, spatial...), int64.
        weight: voxel weights (batch, spatial...) for ``totals``, constants in the logits' dtype; None for all ones.
        totals: also sum each class's probability over the voxels.
    """
    return SoftmaxStatistics(*_SoftmaxStatistics.apply(logits, index, weight, totals))


def _sums_in_order(values: torch.Tensor, index: torch.Tensor, classes: int) -> torch.Tensor:
    """For the CPU: one voxel after the other, where float64 keeps the sum of millions of them exact to float32."""
    sums = torch.zeros(values.shape[0], classes, dtype=torch.float64)
    return sums.scatter_add_(1, index.flatten(1), values.flatten(1).double()).to(values.dtype)


def _sums_by_class(values: torch.Tensor, index: torch.Tensor, classes: int) -> torch.Tensor:
    """For GPUs, where scatter_add adds in an order that changes from run to run."""
    parts = [torch.where(index == number, values, 0).flatten(1).sum(dim=1) for number in range(classes)]
    return torch.stack(parts, dim=1)


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, index: torch.Tensor, classes: int) -> torch.Tensor:
        ctx.save_for_backward(index)
        return (_sums_in_order if values.device.type == "cpu" else _sums_by_class)(values, index, classes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return gradient.gather(1, index.flatten(1)).view(index.shape), None, None


def class_sums(values: torch.Tensor, index: torch.Tensor, classes: int) -> torch.Tensor:
    """Sum ``values`` over the voxels of each class of ``index``, both (batch, spatial...): (batch, class).

    Deterministic on every device.
    """
    return _ClassSums.apply(values, index, classes)
