# SPDX-License-Identifier: Apache-2.0
"""The arithmetic in which a network is attacked."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_adversarial.utils.fast_kernels import FastKernels
from monai_adversarial.utils.modules import AroundNetwork

__all__ = ["FLOAT16_LOSS_SCALE", "FLOAT32_LOSS_SCALE", "PRECISIONS", "Precision", "has_native_bfloat16"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

# Input gradients of a mean over a volume are about 1e-7, hardly above float16's smallest number; 65536 times as much is
# well inside its range.
FLOAT16_LOSS_SCALE = 65536.0

# Sharp objectives have gradients down to float32's smallest numbers, and CPUs multiply subnormal ones many times more
# slowly. A power of two changes no bit of the others. bfloat16 hardware takes subnormal numbers for zero.
FLOAT32_LOSS_SCALE = 2.0**40


def has_native_bfloat16(device: torch.device | str) -> bool:
    """Whether ``device`` multiplies bfloat16 numbers in hardware, so that bfloat16 is faster than float32 there."""
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Without these instructions oneDNN emulates bfloat16, slower than float32.
        if not torch.backends.mkldnn.is_available():
            return False
        if _supports("_is_amx_tile_supported"):
            return True
        # Intel's without tiles are half as slow again in bfloat16 as in float32 (benchmarks/NOTES.md), AMD's are not.
        return _supports("_is_avx512_bf16_supported") and not _is_intel()
    return False


def _supports(check: str) -> bool:
    return bool(getattr(torch.cpu, check, lambda: False)())


@functools.cache
def _is_intel() -> bool:
    """Whether the maker of this machine's CPU is Intel, as far as the system tells."""
    facts = Path("/proc/cpuinfo")
    return "GenuineIntel" in (facts.read_text(encoding="utf-8") if facts.is_file() else platform.processor())


class Precision:
    """Runs the network of an attack in a chosen arithmetic; perturbation and objective stay in the image's type.

    Weights are never changed: lower precision means ``torch.autocast``. Images in float64 run in float64 in every mode,
    without autocast.

    - ``"auto"``: the fastest that leaves the attack as strong: bfloat16 on hardware that has it, else float32 with fast
      kernels.
    - ``"float32"``: float32 with torch's own kernels, the reference.
    - ``"bfloat16"``: bfloat16 autocast: 8 bits of mantissa, the range of float32.
    - ``"float16"``: float16 autocast: 11 bits of mantissa, a small range, hence ``loss_scale``.

    Usage::

        precision = Precision("auto", image)
        with precision.autocast():
            logits = network(image)
        total = objective(logits.float()) * precision.loss_scale
        gradient = torch.autograd.grad(total, image)[0] / precision.loss_scale

    Args:
        mode: one of ``PRECISIONS``.
        image: the attacked batch (its device and type count), or a device.
        fast_kernels: on a CPU, outside float32 mode, use equal but faster kernels for the operations that torch is slow
            at in a batch of one (see :class:`~monai_adversarial.utils.fast_kernels.FastKernels`). False for networks
            run through ``torch.compile``.

    Attributes:
        dtype: in which convolutions are computed.
        loss_scale: constant to multiply the objective with before the backward pass and to divide the gradient by
            afterwards; a power of two, 1 except in float16 and in float32 with fast kernels.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(
        self, mode: str = "auto", image: torch.Tensor | torch.device | str = "cpu", fast_kernels: bool = True
    ) -> None:
        if mode not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(repr(p) for p in PRECISIONS)}, got {mode!r}.")
        self.device = image.device if isinstance(image, torch.Tensor) else torch.device(image)
        self.mode = mode
        if isinstance(image, torch.Tensor) and image.dtype == torch.float64:
            self.dtype = torch.float64
        elif mode == "auto":
            self.dtype = torch.bfloat16 if has_native_bfloat16(self.device) else torch.float32
        else:
            self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[mode]
        # "float32" promises torch's own kernels, bit for bit; float64 is for checks.
        self.fast_kernels = (
            fast_kernels and self.device.type == "cpu" and mode != "float32" and self.dtype != torch.float64
        )
        scales = {torch.float16: FLOAT16_LOSS_SCALE, torch.float32: FLOAT32_LOSS_SCALE if self.fast_kernels else 1.0}
        self.loss_scale = scales.get(self.dtype, 1.0)

    @property
    def is_reduced(self) -> bool:
        """Whether the network computes in fewer bits than float32."""
        return self.dtype in (torch.bfloat16, torch.float16)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Context for the forward pass; the backward pass follows by itself. Overrides an autocast outside."""
        with contextlib.ExitStack() as stack:
            if self.is_reduced:
                stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
            else:
                stack.enter_context(torch.autocast(self.device.type, enabled=False))
            if self.fast_kernels:
                stack.enter_context(FastKernels())
            yield

    def wrap(self, network: Callable[..., Any]) -> nn.Module:
        """The network with :py:meth:`autocast` around each of its calls, also where an inferer calls it again later."""
        return _NetworkInPrecision(network, self)

    def __repr__(self) -> str:
        return f"Precision({self.mode!r}, {str(self.device)!r}): {str(self.dtype).removeprefix('torch.')}"

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


class _NetworkInPrecision(AroundNetwork):
    def __init__(self, network: Callable[..., Any], precision: Precision) -> None:
        super().__init__(network)
        self.precision = precision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision.autocast():
            return self.network(*args, **kwargs)
