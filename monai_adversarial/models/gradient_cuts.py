# SPDX-License-Identifier: Apache-2.0
"""Where an attacked function leaves the graph: what it calls there cuts the gradient, which may be meant so or not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from monai_adversarial.utils.hashing import is_of_library

__all__ = ["GradientCuts", "cuts_in_script"]

_CUTS = {
    torch.detach: "detach",
    torch.Tensor.detach: "detach",
    torch.Tensor.detach_: "detach_",
    torch.Tensor.data.__get__: "data",  # type: ignore[attr-defined]
    torch.Tensor.numpy: "numpy",
    torch.Tensor.__array__: "NumPy",
    torch.Tensor.tolist: "tolist",
    torch.Tensor.__dlpack__: "DLPack",
}
_DRAWS = {
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.randint_like,
    torch.normal, torch.bernoulli, torch.poisson, torch.multinomial, torch.Tensor.normal_, torch.Tensor.uniform_,
    torch.Tensor.random_, torch.Tensor.bernoulli_, torch.Tensor.exponential_,
}  # fmt: skip
#: holds a mode of its own, through which calls of the network go
_BETWEEN = ("monai_adversarial.models.output_values",)
#: torch's own code between a call and who makes it, such as ``__enter__`` of ``no_grad``
_ON_THE_WAY = ("torch.autograd.grad_mode", "torch.utils._contextlib", "torch._tensor", "torch.utils.dlpack")


class GradientCuts(TorchFunctionMode):
    """Watches for calls that leave the graph and were written by nobody's library: ``detach``, ``torch.no_grad``,
    NumPy, and the forward pass of an ``autograd.Function``, whose backward pass is written by hand. Networks of MONAI
    are watched too.

    Attributes:
        found: name of the first of them; empty where there was none.
        draws: whether such code drew random numbers, from whichever generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = ""
        self.draws = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.draws = self.draws or (func in _DRAWS and _is_of_somebody())
        if not self.found:
            name = _CUTS.get(func, "")
            if func is torch._C._set_grad_enabled and args and not args[0]:
                name = "no_grad"
            if not name and torch.is_inference_mode_enabled():
                name = "inference_mode"
            if not name and _is_in_function():
                name = "autograd.Function"
            if name and _is_of_somebody():
                self.found = name
        return func(*args, **(kwargs or {}))


def _is_in_function() -> bool:
    """Whether the code that made the call is the forward pass of an ``autograd.Function``."""
    frame = _first_of(sys._getframe(2), _BETWEEN)
    return frame is not None and frame.f_back is not None and _module(frame.f_back) == "torch.autograd.function"


def _is_of_somebody() -> bool:
    """Whether the code that made the call is a network or somebody else's, and not a part of torch or MONAI."""
    frame = _first_of(sys._getframe(2), _BETWEEN + _ON_THE_WAY)
    module = "" if frame is None else _module(frame)
    if frame is not None and frame.f_code.co_filename.startswith("<"):  # written in a config, which MONAI evaluates
        return True
    return module.startswith(("monai.networks.", "monai_adversarial.networks.")) or not is_of_library(module)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _first_of(frame: FrameType | None, passed: tuple[str, ...]) -> FrameType | None:
    """The first frame that is not of one of some modules."""
    while frame is not None and _module(frame) in passed:
        frame = frame.f_back
    return frame


def cuts_in_script(networks: Sequence[nn.Module]) -> str:
    """``"detach"`` where a TorchScript among the networks has one inside, which no mode can see; else empty."""
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, torch.jit.ScriptModule):
                try:
                    graph = layer.inlined_graph
                except RuntimeError:  # a submodule without a forward method
                    continue
                if graph.findNode("aten::detach") is not None:  # type: ignore[attr-defined]
                    return "detach"
                break  # what it holds is inlined
    return ""
