# SPDX-License-Identifier: Apache-2.0
"""What makes a training worthless and would otherwise pass in silence: NaN weights, NaN losses, ranks out of step."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from monai.utils import CommonKeys
from torch import nn

__all__ = ["check_finite_weights", "is_nan_loss", "warn_of_nan_loss", "warn_of_unequal_ranks"]


def check_finite_weights(network: Any, name: str) -> None:
    """Refuse to train a network that nothing can be learned from.

    Raises:
        ValueError: names the first weight that is NaN or infinite.
    """
    if not isinstance(network, nn.Module):
        return
    states = [(key, value) for key, value in network.state_dict().items() if isinstance(value, torch.Tensor)]
    broken = [key for key, value in states if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(
            f"{name} cannot train this network: {len(broken)} of {len(states)} weights and buffers hold NaN or "
            f"infinite values (first: {broken[0]!r})."
        )


def is_nan_loss(output: Any) -> bool:
    """Whether the loss of an iteration's output is NaN; the output may be a list of one for each sample."""
    if isinstance(output, (list, tuple)):
        return bool(output) and is_nan_loss(output[0])
    loss = output.get(CommonKeys.LOSS) if isinstance(output, dict) else None
    if isinstance(loss, float):
        return math.isnan(loss)
    return isinstance(loss, torch.Tensor) and bool(torch.isnan(loss.detach()).any())


def warn_of_nan_loss(iteration: int, name: str) -> None:
    """Say that a training has failed; it goes on, because a schedule of the user may mend it."""
    warnings.warn(
        f"{name}: the loss is NaN in iteration {iteration}, and so may be all weights from now on: check the "
        "learning rate, precision and data. Said once.",
        stacklevel=3,
    )


def warn_of_unequal_ranks(network: Any, batches: int | None, name: str) -> None:
    """Say where the processes of ``DistributedDataParallel`` have different numbers of batches: the longest waits for
    the others in its backward pass, with this handler as without it."""
    if not isinstance(network, nn.parallel.DistributedDataParallel) or batches is None:
        return
    group, device = network.process_group, next(network.parameters()).device
    ends = torch.tensor([batches, -batches], device=device)
    torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX, group=group)
    most, fewest = int(ends[0]), -int(ends[1])
    if most != fewest:
        warnings.warn(
            f"{name}: the processes have {fewest} to {most} batches in an epoch: DistributedDataParallel waits for the "
            "missing ones. Give each process as many (DistributedSampler, drop_last), or run the trainer in "
            "torch.distributed.algorithms.join.Join([network]).",
            stacklevel=3,
        )
