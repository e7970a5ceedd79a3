# SPDX-License-Identifier: Apache-2.0
"""A network whose graph is computed again piece by piece where it would not fit in memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from monai_adversarial.utils.allocator import keep_no_large_blocks
from monai_adversarial.utils.free_memory import free_bytes
from monai_adversarial.utils.modules import AroundNetwork, modules_of
from monai_adversarial.utils.operation_tape import OperationTape, Saved
from monai_adversarial.utils.recomputation import Recomputation
from monai_adversarial.utils.saved_bytes import only_watched

__all__ = ["LayerCheckpoints", "with_layer_checkpoints"]

# The rest is for gradients, for the objective, and for another process that looks at the same moment.
_SHARE_OF_FREE_MEMORY = 1 / 3
# Graphs of segmentation networks take some tens to a thousand times their input.
_CERTAINLY_SMALL = 4000


def with_layer_checkpoints(
    network: Callable[..., Any], choice: bool | None = None, known_sizes: dict[Any, float] | None = None
) -> Callable[..., Any]:
    """The network with its graph computed again where it would not fit.

    Args:
        network: what is called.
        choice: None where it would not fit, True always, False never.
        known_sizes: see :class:`LayerCheckpoints`.

    Returns:
        The network itself with False, and with None where it is a compiled or a TorchScript network, whose operations
        cannot be seen.

    Raises:
        ValueError: for True with such a network.
    """
    possible = _shows_its_operations(network)
    if choice and not possible:
        raise ValueError(
            "checkpoint_layers=True needs a network whose operations torch shows, got a compiled or a TorchScript "
            "network: leave checkpoint_layers out."
        )
    if choice is False or not possible:
        return network
    return LayerCheckpoints(network, always=bool(choice), known_sizes=known_sizes)


def _shows_its_operations(network: Any) -> bool:
    modules = [module for held in modules_of(network) for module in held.modules()]
    if isinstance(network, torch.nn.Module):
        modules += network.modules()
    return not any(
        isinstance(module, torch.jit.ScriptModule)
        or hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules
    )


class LayerCheckpoints(AroundNetwork):
    """The network; its gradients are the same to the bit, and need no more memory than there is.

    A differentiated call writes down the operations it consists of and what autograd saves of them. As soon as that is
    more than a third of the free memory, saved values are dropped, and computed again in the backward pass: see
    :class:`~monai_adversarial.utils.recomputation.Recomputation`. A graph that fits is kept as it is, and from then on
    calls are not watched. Modules are called once, with all their hooks. Random numbers are kept and not drawn again,
    and normalization in training mode counts once. What the network checkpoints by itself is left to it, and so is,
    unless ``always``, a call inside a checkpoint of an inferer's, which compares what both of its calls save.

    Values that are computed again on the first call are compared, bit by bit in effect, with what they were.

    Args:
        network: what is called; frozen, or a callable of frozen networks.
        always: compute again whatever the free memory, in the least memory that goes well: beside the gradients about
            twice that of a forward pass without a graph.
        known_sizes: bytes of the graph per input element, by arithmetic: measured on the first call, read from then on.

    Raises:
        RuntimeError: in the backward pass of the first call, where a network does not compute the same again.
    """

    def __init__(
        self, network: Callable[..., Any], always: bool = False, known_sizes: dict[Any, float] | None = None
    ) -> None:
        super().__init__(network)
        self.always = always
        self._sizes = {} if known_sizes is None else known_sizes
        self._room: float | None = None
        self._restarts: tuple[Any, frozenset[int]] = (None, frozenset())
        self._checked = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        image = next((given for given in tree_leaves((args, kwargs)) if isinstance(given, torch.Tensor)), None)
        if image is None or not (torch.is_grad_enabled() and image.requires_grad):
            return self.network(*args, **kwargs)
        if not (self.always or only_watched()):  # two calls must not be decided differently
            return self.network(*args, **kwargs)
        if self._room is None:
            free = None if self.always else free_bytes(image.device)
            self._room = 0.0 if self.always else math.inf if free is None else _SHARE_OF_FREE_MEMORY * free
        kind = _arithmetic(image)
        known = self._sizes.get(kind)
        expected = (known or _CERTAINLY_SMALL * image.element_size()) * image.numel()
        if expected <= self._room:
            return self.network(*args, **kwargs)
        if self.always or known is not None:  # memory is short
            keep_no_large_blocks(image.device)
        tape = OperationTape(
            # Known to be too large, it is not held to begin with.
            limit=self._room if known is None else 0,
            restore=_Restorer(self),
            held=self._restarts[1],
            checked=not self._checked,
        )
        with tape.recording():
            answer = self.network(*args, **kwargs)
        self._sizes[kind] = max(known or 0.0, tape.saved_bytes / image.numel())
        return answer

    @property
    def budget(self) -> float:
        """Bytes for what is held between forward and backward pass, unless the least that goes well is more."""
        return self._room or 0.0


class _Restorer:
    """Computes values of one tape again."""

    def __init__(self, layers: LayerCheckpoints) -> None:
        self.layers = layers
        self.recomputation: Recomputation | None = None

    def __call__(self, saved: Saved) -> torch.UntypedStorage:
        layers = self.layers
        if self.recomputation is None:
            # The tape holds this: a reference back would keep its memory until the next garbage collection.
            tape = weakref.proxy(saved.tape)
            self.recomputation = Recomputation(tape, layers.budget)
            operations = tape.signature()
            if operations == layers._restarts[0]:
                self.recomputation.use_held()
            else:
                layers._restarts = operations, self.recomputation.restarts_of_forward_pass()
            layers._checked = True
        return self.recomputation.restore(saved)


def _arithmetic(image: torch.Tensor) -> tuple[Any, ...]:
    device = image.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return (image.dtype, autocast)
