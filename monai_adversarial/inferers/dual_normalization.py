# SPDX-License-Identifier: Apache-2.0
"""Inference with one of the two normalizations of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from monai_adversarial.inferers.memory_bounded import memory_bounded
from monai_adversarial.networks.dual_normalization import NORMALIZATION_DOMAINS, has_dual_normalization, normalization
from monai_adversarial.utils.validation import check_choice

__all__ = ["DualNormalizationInferer"]


class DualNormalizationInferer(Inferer):
    """Runs another inferer with the network's :class:`~monai_adversarial.networks.DualNormalization` layers in one
    domain; afterwards they are as before.

    Two of these, on clean and on adversarial images, fill the four cells normalization x input. The domain is set
    around every single call of the network, so that the gradient is exact also through inferers that call it again in
    the backward pass. Only a network that itself computes activations again (``torch.utils.checkpoint``) needs
    ``with normalization(network, domain):`` around the whole attack.

    >>> import torch
    >>> from monai_adversarial.inferers import DualNormalizationInferer
    >>> from monai_adversarial.networks import convert_dual_normalization
    >>> network = convert_dual_normalization(torch.nn.Sequential(torch.nn.BatchNorm3d(1))).eval()
    >>> network[0].adversarial.bias.data += 1
    >>> image = torch.rand(1, 1, 4, 4, 4)
    >>> clean, robust = (DualNormalizationInferer(domain=domain)(image, network) for domain in ("clean", "adversarial"))
    >>> torch.allclose(robust - clean, torch.ones(1))
    True

    Args:
        inferer: called as ``inferer(image, network)``; None for :py:class:`monai.inferers.SimpleInferer`. In an attack,
            a plain ``SlidingWindowInferer`` is replaced by its memory-bounded equal.
        domain: ``"clean"``, ``"adversarial"``, or ``"split"`` (first half of the batch clean, second adversarial).

    Raises:
        ValueError: for another ``domain``, and in a call, for a network without dual normalization.
    """

    def __init__(self, inferer: Callable[..., Any] | None = None, domain: str = "clean") -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.domain = check_choice("domain", domain, NORMALIZATION_DOMAINS)

    @property
    def is_bound(self) -> bool:
        """Whether the inner inferer knows the batch that it will be given."""
        return bool(getattr(self.inferer, "is_bound", False))

    def for_image(self, image: torch.Tensor) -> DualNormalizationInferer:
        """A copy for attacks on ``image``: its inner inferer knows the grid, and needs the memory of one window.

        Args:
            image: clean batch (batch, channel, spatial...).
        """
        inner = self.inferer.for_image(image) if hasattr(self.inferer, "for_image") else self.inferer
        return self._around(memory_bounded(inner))

    def for_samples(self, indices: Sequence[int]) -> DualNormalizationInferer:
        """A copy that takes some samples of the batch it is bound to."""
        inner = self.inferer
        return self._around(inner.for_samples(indices) if hasattr(inner, "for_samples") else inner)

    def _around(self, inner: Callable[..., Any]) -> DualNormalizationInferer:
        made = copy.copy(self)
        made.inferer = inner
        return made

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Outputs of the inner inferer, whose network works in the domain.

        Args:
            inputs: (batch, channel, spatial...), tensor or ``MetaTensor``.
            network: a network with dual normalization, or a callable that holds one.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.
        """
        if not has_dual_normalization(network):
            raise ValueError(
                f"normalization {self.domain!r} needs a network with dual normalization, got one without: call "
                "convert_dual_normalization(network) first."
            )
        return self.inferer(inputs, _NetworkInDomain(network, self.domain), *args, **kwargs)


class _NetworkInDomain(nn.Module):
    def __init__(self, network: Callable[..., Any], domain: str) -> None:
        super().__init__()
        self.network, self.domain = network, domain
        # Only its own flag: eval() would reach the network.
        self.training = isinstance(network, nn.Module) and network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with normalization(self.network, self.domain):
            return self.network(*args, **kwargs)
