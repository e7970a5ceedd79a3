# SPDX-License-Identifier: Apache-2.0
"""Networks that compute faster where the channels of 2D images lie last in memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from monai_adversarial.utils.modules import AroundNetwork, bare_network
from monai_adversarial.utils.plain import standard_layout

__all__ = ["ChannelsLast", "takes_channels_last", "with_channels_last"]

# Rounding of float32 through a deep network is a hundredth of it; an operation that means something else in another
# layout changes answers by more.
_TOLERANCE = 1e-3

# Whether a network takes that layout. Keyed by id: not every module can be hashed.
_verdicts: dict[int, bool] = {}


def with_channels_last(network: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    """The network with its 2D images laid out channels last, where that can be tried.

    Args:
        network: what is called.
        owner: the network behind it that does the work, for which what was found is remembered.

    Returns:
        ``network`` itself where ``owner`` is no module, compiled, or has no 2D convolution.
    """
    if not isinstance(owner, nn.Module) or bare_network(owner) is not owner:
        return network
    # A scripted layer knows the name of the class that it was.
    kinds = {getattr(module, "original_name", type(module).__name__) for module in owner.modules()}
    if any(hasattr(module, "_orig_mod") for module in owner.modules()):
        return network
    return ChannelsLast(network, owner) if kinds & {"Conv2d", "ConvTranspose2d"} else network


class ChannelsLast(AroundNetwork):
    """The network; in its bfloat16 passes on a CPU, 2D images come with their channels last in memory.

    oneDNN computes convolutions in that layout; from the usual one each of them reorders its input and its output.
    Values differ by rounding alone. Image, weights and gradient keep the layout that they have, and answers come in the
    usual one.

    Some networks fail in another layout (``view`` of what a convolution gave) or mean something else (writing into what
    ``flatten`` gave). So it is tried before the first such pass (:func:`takes_channels_last`), and a network that does
    not take the layout is called as usual from then on. So is one that fails later. A network whose weights are being
    trained is always called as usual.

    Args:
        network: what is called.
        owner: the network behind it.
    """

    def __init__(self, network: Callable[..., Any], owner: nn.Module) -> None:
        super().__init__(network)
        # Not as a part of this module: it is one already.
        self._owner = weakref.ref(owner)

    def forward(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        owner = self._owner()
        if owner is None or not _would_gain(image, owner):
            return self.network(image, *args, **kwargs)
        if id(owner) not in _verdicts:
            _remember(owner, takes_channels_last(owner, image, *args, **kwargs))
        if not _verdicts[id(owner)]:
            return self.network(image, *args, **kwargs)
        generator = torch.random.get_rng_state()
        try:
            answer = self.network(_laid_out(image), *args, **kwargs)
        except Exception:
            # A way through the network that was not tried; if the layout is not to blame, this raises the same again.
            torch.random.set_rng_state(generator)
            answer = self.network(image, *args, **kwargs)
            _remember(owner, False)
            return answer
        return tree_map(_standard, answer)


def takes_channels_last(network: nn.Module, image: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether a network answers the same to an image whose channels lie last in memory.

    Two passes of a copy of it on one sample in float32; neither the network nor torch's random numbers are touched.

    Args:
        network: to be tried.
        image: (batch, channel, height, width); the first sample is used.
        *args: of the network.
        **kwargs: of the network.

    Returns:
        False also where the network cannot be copied, or does not take a single sample.

    Example:
        >>> import torch
        >>> from monai_adversarial.utils.channels_last import takes_channels_last
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
        >>> takes_channels_last(network, torch.rand(2, 3, 8, 8))
        True
    """
    batch = image.shape[0]

    def first(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        belongs = value.ndim > 0 and value.shape[0] == batch
        return (value[:1] if belongs else value).detach().clone()

    with _undisturbed(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        generator, answers = torch.random.get_rng_state(), []
        try:
            for lay in (standard_layout, _laid_out):
                # A copy for each: networks may change themselves in a pass.
                tried = _silent_copy(network)
                torch.random.set_rng_state(generator)
                given, more, named = tree_map(first, (image, args, kwargs))
                answers.append(tree_leaves(tried(lay(given.float()), *more, **named)))
        except Exception:  # whatever it is, the network is called as it always was, and raises it then
            return False
    return len(answers[0]) == len(answers[1]) and all(map(_agree, *answers))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Random numbers of the CPU are as before afterwards."""
    generator = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(generator)


def _silent_copy(network: nn.Module) -> nn.Module:
    """A copy without the hooks of those who watch the network, nor what these hold."""
    watched = [hooks for module in network.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)]
    return copy.deepcopy(network, {id(hooks): type(hooks)() for hooks in watched})


def _agree(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    difference = float((one - other).abs().max()) if one.numel() else 0.0
    return difference <= _TOLERANCE * (float(one.abs().max()) if one.numel() else 0.0)


def _would_gain(image: Any, owner: nn.Module) -> bool:
    if not (isinstance(image, torch.Tensor) and image.ndim == 4 and image.device.type == "cpu"):
        return False
    if not image.is_floating_point() or torch.compiler.is_compiling():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    weights = list(owner.parameters())
    return bool(weights) and not any(is_lazy(weight) or weight.requires_grad for weight in weights)


def _remember(network: nn.Module, takes: bool) -> None:
    if id(network) not in _verdicts:
        weakref.finalize(network, _verdicts.pop, id(network), None)
    _verdicts[id(network)] = takes


def _laid_out(image: torch.Tensor) -> torch.Tensor:
    """The image with its channels last in memory; its gradient comes back in the usual layout."""
    if image.shape[1] == 1:
        # The memory is the same. By the stride of the channels alone torch chooses the layout of what it computes.
        return standard_layout(image).view(-1, *image.shape[2:], 1).permute(0, 3, 1, 2)
    seen = image.view_as(image)
    if seen.requires_grad:
        seen.register_hook(standard_layout)
    return seen.contiguous(memory_format=torch.channels_last)


def _standard(value: Any) -> Any:
    return standard_layout(value) if isinstance(value, torch.Tensor) and value.ndim == 4 else value
