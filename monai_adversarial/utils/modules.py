# SPDX-License-Identifier: Apache-2.0
"""The networks behind a callable, and networks that hold still for a while."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from monai_adversarial.utils.interrupts import held_back_at_edges, uninterrupted_edges

__all__ = [
    "AroundNetwork",
    "bare_network",
    "describe_callable",
    "frozen",
    "held_by",
    "held_still",
    "modules_of",
    "unwrap",
]


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


def held_by(function: Any) -> Iterator[Any]:
    """The variables of a function's closure."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue


def modules_of(predict: Any) -> list[nn.Module]:
    """The networks that a callable holds: itself, a bound method's owner, arguments of a partial, variables of a
    closure, and global variables that a function names, as ``lambda image: network(image)`` does in a notebook."""
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
            for part in held_by(thing):
                visit(part, depth + 1)
            known = getattr(thing, "__globals__", {})
            for name in getattr(getattr(thing, "__code__", None), "co_names", ()):
                if isinstance(known.get(name), nn.Module):
                    visit(known[name], depth + 1)
            if not isinstance(thing, type) and hasattr(thing, "__dict__"):
                for part in vars(thing).values():
                    if isinstance(part, (nn.Module, functools.partial)) or callable(part):
                        visit(part, depth + 1)

    visit(predict, 0)
    return found


# One lock per network, so that two attacks in two threads never set its flags in turn. Keyed by id: not every module
# can be hashed.
_locks: dict[int, Any] = {}
_lock_of_locks = threading.Lock()


def _lock_of(network: nn.Module) -> Any:
    with _lock_of_locks:
        if id(network) not in _locks:
            _locks[id(network)] = threading.RLock()
            weakref.finalize(network, _locks.pop, id(network), None)
        return _locks[id(network)]


@contextmanager
def _locked(networks: list[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for network in sorted(networks, key=id):  # the same order in all threads: none waits for another in a circle
            stack.enter_context(_lock_of(network))
        yield


@uninterrupted_edges
@contextmanager
def frozen(networks: list[nn.Module]) -> Iterator[None]:
    """Evaluation mode and constant weights for a while; every module, parameter and buffer is as before afterwards,
    exceptions and interruptions included.

    Other threads that freeze one of the networks wait. A thread that trains it does not: see :func:`held_still`.
    """
    with held_back_at_edges(), _locked(networks):
        modules = [module for network in networks for module in network.modules()]
        training = [(module, module.training) for module in modules]
        parameters = [(weight, weight.requires_grad) for network in networks for weight in network.parameters()]
        buffers = [(module, dict(module._buffers.items()), _copies_of(module)) for module in modules]
        undo: list[Callable[[], Any]] = [
            *(functools.partial(setattr, module, "training", mode) for module, mode in training),
            *(functools.partial(weight.requires_grad_, needed) for weight, needed in parameters),
            *(functools.partial(_restore_buffers, *entry) for entry in buffers),
        ]
        try:
            for module in modules:
                module.training = False
            for weight, _ in parameters:
                weight.requires_grad_(False)
            yield
        finally:
            _run_all(undo)


def _copies_of(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    # Some networks update buffers in evaluation mode too: counters, normalizations of their own.
    return [
        (buffer, buffer.detach().clone())
        for buffer in module.buffers(recurse=False)
        if not (is_lazy(buffer) or buffer.is_inference())
    ]


def _restore_buffers(
    module: nn.Module, known: dict[str, torch.Tensor | None], values: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    for buffer, value in values:
        # Through .data: a graph that training built before the attack may hold this buffer at its present version.
        buffer.data.copy_(value)
    for name, present in list(module._buffers.items()):
        if name not in known:
            delattr(module, name)
        elif present is not known[name]:
            setattr(module, name, known[name])


def _run_all(actions: list[Callable[[], Any]]) -> None:
    """Run every action, also after one failed or was interrupted; then raise what happened first. Actions can be
    repeated."""
    first: BaseException | None = None
    done = tried = 0
    while done < len(actions):
        try:
            while done < len(actions):
                tried += 1
                actions[done]()
                done, tried = done + 1, 0
        except BaseException as error:
            first = first or error
            if tried > 1:  # it fails by itself
                done, tried = done + 1, 0
    if first is not None:
        raise first


@uninterrupted_edges
@contextmanager
def held_still(predict: Any) -> Iterator[Any]:
    """What to call instead of a network while it must not change: in evaluation mode, with constant weights.

    In the main thread this is the network itself, whose flags and buffers are restored afterwards. In any other thread
    it is a copy of its own, so that a training step beside it and this thread do not touch each other. That means not
    the flags, not the buffers, and not the weights, which an optimizer changes in place between a forward and a
    backward pass. What cannot be copied (a function that holds a network in its closure) is frozen in place, with a
    warning.

    Args:
        predict: a network, or a callable that holds networks.
    """
    networks = modules_of(predict)
    if networks and threading.current_thread() is not threading.main_thread():
        try:
            with _locked(networks):
                copied = _private_copy(predict, networks)
        except Exception as error:
            copied = None
            _warn_shared(predict, f"{type(error).__name__}: {error}")
        else:
            if copied is None:
                _warn_shared(predict, "its parts stay the same")
        if copied is not None:
            yield copied
            return
    with frozen(networks):
        yield predict


def _private_copy(predict: Any, networks: list[nn.Module]) -> Any:
    """A frozen copy that shares no module with the original, or None where copying did not reach them."""
    memo: dict[int, Any] = {}
    for module in (module for network in networks for module in network.modules()):
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:  # deepcopy refuses what has a graph
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(predict, memo)
    shared = {id(module) for network in networks for module in network.modules()}
    parts = [module for network in modules_of(copied) for module in network.modules()]
    if not parts or any(id(module) in shared for module in parts):
        return None
    for module in parts:
        module.training = False
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(False)
    return copied


def _warn_shared(predict: Any, reason: str) -> None:
    warnings.warn(
        f"{describe_callable(predict)} cannot be copied ({reason}), so that an attack outside the main thread works on "
        "the network itself: a training step beside it meets frozen weights. Pass the torch.nn.Module itself.",
        stacklevel=4,
    )


def describe_callable(thing: Any) -> str:
    """A short name for a network or an inferer: its class, or its qualified name for a function."""
    thing = unwrap(thing)
    return getattr(thing, "__qualname__", None) or type(thing).__name__
