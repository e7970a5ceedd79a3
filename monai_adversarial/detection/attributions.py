# SPDX-License-Identifier: Apache-2.0
"""Which voxels an answer depends on: the gradient of what the model is sure of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from monai_adversarial.detection.windowed import Ask
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.kinks import RoundedKinks

__all__ = ["confidence_of", "gradient_of_answer", "integrated_gradients"]


def confidence_of(model: AttackedModel, logits: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function of logits that an answer is explained by, (window,): their sum over the voxels of each predicted
    organ, for a classifier that of the predicted class.

    Args:
        model: says what logits are.
        logits: (window, class, spatial...), whose decisions stay fixed.
    """
    decided = logits.detach()
    if model.activation_of(decided.shape[1]) == "sigmoid":
        counted = decided.sign() if model.classifies else (decided > 0).to(decided)
    else:
        largest = decided.argmax(dim=1, keepdim=True)
        counted = torch.zeros_like(decided).scatter_(1, largest, 1.0)
        if not model.classifies:
            counted[:, 0] = 0  # the background is no organ
    return lambda other: (other * counted).flatten(1).sum(dim=1)


def gradient_of_answer(
    model: AttackedModel,
    ask: Ask,
    seen: torch.Tensor,
    confidence: Callable[[torch.Tensor], torch.Tensor] | None = None,
    graph: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivative of the confidence with respect to what the network sees, and whether there is anything to explain.

    Args:
        model: says what logits are.
        ask: gives logits.
        seen: (window, channel, spatial...).
        confidence: what is explained; None for that of the answer to ``seen``.
        graph: whether the derivative is to be differentiable; None for: where a gradient flows into ``seen``.

    Returns:
        (window, channel, spatial...), and boolean (window,).
    """
    graph = torch.is_grad_enabled() and seen.requires_grad if graph is None else graph
    # without a second derivative of its kinks, a network of ReLU gives who wants another attribution nothing to follow
    with torch.enable_grad(), RoundedKinks() if graph else nullcontext():
        leaf = seen if graph else seen.detach().requires_grad_()
        logits = ask(leaf)
        value = (confidence or confidence_of(model, logits))(logits)
        if not value.requires_grad:
            raise ValueError(
                "no gradient flows from the image into the answer: choose a model whose inferer is None or a "
                "SlidingWindowInferer."
            )
        (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=graph)
    return gradient, value.detach() != 0


def integrated_gradients(model: AttackedModel, ask: Ask, seen: torch.Tensor, steps: int) -> torch.Tensor:
    """Share of each voxel in how far the confidence is above that of an empty image (the network's value 0).

    Args:
        model: says what logits are.
        ask: gives logits.
        seen: (window, channel, spatial...).
        steps: points on the straight line between both, in the middle of equal parts.
    """
    graph = torch.is_grad_enabled() and seen.requires_grad
    with torch.no_grad():
        confidence = confidence_of(model, ask(seen.detach()))
    total = torch.zeros_like(seen)
    for step in range(steps):
        total = total + gradient_of_answer(model, ask, (step + 0.5) / steps * seen, confidence, graph)[0]
    return seen * total / steps
