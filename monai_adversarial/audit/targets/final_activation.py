# SPDX-License-Identifier: Apache-2.0
"""The softmax or sigmoid that an exported graph ends in, moved out of it, so that an attack can leave it out.

Probabilities that are saturated have a gradient of zero in float32: a network would look robust that is not. A live
network's last activation is seen when it runs; inside an exported graph it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["show_activations", "split_torchscript"]


class _Split(nn.Module):
    """A TorchScript module in two parts.

    Args:
        whole: the module as loaded, which holds the weights.
        before: its graph without the last operation, called with the module's own object first.
        kind: ``"softmax"`` or ``"sigmoid"``.
    """

    def __init__(self, whole: torch.jit.ScriptModule, before: Any, kind: str) -> None:
        super().__init__()
        self.whole, self.kind = whole, kind
        # Not through setattr: it is no module of its own.
        self.__dict__["_held"] = (before,)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = self.__dict__["_held"][0](self.whole._c, image)
        return torch.sigmoid(inner) if self.kind == "sigmoid" else torch.softmax(inner, dim=1)

    def __deepcopy__(self, memo: Any) -> _Split:
        copied = _Split(copy.deepcopy(self.whole, memo), self.__dict__["_held"][0], self.kind)
        copied.training = self.training
        return copied


def split_torchscript(network: torch.jit.ScriptModule, spatial_dims: int) -> nn.Module | None:
    """The same function with its last softmax or sigmoid outside of the graph; None where the graph does not end in one
    over the channels.

    Args:
        network: with one tensor as input and one as output.
        spatial_dims: of its input.
    """
    try:
        # Choices by constant attributes, as in torch.nn.functional.softmax, become the one that is taken; weights stay
        # weights.
        whole = torch.jit._recursive.wrap_cpp_module(torch._C._freeze_module(network._c, [], True, True))
        graph = whole.graph.copy()
        outputs = list(graph.outputs())
        last = outputs[0].node()
        kinds = {"aten::sigmoid": "sigmoid", "aten::softmax": "softmax"}
        if len(outputs) != 1 or last.kind() not in kinds or len(list(graph.inputs())) != 2:
            return None
        given = list(last.inputs())
        if last.kind() == "aten::softmax" and given[1].toIValue() not in (1, -1 - spatial_dims):
            return None
        graph.eraseOutput(0)
        graph.registerOutput(given[0])
        before = torch._C._create_function_from_graph("forward", graph)
    except (RuntimeError, AttributeError):  # internals of torch, which may change
        return None
    split = _Split(whole, before, kinds[last.kind()])
    split.training = network.training
    return split


def show_activations(network: torch.fx.GraphModule) -> None:
    """Let the graph of a ``torch.export`` call ``torch.softmax`` and ``torch.sigmoid`` by their public names, by which
    they are seen when they run.

    Args:
        network: changed in place; it computes the same.
    """
    aten = torch.ops.aten
    public: dict[Any, Callable[..., Any]] = {aten.sigmoid.default: torch.sigmoid, aten.softmax.int: torch.softmax}
    for node in network.graph.nodes:
        if node.op == "call_function" and node.target in public:
            node.target = public[node.target]
    network.recompile()
