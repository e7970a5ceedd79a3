# SPDX-License-Identifier: Apache-2.0
"""The networks behind a callable, and networks that hold still for a while."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["AroundNetwork", "bare_network", "describe_callable", "frozen", "modules_of", "unwrap"]


class AroundNetwork(nn.Module):
    """A module that stands for a network: inferers find the network's own attributes on it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        # Only its own flag: eval() would reach the network.
        self.training = isinstance(network, nn.Module) and network.training

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if name in modules:
            return modules[name]
        network = self.__dict__.get("network", modules.get("network"))
        if network is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(network, name)


def unwrap(predict: Any) -> Any:
    """The network inside ``DistributedDataParallel`` / ``DataParallel``: attack steps must not trigger their
    communication."""
    if isinstance(predict, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return predict.module
    return predict


def bare_network(network: Any) -> Any:
    """The network without ``DistributedDataParallel`` and ``torch.compile``."""
    inner = unwrap(network)
    inner = getattr(inner, "_orig_mod", inner)
    return inner if inner is network else bare_network(inner)


def modules_of(predict: Any) -> list[nn.Module]:
    """The networks that a callable holds: itself, a bound method's owner, arguments of a partial, variables of a
    closure."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(thing: Any, depth: int) -> None:
        if id(thing) in seen or depth > 4:
            return
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found.append(thing)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                visit(part, depth + 1)
        elif isinstance(thing, (list, tuple)):
            for part in thing:
                visit(part, depth + 1)
        elif callable(thing):
            if getattr(thing, "__self__", None) is not None:
                visit(thing.__self__, depth + 1)
            for cell in getattr(thing, "__closure__", None) or ():
                try:
                    visit(cell.cell_contents, depth + 1)
                except ValueError:  # a cell that is not filled yet
                    continue
            if not isinstance(thing, type) and hasattr(thing, "__dict__"):
                for part in vars(thing).values():
                    if isinstance(part, (nn.Module, functools.partial)) or callable(part):
                        visit(part, depth + 1)

    visit(predict, 0)
    return found


@contextmanager
def frozen(networks: list[nn.Module]) -> Iterator[None]:
    """Evaluation mode and constant weights for a while; every module and parameter is as before afterwards, exceptions
    included."""
    modules = [module for network in networks for module in network.modules()]
    training = [(module, module.training) for module in modules]
    parameters = [(weight, weight.requires_grad) for network in networks for weight in network.parameters()]
    try:
        for module, _ in training:
            module.training = False
        for weight, _ in parameters:
            weight.requires_grad_(False)
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for weight, needed in parameters:
            weight.requires_grad_(needed)


def describe_callable(thing: Any) -> str:
    """A short name for a network or an inferer: its class, or its qualified name for a function."""
    thing = unwrap(thing)
    return getattr(thing, "__qualname__", None) or type(thing).__name__
