# SPDX-License-Identifier: Apache-2.0
"""Other networks that see the images of an attacked one, and whose gradients are followed instead of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.modules import held_still, unwrap
from monai_adversarial.utils.plain import detached

__all__ = ["following"]


@contextmanager
def following(
    target: Predictor, surrogates: Sequence[AttackedModel], image: torch.Tensor, clean: torch.Tensor
) -> Iterator[None]:
    """Let the steps of an attack follow surrogates, frozen for the duration.

    Args:
        target: the attacked function.
        surrogates: other models, which take what the target takes.
        image: the clean batch with all its channels.
        clean: its image channels, as the target knows them.

    Raises:
        ValueError: for surrogates that see other channels, or the same values through another intensity map.
    """
    with ExitStack() as stack:
        made = []
        for number, surrogate in enumerate(surrogates):
            network = stack.enter_context(held_still(unwrap(surrogate.network)))
            part = surrogate.image_part(detached(image))
            if part.shape != clean.shape:
                raise ValueError(
                    f"surrogate {number} sees an image of shape {tuple(part.shape)}, the attacked model one of "
                    f"{tuple(clean.shape)}: both must have the same image channels."
                )
            predictor = Predictor(surrogate, image, target.units, network)
            _check_map(number, target, predictor)
            predictor.learn(part)
            made.append(predictor)
        target.surrogates = tuple(made)
        try:
            yield
        finally:
            target.surrogates = None


def _check_map(number: int, target: Predictor, surrogate: Predictor) -> None:
    """In HU each network has its own window; values of the network itself mean the same to both or to none."""
    given, own = target.intensity, surrogate.intensity
    if target.units == "HU" or given is None or own is None or given.agrees_with(own):
        return
    raise ValueError(
        f"surrogate {number} was trained with another intensity map than the attacked model, whose network values the "
        "image holds: attack images in HU (image_units='HU')."
    )
