# SPDX-License-Identifier: Apache-2.0
"""Equal results from faster kernels, for the operations of a frozen network that torch is slow at on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from monai_adversarial.utils.saved_bytes import only_watched

__all__ = ["FastKernels"]


class _OneDNNConvolution(torch.autograd.Function):
    """3D convolution by oneDNN with a gradient to its input only.

    For a batch of one small volume torch chooses im2col and a matrix product, two to four times slower than the direct
    convolution that it takes for a batch of two. The gradient of a convolution with stride one is another convolution,
    with the mirrored kernel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = image.shape, (stride, padding, dilation, groups)
        return torch.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        margins = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        if groups == 1 and all(s == 1 for s in stride) and min(margins) >= 0:
            mirrored = weight.transpose(0, 1).flip(2, 3, 4).contiguous()
            found = torch.mkldnn_convolution(gradient.contiguous(), mirrored, None, margins, stride, dilation, 1)
        else:
            # Only the shape of the input counts for the gradient to it.
            shape_only, wanted = gradient.new_empty(1).expand(ctx.shape), [True, False, False]
            found = torch.ops.aten.convolution_backward(
                gradient, shape_only, weight, None, stride, padding, dilation, False, [0, 0, 0], groups, wanted
            )[0]
        return found, None, None, None, None, None, None


def _is_frozen(*tensors: torch.Tensor | None) -> bool:
    return not any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _triple(value: Any) -> list[int] | None:
    """Three integers, or None for what only torch understands ("same")."""
    if isinstance(value, int):
        return [value] * 3
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        return [int(v) for v in value]
    return None


def _convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    geometry = [_triple(stride), _triple(padding), _triple(dilation)]
    usual = (
        type(input) is torch.Tensor
        and input.ndim == 5
        and input.shape[0] == 1  # larger batches go to oneDNN anyway
        and input.device.type == "cpu"
        and input.dtype == torch.float32 == weight.dtype
        and input.shape[1] == weight.shape[1] * groups
        and all(part is not None for part in geometry)
        and _is_frozen(weight, bias)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
    return _OneDNNConvolution.apply(input, weight, bias, *geometry, groups) if usual else None


def _prelu(input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    # PReLU's backward computes the gradient to its weight even where nobody wants it; leaky ReLU is the same function
    # without it.
    if input.device.type == "cpu" and weight.numel() == 1 and weight.device.type == "cpu" and _is_frozen(weight):
        return functional.leaky_relu(input, weight.item())
    return None


def _is_watched() -> bool:
    # Activation checkpointing compares what is saved with what is saved when it calls the network again, outside this
    # context: both must use the same kernels.
    return not only_watched()


# A replacement returns None where it does not apply.
_REPLACEMENTS: dict[Callable[..., Any], Callable[..., torch.Tensor | None]] = {
    functional.conv3d: _convolution,
    functional.prelu: _prelu,
}


class FastKernels(TorchFunctionMode):
    """Context in which frozen networks on a CPU use faster kernels for some operations; everything else is untouched.

    Replaced are 3D convolutions of one float32 volume (by oneDNN: same arithmetic, another order of summation, relative
    difference of an input gradient about 3e-4 through normalization layers) and PReLU with one weight (by leaky ReLU:
    same values). Weights that require gradients, CUDA tensors, scripted modules, checkpointed parts and every other
    case keep torch's kernels. Nothing is patched: the effect ends with the context and stays in its thread.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replacement = _REPLACEMENTS.get(func)
        # torch.compile traces through this method, and generates fast kernels of its own.
        if replacement is not None and not torch.compiler.is_compiling() and not _is_watched():
            result = replacement(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)
