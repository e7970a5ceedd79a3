# SPDX-License-Identifier: Apache-2.0
"""Numbers of an image that are means over the windows in which its network sees it, in the memory of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_adversarial.detection.answers import predictor_of
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["Ask", "Numbers", "mean_over_windows", "recomputed"]

#: the logits (window, class, spatial...) of some windows in the network's values, or of the whole images
Ask = Callable[..., torch.Tensor]
Numbers = tuple[torch.Tensor, ...]


def mean_over_windows(
    model: AttackedModel,
    images: Sequence[torch.Tensor],
    like: torch.Tensor,
    look: Callable[..., Numbers],
    one_by_one: bool = False,
) -> list[torch.Tensor]:
    """What ``look`` finds in each window, averaged over the windows of each image; overlapping ones count equally.

    A model without plain windows is shown the images as they are.

    Args:
        model: what is asked.
        images: variants of one batch, whose windows are at the same places.
        like: the clean batch, with metadata if there is any.
        look: is called with a function that gives logits and with the windows of each variant, (window, channel,
            spatial...). It returns numbers (window, ...) each.
        one_by_one: show it one window, or one image, at a time.

    Returns:
        (batch, ...) of each number.
    """
    predictor = predictor_of(model, images[0], like)
    runs = [predictor.windows(image) for image in images]
    batch = images[0].shape[0]
    if any(run is None for run in runs):
        if not one_by_one or batch == 1:
            return list(look(predictor, *images))
        rows = []
        for row in range(batch):
            predictor.use_samples([row])
            rows.append(look(predictor, *(image[row : row + 1] for image in images)))
        predictor.use_samples(range(batch))
        return [torch.cat(part) for part in zip(*rows, strict=True)]
    found: list[list[Numbers]] = [[] for _ in range(batch)]
    first = runs[0]
    assert first is not None
    for several in first.batches():
        for where in [[index] for index in several] if one_by_one else [several]:

            def ask(windows: torch.Tensor, where: Any = where) -> torch.Tensor:
                return first.logits(first.outputs(list(windows.split(1)), where))

            seen = [torch.cat([run.plan.image[index] for index in where]) for run in runs if run is not None]
            numbers = look(ask, *seen)
            for number, index in enumerate(where):
                found[index[0].start].append(tuple(part[number] for part in numbers))
    return [
        torch.stack([torch.stack([window[place] for window in row]).mean(dim=0) for row in found])
        for place in range(len(found[0][0]))
    ]


class _Recomputed(torch.autograd.Function):
    """A function without a graph, which its backward pass computes again: also one that differentiates inside, which
    torch's checkpoints do not allow."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Numbers], *inputs: torch.Tensor) -> Numbers:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        with torch.no_grad():
            return tuple(part.detach() for part in function(*(one.detach() for one in inputs)))

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> Any:  # type: ignore[override]
        wanted = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_(need) for one, need in zip(ctx.saved_tensors, wanted, strict=True)]
            found = [(part, one) for part, one in zip(ctx.function(*leaves), above, strict=True) if part.requires_grad]
            moving = [leaf for leaf in leaves if leaf.requires_grad]
            if not found or not moving:
                return (
                    None,
                    *(torch.zeros_like(leaf) if need else None for leaf, need in zip(leaves, wanted, strict=True)),
                )
            outputs, weights = zip(*found, strict=True)
            gradients = iter(torch.autograd.grad(outputs, moving, weights, allow_unused=True))
        given = [next(gradients) if need else None for need in wanted]
        return (
            None,
            *(
                torch.zeros_like(leaf) if one is None and need else one
                for one, leaf, need in zip(given, leaves, wanted, strict=True)
            ),
        )


def recomputed(function: Callable[..., Numbers], *inputs: torch.Tensor) -> Numbers:
    """``function(*inputs)`` in the memory of its inputs, with a gradient where one is wanted."""
    if torch.is_grad_enabled() and any(one.requires_grad for one in inputs):
        return _Recomputed.apply(function, *inputs)
    return function(*inputs)
