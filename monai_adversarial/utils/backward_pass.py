# SPDX-License-Identifier: Apache-2.0
"""Which backward pass the attacker uses for operations that it cannot, or does not want to, differentiate exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from monai_adversarial.utils.draws import DRAWS, InForce

__all__ = [
    "GRADIENT_KINDS",
    "SUBSTITUTES",
    "NoOwnGradient",
    "backward_pass",
    "call_with_backward_pass",
    "differentiate",
    "in_force",
    "in_force_again",
]

#: how an operation says it is to be attacked
GRADIENT_KINDS = ("exact", "straight_through", "surrogate")
#: the backward pass that each of them declares
DECLARED = {"exact": "exact", "straight_through": "identity", "surrogate": "surrogate"}
#: what an attacker may choose
SUBSTITUTES = ("declared", "identity", "surrogate", "exact")

BACKWARD_PASSES = InForce("backward_passes")


@contextmanager
def backward_pass(substitute: str) -> Iterator[None]:
    """Choose the backward pass of all substitutable operations for a while, in this thread; see
    ``BackwardPassSubstitute``."""
    with BACKWARD_PASSES.replaced((substitute,)):
        yield


@contextmanager
def in_force_again(known: tuple[tuple[Any, ...], ...]) -> Iterator[None]:
    """Draw and backward pass as they were when :func:`in_force` was asked, for a forward pass that is repeated."""
    with DRAWS.replaced(known[0]), BACKWARD_PASSES.replaced(known[1]):
        yield


def in_force() -> tuple[tuple[Any, ...], ...]:
    """Draw and backward pass that hold now."""
    return DRAWS.get(), BACKWARD_PASSES.get()


def differentiate(
    outputs: torch.Tensor | Sequence[torch.Tensor] | Sequence[GradientEdge],
    inputs: Sequence[torch.Tensor],
    grad_outputs: Sequence[torch.Tensor] | None = None,
    allow_unused: bool = False,
) -> tuple[torch.Tensor, ...]:
    """``torch.autograd.grad`` that says what to do about a network with reentrant activation checkpointing.

    Raises:
        RuntimeError: one sentence for reentrant checkpointing; torch's own for everything else.
    """
    try:
        return torch.autograd.grad(outputs, inputs, grad_outputs, allow_unused=allow_unused)
    except RuntimeError as error:
        if "use_reentrant=True" not in str(error):
            raise
        raise RuntimeError(
            "the network uses reentrant activation checkpointing, through which torch computes no gradient to the "
            "image alone: call torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in it."
        ) from None


class _ValueWithGradientOf(torch.autograd.Function):
    """The value of the first argument, to the bit, with the gradient of the second."""

    @staticmethod
    def forward(ctx, value: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:  # type: ignore[override]
        return None, gradient


class NoOwnGradient(RuntimeError):
    """An operation that is attacked by a substitute was asked for the gradient that it does not have."""


def call_with_backward_pass(
    forward: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    gradient: str = "straight_through",
    surrogate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    name: str = "the operation",
) -> torch.Tensor:
    """``forward(image)``, with the backward pass that is in force.

    Args:
        forward: the operation; its value is never changed.
        image: (batch, channel, spatial...).
        gradient: how the operation is to be attacked: ``"exact"`` (differentiable), ``"straight_through"`` (the
            identity stands in for it) or ``"surrogate"``.
        surrogate: differentiable stand-in with an output of the same shape; None for the identity.
        name: what error messages call the operation.

    Raises:
        NoOwnGradient: when a gradient is asked for that the operation does not have.
    """
    if not (torch.is_grad_enabled() and image.requires_grad):
        return forward(image)
    chosen = (BACKWARD_PASSES.get() or ("exact",))[-1]
    if chosen == "declared":
        chosen = DECLARED[gradient]
    if chosen == "exact":
        if gradient != "exact":
            raise NoOwnGradient(
                f"{name} has no useful gradient of its own (it is attacked by {gradient.replace('_', ' ')}): pass "
                "gradient=BackwardPassSubstitute() to the attack."
            )
        return forward(image)
    stand_in = image if chosen == "identity" or surrogate is None else surrogate(image)
    with torch.no_grad():
        value = forward(image)
    if value.shape != stand_in.shape:
        raise RuntimeError(
            f"the stand-in for {name} must return shape {tuple(value.shape)} as the operation does, "
            f"got {tuple(stand_in.shape)}."
        )
    return _ValueWithGradientOf.apply(value.to(stand_in.dtype), stand_in)
