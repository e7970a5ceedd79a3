# SPDX-License-Identifier: Apache-2.0
"""Putting small modules behind the modules of a network that already exists."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
import torch.nn as nn

from monai_adversarial.utils.modules import frozen

__all__ = ["check_place", "find_modules", "insert_behind", "output_channels"]


def find_modules(network: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """The modules of those names (as ``network.named_modules()`` gives them), in the order of the names.

    Raises:
        ValueError: for no names, a name twice, or a name that the network does not have.
    """
    if not names:
        raise ValueError("after must name at least one module of the network, got none.")
    modules = dict(network.named_modules(remove_duplicate=False))
    modules.pop("", None)
    for name in names:
        if name not in modules:
            near = get_close_matches(str(name), modules, n=3) or list(modules)[:3]
            raise ValueError(
                f"after must hold names of modules of {type(network).__name__}, got {name!r}: did you mean "
                f"{', '.join(map(repr, near))}?"
            )
    if len({id(modules[name]) for name in names}) != len(names):
        raise ValueError(f"after must name different modules, got {names}.")
    return {name: modules[name] for name in names}


def check_place(module: nn.Module, name: str, where: str) -> None:
    """Raise ValueError when :func:`insert_behind` could not put a child of this name behind the module."""
    if name in module._modules:
        raise ValueError(f"{where} already has a block {name!r} behind it.")
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not _is_plain_sequence(module):
        raise ValueError(
            f"{where} must not be a container with a way of its own through its children, got "
            f"{type(module).__name__}: name a module inside it."
        )


def insert_behind(module: nn.Module, name: str, block: nn.Module) -> None:
    """Make ``block`` a child of ``module`` that works on the module's output; see :func:`check_place`.

    The keys of the module's own weights stay as they are, so that a trained state dict still fits (with
    ``strict=False``), and a module that is used in two places has its block in both.

    Args:
        module: its output must be one tensor.
        name: of the new child.
        block: tensor to tensor of the same shape; is moved to the module's device and takes its mode.
    """
    weight = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    module.add_module(name, block.train(module.training) if weight is None else block.train(module.training).to(weight))
    if not _is_plain_sequence(module):  # a plain sequence runs its last child last
        module.register_forward_hook(partial(_through_child, name))


def _is_plain_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _through_child(name: str, module: nn.Module, inputs: Any, output: Any) -> torch.Tensor:
    return getattr(module, name)(output)


def output_channels(network: nn.Module, modules: Mapping[str, nn.Module], example: torch.Tensor) -> dict[str, int]:
    """Channels of what each module returns, from one run of the network without gradients and in evaluation mode.

    Raises:
        ValueError: for a module that does not run, or does not return one tensor (batch, channel, spatial...).
    """
    found: dict[str, Any] = {}

    def remember(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found[name] = output

    handles = [module.register_forward_hook(partial(remember, name)) for name, module in modules.items()]
    try:
        with frozen([network]), torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    for name in modules:
        if name not in found:
            raise ValueError(f"the network does not call its module {name!r}: name another one.")
        if not isinstance(found[name], torch.Tensor) or found[name].ndim != example.ndim:
            got = tuple(found[name].shape) if isinstance(found[name], torch.Tensor) else type(found[name]).__name__
            raise ValueError(
                f"the module {name!r} must return one tensor with {example.ndim} dimensions as the example has, "
                f"got {got}."
            )
    return {name: found[name].shape[1] for name in modules}
