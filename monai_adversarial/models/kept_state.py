# SPDX-License-Identifier: Apache-2.0
"""What a network keeps from one call to the next: generators of random numbers of its own, cached images and answers.

Buffers are not among it: an attack restores them. Numbers count calls, as a rule: whether the answer depends on them
shows when the same image is asked about later.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_adversarial.utils.clocks import reads_clock
from monai_adversarial.utils.counters import is_read
from monai_adversarial.utils.hashing import is_of_library
from monai_adversarial.utils.modules import held_by, modules_of

__all__ = ["KeptState"]

#: objects in objects that are looked into
DEEPEST = 4
#: tensors with more entries are told apart by their version, and not restored
MOST_ENTRIES = 1 << 22
_CONTAINERS = (dict, list, set, deque)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def _state_of(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return str(hash(generator.get_state().numpy().tobytes()))
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return repr([part.tolist() if isinstance(part, np.ndarray) else part for part in generator.get_state()])
    return str(hash(generator.getstate()))


def _holds_values(value: Any, depth: int = 0) -> bool:
    """Whether something of an image may be in it: a tensor, an array, or a container of some. Numbers count calls."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return True
    if depth > 2 or not isinstance(value, (*_CONTAINERS, tuple)):
        return False
    return any(_holds_values(one, depth + 1) for one in (value.values() if isinstance(value, Mapping) else value))


@dataclass(frozen=True)
class _Kept:
    """One attribute of an object of somebody else's."""

    owner: Any
    name: str
    value: Any
    copied: Any
    version: int

    @classmethod
    def of(cls, owner: Any, name: str, value: Any) -> _Kept:
        copied, version = value, 0
        if isinstance(value, torch.Tensor):
            version = value._version
            copied = value.detach().clone() if value.numel() <= MOST_ENTRIES and not value.is_inference() else None
        elif isinstance(value, _CONTAINERS):
            copied = copy.copy(value)
        return cls(owner, name, value, copied, version)

    def has_changed(self) -> bool:
        present = vars(self.owner).get(self.name)
        if not _holds_values(present) and not _holds_values(self.copied):
            return False
        if present is not self.value:
            return True
        if isinstance(present, torch.Tensor):
            return present._version != self.version
        return isinstance(present, _CONTAINERS) and _differ(present, self.copied)

    def can_be_emptied(self, grid: tuple[int, ...]) -> bool:
        """Whether it looks like a cache, and not like constants: a mapping whose keys are no words, a queue, or a
        tensor on the image's grid."""
        present = vars(self.owner).get(self.name)
        if isinstance(present, torch.Tensor):
            return present.ndim > len(grid) and tuple(present.shape[-len(grid) :]) == grid
        if isinstance(present, dict):
            words = all(isinstance(key, str) and key.isidentifier() for key in present)
            return bool(present) and not words and _holds_values(present)
        return isinstance(present, deque) and _holds_values(present)

    def empty(self) -> None:
        """Take out what is in it."""
        present = vars(self.owner)[self.name]
        if isinstance(present, torch.Tensor):
            setattr(self.owner, self.name, None)
        else:
            present.clear()

    def restore(self) -> None:
        value = self.value
        if isinstance(value, torch.Tensor) and value._version != self.version and self.copied is not None:
            value = self.copied.clone()
        elif isinstance(value, _CONTAINERS):
            value.clear()  # in place: a hook may hold it too
            (value.extend if isinstance(value, (list, deque)) else value.update)(self.copied)
        setattr(self.owner, self.name, value)


def _differ(present: Any, before: Any) -> bool:
    """Whether a container holds other things: compared by identity, which tensors do not mind."""
    if len(present) != len(before):
        return True
    if isinstance(present, Mapping):
        return any(key not in before or before[key] is not value for key, value in present.items())
    if isinstance(present, set):
        return present != before
    return any(one is not other for one, other in zip(present, before, strict=True))


class KeptState:
    """What a network and its inferer hold at one time.

    Args:
        things: network, inferer; anything that is called.

    Attributes:
        clocks: names of the functions whose code asks for the time, whatever it does with it.
    """

    def __init__(self, *things: Any) -> None:
        self._generators: list[tuple[Any, str]] = []
        self._kept: list[_Kept] = []
        self._owners: list[tuple[Any, frozenset[str]]] = []
        self._counts: list[tuple[Any, str, Any]] = []
        self._seen: set[int] = set()
        self.clocks: list[str] = []
        for thing in things:
            self._visit(thing, 0)
        del self._seen

    def drew_random_numbers(self) -> bool:
        """Whether a generator that is held has been used since."""
        return any(_state_of(generator) != before for generator, before in self._generators)

    def counted(self) -> list[str]:
        """Names of the numbers that are others than before and that an answer may depend on, as ``Network.calls``."""
        found = [(owner, name) for owner, name, value in self._counts if _number(owner, name) != value]
        names = {name for _, name in found}
        return [
            _name(owner, name)
            for owner, name in found
            if isinstance(owner, (type, ModuleType)) or is_read(owner, name, names)
        ]

    @contextmanager
    def counting_anew(self) -> Iterator[None]:
        """With the numbers that it began with. Afterwards they have gone on counting."""
        present = [_number(owner, name) for owner, name, _ in self._counts]
        try:
            _set_numbers(self._counts)
            yield
        finally:
            _set_numbers(
                [
                    (owner, name, before + _number(owner, name) - began)
                    for (owner, name, began), before in zip(self._counts, present, strict=True)
                    if before != began
                ]
            )

    def changed(self) -> list[str]:
        """Names of the attributes that hold something else than before, as ``Network.cache``."""
        found = [(kept.owner, kept.name) for kept in self._kept if kept.has_changed()] + self._new()
        return [_name(owner, name) for owner, name in found]

    @contextmanager
    def emptied(self, grid: tuple[int, ...]) -> Iterator[list[str]]:
        """Without what was held before the first call, as far as a network can be asked without it: the entries of
        caches, and tensors with as many voxels as the image. All is as before afterwards.

        Args:
            grid: spatial shape of the image.

        Yields:
            names of what is missing.
        """
        missing = [kept for kept in self._kept if kept.can_be_emptied(grid)]
        present = [_Kept.of(kept.owner, kept.name, vars(kept.owner)[kept.name]) for kept in missing]
        try:
            for kept in missing:
                kept.empty()
            yield [_name(kept.owner, kept.name) for kept in missing]
        finally:
            for kept in present:
                kept.restore()

    def restore(self) -> None:
        """Give the attributes that have changed what they held."""
        for kept in self._kept:
            if kept.has_changed():
                kept.restore()
        for owner, name in self._new():
            delattr(owner, name)

    def _new(self) -> list[tuple[Any, str]]:
        """Attributes that were not there before."""
        return [
            (owner, name)
            for owner, names in self._owners
            for name, value in _attributes(owner)
            if name not in names and _holds_values(value)
        ]

    def _visit(self, thing: Any, depth: int) -> None:
        if thing is None or id(thing) in self._seen or depth > DEEPEST or isinstance(thing, type):
            return
        self._seen.add(id(thing))
        if isinstance(thing, _GENERATORS):
            self._generators.append((thing, _state_of(thing)))
            return
        if isinstance(thing, (list, tuple)):
            for part in thing:
                self._visit(part, depth + 1)
            return
        if isinstance(thing, (torch.Tensor, np.ndarray, str, bytes, int, float, Mapping)):
            return
        if isinstance(thing, nn.Module):
            for module in thing.modules():
                self._seen.add(id(module))
                self._look_into(module, depth)
            return
        if isinstance(thing, FunctionType) and not is_of_library(thing.__module__):
            self._look_into_function(thing, depth)
        if callable(thing) and not hasattr(thing, "__self__"):
            for part in (*held_by(thing), *modules_of(thing)):
                self._visit(part, depth + 1)
        self._visit(getattr(thing, "__self__", None), depth + 1)
        if hasattr(thing, "__dict__"):
            self._look_into(thing, depth)

    def _look_into(self, thing: Any, depth: int) -> None:
        """The attributes of an object; of those of libraries only what is inside of them."""
        own = not is_of_library(type(thing).__module__)
        attributes = dict(_attributes(thing))
        if own:
            for kind in type(thing).__mro__:
                self._look_into_class(kind, depth)
            buffers = thing._buffers.items() if isinstance(thing, nn.Module) else ()
            both = (*attributes.items(), *buffers)
            self._counts += [(thing, name, _number(thing, name)) for name, value in both if _is_number(value)]
            self._owners.append((thing, frozenset(attributes)))
        for name, value in attributes.items():
            if own and not isinstance(value, _GENERATORS):
                self._kept.append(_Kept.of(thing, name, value))
            self._visit(value, depth + 1)

    def _look_into_class(self, kind: type, depth: int) -> None:
        """What all objects of a class share, and what its methods name."""
        if id(kind) in self._seen or is_of_library(kind.__module__) or kind is object:
            return
        self._seen.add(id(kind))
        for name, value in list(vars(kind).items()):
            if isinstance(value, FunctionType):
                self._look_into_function(value, depth)
            elif not name.startswith("__"):
                self._hold(kind, name, value, depth)

    def _look_into_function(self, function: FunctionType, depth: int) -> None:
        """The variables of its module that a function names, and whether it names a clock."""
        if reads_clock(function):
            self.clocks.append(function.__qualname__)
        module = sys.modules.get(function.__module__)
        for name in function.__code__.co_names:
            if module is not None and name in function.__globals__ and vars(module) is function.__globals__:
                self._hold(module, name, function.__globals__[name], depth)

    def _hold(self, owner: Any, name: str, value: Any, depth: int) -> None:
        """A variable that many share: a cache, a generator or a count."""
        if isinstance(value, (torch.Tensor, *_CONTAINERS)):
            self._kept.append(_Kept.of(owner, name, value))
        elif isinstance(value, _GENERATORS):
            self._visit(value, depth + 1)
        elif _is_number(value):
            self._counts.append((owner, name, value))


def _name(owner: Any, name: str) -> str:
    kind = owner.__name__ if isinstance(owner, (type, ModuleType)) else type(owner).__name__
    return f"{kind}.{name}"


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(owner: Any, name: str) -> Any:
    """What a number is now; of a tensor a copy."""
    found = getattr(owner, name, None)
    return found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found


def _set_numbers(numbers: list[tuple[Any, str, Any]]) -> None:
    for owner, name, value in numbers:
        found = getattr(owner, name, None)
        if isinstance(found, torch.Tensor):
            with torch.no_grad():
                found.fill_(value)
        elif found is not None and found != value:
            setattr(owner, name, value)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    hidden = ("_parameters", "_buffers", "_modules") if isinstance(thing, nn.Module) else ()
    yield from ((name, value) for name, value in vars(thing).items() if name not in hidden and name != "training")
