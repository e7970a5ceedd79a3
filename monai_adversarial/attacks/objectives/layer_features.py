# SPDX-License-Identifier: Apache-2.0
"""What named layers of a network return in its latest forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from monai_adversarial.utils.draws import InForce

__all__ = ["LayerFeatures"]

#: the features of the latest forward pass, name of the layer -> tensor, in the thread that made it
LATEST = InForce("features")
INPUT = "the network's input"


class LayerFeatures:
    """Features of one pass through a network that sees the whole image at once.

    Args:
        layers: names of layers, as in ``network.named_modules()``.
        who: the class that looks at them, for errors.

    Raises:
        ValueError: for no layers.
    """

    def __init__(self, layers: Sequence[str], who: str) -> None:
        named = isinstance(layers, Sequence) and not isinstance(layers, str)
        if not named or not layers or not all(isinstance(name, str) for name in layers):
            raise ValueError(f"layers must be a sequence of names of layers, such as ['encoder'], got {layers!r}.")
        self.names, self.who = tuple(layers), who

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Keep what the layers return in each forward pass.

        Raises:
            ValueError: for names that the networks do not have.
        """
        known = {name: module for network in networks for name, module in network.named_modules() if name}
        missing = [name for name in self.names if name not in known]
        if missing:
            some = ", ".join(map(repr, list(known)[:8]))
            raise ValueError(f"layers must be names of the network's layers such as {some}, got {missing[0]!r}.")
        with ExitStack() as stack:
            stack.enter_context(LATEST.replaced(({},)))
            for network in networks:
                stack.callback(network.register_forward_pre_hook(_keep_input).remove)
            for name in self.names:
                stack.callback(known[name].register_forward_hook(_keeper(name)).remove)
            yield

    def of(self, like: torch.Tensor) -> list[torch.Tensor]:
        """What the layers returned in the latest pass, (batch, ...) each.

        Args:
            like: (batch, channel, spatial...) of what the attack asked about; where it carries a gradient, so must the
                features.

        Raises:
            ValueError: for a network that runs in windows, and layers whose output depends on no gradient.
        """
        latest = LATEST.get()[-1]
        seen = latest.get(INPUT)
        if seen != (like.shape[0], *like.shape[2:]):
            raise ValueError(
                f"{self.who} needs a network that sees the whole image {tuple(like.shape)} in one pass, but its latest "
                f"input had batch and axes {seen}: attack one window without an inferer."
            )
        found = [latest[name] for name in self.names]
        for name, features in zip(self.names, found, strict=True):
            if like.requires_grad and not features.requires_grad:
                raise ValueError(
                    f"layers: no gradient flows from the image into the output of {name!r}, or its graph did not fit "
                    "in memory; choose another layer or a smaller image."
                )
        return found


def _keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if LATEST.get() and inputs and isinstance(inputs[0], torch.Tensor):
        LATEST.get()[-1][INPUT] = (inputs[0].shape[0], *inputs[0].shape[2:])


def _keeper(name: str) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = output[0] if isinstance(output, (tuple, list)) and output else output
        if LATEST.get():
            if not isinstance(found, torch.Tensor):
                raise ValueError(f"layers: {name!r} must return a tensor, got {type(found).__name__}.")
            LATEST.get()[-1][name] = found

    return keep
