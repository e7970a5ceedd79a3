# SPDX-License-Identifier: Apache-2.0
"""Layers of a model's network by name, and which of them are the stages of its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from monai_adversarial.models.predictor import Predictor

__all__ = ["check_layers", "encoder_layers", "layers_in_order"]


def check_layers(layers: Sequence[str], networks: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Layers of the networks by name, if they have all that are asked for.

    Args:
        layers: names as in ``named_modules()``.
        networks: of the model.

    Raises:
        ValueError: for a name that they do not have.
    """
    known = {name: module for network in networks for name, module in network.named_modules() if name}
    for name in layers:
        if name not in known:
            near = get_close_matches(str(name), known, n=3) or list(known)[:3]
            raise ValueError(
                f"layers must be names of the network's layers as in named_modules(), got {name!r}: did you mean "
                f"{' or '.join(map(repr, near)) or 'another network, this one has none'}?"
            )
    return known


def encoder_layers(predictor: Predictor, image: torch.Tensor) -> tuple[str, ...]:
    """The last layer at each resolution on the way down, and the last one at the coarsest: encoder stages and
    bottleneck of a U-Net, the stages of a classifier.

    Args:
        predictor: the model.
        image: of which one window is looked at.
    """
    order = layers_in_order(predictor, image)
    coarsest = min(size for _, size, _ in order)
    first = next(place for place, (_, size, _) in enumerate(order) if size == coarsest)
    stages = {size: name for name, size, _ in order[:first]}  # the last one of each resolution stays
    bottleneck = [name for name, size, _ in order if size == coarsest][-1]
    return (*stages.values(), bottleneck)


def layers_in_order(predictor: Predictor, image: torch.Tensor) -> list[tuple[str, int, int]]:
    """Name, voxels and channels of what each layer without parts returns, in the order in which they run.

    Args:
        predictor: the model.
        image: of which one window is looked at.

    Raises:
        ValueError: where no layer returns a map.
    """
    order: list[tuple[str, int, int]] = []
    hooks = []
    for network in predictor.networks:
        for name, module in network.named_modules():
            if name and not any(True for _ in module.children()):

                def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, torch.Tensor) and output.ndim == image.ndim:
                        order.append((name, output[0, 0].numel(), output.shape[1]))

                hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            run = predictor.windows(image[:1].detach())
            if run is None:
                predictor(image[:1].detach())
            else:
                where = run.batches()[0][:1]
                run.outputs([run.plan.image[index] for index in where], where)
    finally:
        for hook in hooks:
            hook.remove()
    if not order:
        raise ValueError("layers: no layer of the network could be watched; pass their names.")
    return order
