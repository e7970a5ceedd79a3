# SPDX-License-Identifier: Apache-2.0
"""A network that answers and does nothing else: float32 in and out, every query counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_adversarial.audit.targets.network_call import batches_of, joined, pick_output, shapes_of
from monai_adversarial.utils.plain import as_plain

__all__ = ["QueriedNetwork"]


class _Counter:
    """Calls and samples that were answered, over all threads."""

    def __init__(self) -> None:
        self.calls = self.samples = 0
        self._lock = threading.Lock()

    def add(self, samples: int) -> None:
        with self._lock:
            self.calls += 1
            self.samples += samples


class QueriedNetwork(nn.Module):
    """Any callable as a network that is attacked by queries alone.

    Whatever precision and device an attack works in, the callable gets float32: a contiguous NumPy array in host memory
    with ``takes="numpy"``, or a tensor on the image's device with ``takes="torch"``, (batch, channel, spatial...). Its
    answer (array or tensor, or several of them) comes back on the image's device in the image's floating point type,
    without a graph.

    Args:
        function: the callable. It must answer the same to the same image, also when called from several threads.
        takes: ``"numpy"`` (default) or ``"torch"``.
        name: of the callable, for sentences and reports.
        identity: SHA-256 in hexadecimal of what decides its answers, as far as it is known: a part of the network's
            state, so that records of another network are not taken for those of this one.
        output: index or name of the attacked output; None for a callable that returns one.
        batch: samples that each call must have; None for any number.
        most: samples that a call may have at most; None for any number.

    Attributes:
        calls: calls of the callable that were answered.
        samples: samples in them that were asked for: the number of queries.
    """

    identity: torch.Tensor
    function: Callable[..., Any]

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        takes: str = "numpy",
        name: str = "the callable",
        identity: str = "",
        output: int | str | None = None,
        batch: int | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.takes, self.name, self.output = takes, name, output
        self.batch, self.most = batch, most
        self._counter = _Counter()
        self.register_buffer("identity", torch.tensor(list(identity.encode()), dtype=torch.uint8))

    @property
    def calls(self) -> int:
        """Calls that were answered."""
        return self._counter.calls

    @property
    def samples(self) -> int:
        """Samples that were answered."""
        return self._counter.samples

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to (batch, class, spatial...).

        Raises:
            ValueError: for an answer of another number of samples or another grid.
        """
        plain = as_plain(image).detach()
        with torch.no_grad(), torch.autocast(plain.device.type, enabled=False):
            batches = batches_of(plain.float(), self.batch or self.most, exactly=self.batch is not None)
            answer = joined([self._ask(part, wanted) for part, wanted in batches])
        return answer.to(plain.dtype) if answer.is_floating_point() else answer

    def raw(self, image: torch.Tensor, wanted: int | None = None) -> Any:
        """All that the callable returns for a batch that it takes, as tensors on the image's device.

        Args:
            image: (batch, channel, spatial...).
            wanted: samples that are counted; None for all of them.
        """
        image = as_plain(image).detach()
        # A copy: a callable may change what it is given in place.
        given = image.clone() if self.takes == "torch" else np.array(image.cpu().numpy(), dtype=np.float32, order="C")
        answer = self.function(given)
        self._counter.add(len(image) if wanted is None else wanted)
        if isinstance(answer, Mapping):
            return {key: _as_tensor(value, image) for key, value in answer.items()}
        if isinstance(answer, (list, tuple)):
            return [_as_tensor(value, image) for value in answer]
        return _as_tensor(answer, image)

    def _ask(self, image: torch.Tensor, wanted: int) -> torch.Tensor:
        answer, _ = pick_output(self.raw(image, wanted), image, self.output)
        if not isinstance(answer, torch.Tensor):
            raise ValueError(f"{self.name} returns {shapes_of(answer)}, expected an array (batch, class, spatial...).")
        if answer.ndim != image.ndim or len(answer) != len(image) or answer.shape[2:] != image.shape[2:]:
            raise ValueError(
                f"{self.name} returns {tuple(answer.shape)} for images {tuple(image.shape)}, expected (batch, class, "
                "spatial...) on their grid."
            )
        return answer[:wanted]

    def __deepcopy__(self, memo: Any) -> QueriedNetwork:
        """Another module around the same callable and counter: sessions and connections cannot be copied."""
        copied = QueriedNetwork(
            self.function,
            takes=self.takes,
            name=self.name,
            output=self.output,
            batch=self.batch,
            most=self.most,
        )
        copied.identity = self.identity.clone()
        copied._counter = self._counter
        copied.training = self.training
        return copied


def _as_tensor(value: Any, image: torch.Tensor) -> Any:
    # A callable may hand out its own memory and fill it again the next time.
    if isinstance(value, np.ndarray):
        value = torch.tensor(value)
    if not isinstance(value, torch.Tensor):
        return value
    value = as_plain(value).detach().to(image.device)
    return value.float() if value.is_floating_point() else value
