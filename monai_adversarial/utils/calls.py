# SPDX-License-Identifier: Apache-2.0
"""Objects whose ``repr`` is the call that makes them again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["ShownAsCall", "shown"]

MOST_NUMBERS = 64


def shown(value: Any) -> str:
    """A value as Python source in one line: numbers of NumPy and torch as plain ones, infinity and NaN as calls of
    ``float``; networks and large arrays, which are no source, in angle brackets."""
    if isinstance(value, torch.nn.Module):
        return f"<{type(value).__name__}>"
    if isinstance(value, (np.ndarray, torch.Tensor)) and math.prod(value.shape) > MOST_NUMBERS:
        return f"<{type(value).__name__} {tuple(value.shape)}>"
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(key)}: {shown(part)}" for key, part in value.items()) + "}"
    if type(value) is list:
        return f"[{', '.join(map(shown, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(shown, value))}{',' if len(value) == 1 else ''})"
    return " ".join(repr(value).split("\n"))


class _SignatureOfInit:
    """The signature of a class that is made with ``__init__``, although ``__new__`` takes anything."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:  # calls of an object are another question
            raise AttributeError("__signature__")
        make = inspect.getattr_static(owner, "__init__")
        if make is object.__init__:
            return inspect.Signature()
        return inspect.Signature(list(inspect.signature(make).parameters.values())[1:])


class ShownAsCall:
    """Remembers what an object was made with, so that its ``repr`` is a call that makes an equal one."""

    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    #: name all arguments, those that were left out too
    _shows_defaults = False
    #: calls of methods that made this object from another one
    _afterwards: tuple[str, ...] = ()
    __signature__ = _SignatureOfInit()

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Remember the arguments."""
        made = super().__new__(cls)
        made._given = (args, options)
        return made

    def __repr__(self) -> str:
        args, options = self._given
        if self._shows_defaults:
            bound = inspect.signature(type(self).__init__).bind(self, *args, **options)
            bound.apply_defaults()
            args, options = (), dict(list(bound.arguments.items())[1:])
            for name, parameter in inspect.signature(type(self).__init__).parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    options |= options.pop(name)
                elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                    args = options.pop(name)
        parts = [shown(value) for value in args] + [f"{name}={shown(value)}" for name, value in options.items()]
        return f"{type(self).__name__}({', '.join(parts)}){''.join(self._afterwards)}"
