# SPDX-License-Identifier: Apache-2.0
"""A network that counts how often it is asked, and refuses when it must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from monai_adversarial.utils.validation import check_count

__all__ = ["TransferOracle"]


class _Count:
    """Numbers that copies of an oracle share: threads attack copies of a network."""

    def __init__(self) -> None:
        self.calls, self.closed = 0, 0

    def __deepcopy__(self, memo: Any) -> _Count:
        return self


class TransferOracle(nn.Module):
    """A target around a network: counts the samples that it is asked about, and proves that an attack never asks.

    Source: the restricted black-box setting of Dong et al. 2023; the interface is ours.

    Survey entry: A20 (own).

    Args:
        network: what answers.
        limit: samples that it answers at most; one more raises. None for any number.

    Attributes:
        calls: samples that it was asked about so far.

    Raises:
        RuntimeError: when it is asked while it is closed, or beyond the limit.

    Example:
        >>> from monai_adversarial.attacks import MIFGSM, SurrogateGradient
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.models import AttackedModel, TransferOracle
        >>> (model, image, label), (surrogate, _, _) = example_case(), example_case()
        >>> oracle = TransferOracle(model.network)
        >>> target = AttackedModel(oracle, intensity=model.intensity, image_units="HU")
        >>> attack = MIFGSM(16, units="HU", steps=2, gradient=SurrogateGradient(surrogate))
        >>> with oracle.closed():
        ...     made = attack.perturb(target, image, label)
        >>> oracle.calls
        0
    """

    def __init__(self, network: Callable[..., Any], limit: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.limit = None if limit is None else check_count("limit", limit, minimum=0)
        self._count = _Count()

    @property
    def calls(self) -> int:
        """Samples that it was asked about so far."""
        return self._count.calls

    @contextmanager
    def closed(self) -> Iterator[None]:
        """While it must not be asked."""
        self._count.closed += 1
        try:
            yield
        finally:
            self._count.closed -= 1

    def forward(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's answer.

        Args:
            image: (batch, channel, spatial...), and whatever else the network takes.
        """
        if self._count.closed:
            raise RuntimeError("the target was asked while it was closed: an attack without queries must not ask it.")
        self._count.calls += int(image.shape[0])
        if self.limit is not None and self._count.calls > self.limit:
            raise RuntimeError(f"the target was asked about {self._count.calls} samples, more than limit={self.limit}.")
        return self.network(image, *args, **kwargs)
