# SPDX-License-Identifier: Apache-2.0
"""A second derivative for activations that have none: what a gradient of a gradient needs to be of use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["RoundedKinks"]

_TINY = 1e-12


class _Step(torch.autograd.Function):
    """1 above 0, else 0, with the derivative of a sigmoid."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(value, width)
        return (value > 0).to(value)

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        value, width = ctx.saved_tensors
        risen = (value / width).sigmoid()
        return above * risen * (1 - risen) / width, None


class _Rectified(torch.autograd.Function):
    """The activation and its slope to the bit; the slope's own derivative is that of the rounded step."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, below: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(value, below, width)
        return torch.where(value > 0, value, below * value)

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        value, below, width = ctx.saved_tensors
        return above * (below + (1 - below) * _Step.apply(value, width)), None, None


class RoundedKinks(TorchFunctionMode):
    """Context in which ReLU, LeakyReLU and PReLU can be differentiated twice; values and first derivatives stay.

    A network of such activations and of layers that are linear is linear around nearly every image: the gradient of its
    logits does not change with the image, and the gradient of that gradient is zero. An attacker who wants another
    saliency map would not know where to go. Here the step in the slope rises over some width.

    >>> import torch
    >>> from monai_adversarial.utils.kinks import RoundedKinks
    >>> def second(x):
    ...     (slope,) = torch.autograd.grad(torch.relu(x).square().sum() / 2 + torch.relu(x).sum(), x, create_graph=True)
    ...     return torch.autograd.grad(slope.sum(), x)[0]
    >>> x = torch.tensor([[-0.1, 0.2]], requires_grad=True)
    >>> second(x).tolist()  # of the square alone
    [[0.0, 1.0]]
    >>> with RoundedKinks():
    ...     bool((second(x) > torch.tensor([[0.0, 1.0]])).all())
    True

    Args:
        width: over which the slope rises, in standard deviations of what the activation is given, for each sample
            apart.

    Source: Dombrowski et al., Explanations Can Be Manipulated and Geometry Is to Blame, NeurIPS 2019, attack saliency
    maps of a network whose ReLU are softplus. Here its value and its saliency stay those of the real network.
    """

    def __init__(self, width: float = 0.25) -> None:
        super().__init__()
        self.width = width

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        slope = _SLOPES.get(func)
        if slope is None:
            return func(*args, **kwargs)
        value = args[0] if args else kwargs["input"]
        below = slope(value, *args[1:], **{name: one for name, one in kwargs.items() if name != "input"})
        spread = value.detach().flatten(1).std(dim=1).clamp_min(_TINY)
        width = self.width * spread.view(-1, *[1] * (value.ndim - 1))
        return _Rectified.apply(value, below, width)


def _of_relu(value: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return value.new_zeros(())


def _of_leaky_relu(value: torch.Tensor, negative_slope: float = 0.01, inplace: bool = False) -> torch.Tensor:
    return value.new_tensor(negative_slope)


def _of_prelu(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    known = weight.detach()
    return known if known.numel() == 1 else known.view(1, -1, *[1] * (value.ndim - 2))


#: function -> its slope below 0
_SLOPES: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    functional.relu: _of_relu,
    torch.relu: _of_relu,
    torch.Tensor.relu: _of_relu,
    functional.leaky_relu: _of_leaky_relu,
    functional.prelu: _of_prelu,
    torch.prelu: _of_prelu,
}
