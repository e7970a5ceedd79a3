# SPDX-License-Identifier: Apache-2.0
"""Whether the gradient says what the network does: a part that is detached, cached or in NumPy leaves one that does
not."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from monai_adversarial.inferers.purified import purifiers_of
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.backward_pass import NoOwnGradient, differentiate
from monai_adversarial.utils.modules import held_still, unwrap
from monai_adversarial.utils.plain import detached

__all__ = ["reason_of", "wrong_gradient_reason"]

#: change of the image along a direction, as a share of its range
REACH = 1e-3
#: share of the slope that is measured of which the gradient must know
LEAST_TOLD = 0.5
#: relative difference of slopes over two lengths above which the network is not smooth there, and nothing is said
SMOOTH = 0.2
#: share of the mean absolute logit below which a change is rounding
ROUNDING = 1e-5


def wrong_gradient_reason(model: AttackedModel | Any, image: torch.Tensor) -> str:
    """Why the gradient is not that of the network, in a sentence; empty where it is, and where nothing can be said.

    An attack by gradients follows what is left of them: a network of which the larger part is detached, cached or in
    NumPy looks robust. The gradient is compared with what the answer does where the image grows a little brighter: one
    backward and three forward passes in float32, two more where they differ. Networks that are random, or not smooth
    (rounding), and answers that are no part of a graph are not judged: attacks say that of them by themselves.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.models import wrong_gradient_reason
    >>> model, image, _ = example_case(16)
    >>> wrong_gradient_reason(model, image)
    ''
    >>> detached = lambda image: model.network(image.detach()) + image
    >>> wrong_gradient_reason(model.replace(network=detached), image).split(":")[0]
    'the gradient is not that of the network'

    Args:
        model: an ``AttackedModel``, or a bare network.
        image: clean batch (batch, channel, spatial...) in the model's image units.
    """
    known = AttackedModel.wrap(model)
    with torch.inference_mode(False), torch.enable_grad(), held_still(unwrap(known.network)) as network:
        predictor = Predictor(known, image, known.units_for(None), network)
        clean = known.image_part(detached(image))
        return reason_of(predictor, clean, predictor.read_clean(clean))


def reason_of(predictor: Predictor, image: torch.Tensor, answer: Answer) -> str:
    """:func:`wrong_gradient_reason` of a function under attack, which counts the passes.

    Args:
        predictor: the function.
        image: image channels of the clean batch.
        answer: its answer to them.
    """
    if not predictor.is_constant or any(one.gradient != "exact" for one in purifiers_of(predictor.inferer)):
        return ""  # a purifier whose gradient is a substitute has none of its own
    sigmoid = predictor.model.activation_of(answer.classes) == "sigmoid"
    precise, reason = predictor.in_float32(), ""
    # A network of such operations is attacked by a substitute, which says nothing of a gradient that is right.
    with torch.enable_grad(), contextlib.suppress(NoOwnGradient):
        reason = _compare(precise, image, _weight_of(answer.prediction, answer.classes, sigmoid))
    predictor.forwards = precise.forwards
    return reason


def _compare(predictor: Predictor, image: torch.Tensor, weight: torch.Tensor) -> str:
    def value(moved: torch.Tensor) -> torch.Tensor:
        """How sure the network is of its clean answer, (batch,)."""
        return (predictor(moved).double() * weight).flatten(1).mean(dim=1)

    moving = image.clone().requires_grad_(True)
    logits = predictor(moving)
    noise = ROUNDING * logits.detach().abs().flatten(1).mean(dim=1).double()
    total = (logits.double() * weight).flatten(1).mean(dim=1).sum()
    if not total.requires_grad:
        return ""
    (gradient,) = differentiate(total, (moving,))
    del logits, moving, total
    flat, direction = image.flatten(1), _direction(image)
    reach = REACH * (flat.amax(dim=1) - flat.amin(dim=1)).double()

    def slope(length: torch.Tensor) -> torch.Tensor:
        """Change of the value for each unit of length, over the length to both sides, (batch,)."""
        step = (length.view(-1, *([1] * (image.ndim - 1))) * direction).to(image)
        return (value(image + step) - value(image - step)) / (2 * length)

    told = (gradient.double() * direction).flatten(1).sum(dim=1)
    with torch.no_grad():
        seen = slope(reach)
        # A gradient that says more than the network does, as behind a rounding, hides nothing.
        wrong = (told * seen.sign() < LEAST_TOLD * seen.abs()) & (seen.abs() * reach > noise)
        if bool(wrong.any()):  # unless the network is not smooth there
            wrong &= (slope(reach / 2) - seen).abs() <= SMOOTH * seen.abs() + noise / reach
    if not bool(wrong.any()):
        return ""
    worst = int(torch.where(wrong, seen.abs(), -1.0).argmax())
    return (
        "the gradient is not that of the network: where the image grows brighter, the answer changes by "
        f"{float(seen[worst]):.3g} for each unit, and by {float(told[worst]):.3g} if the gradient were right. "
        "Something detached, cached or in NumPy hides a part of it, and attacks by gradients leave scores that are too "
        "high: take it out, or attack by queries"
    )


def _direction(image: torch.Tensor) -> torch.Tensor:
    """A change of size 1 to which networks are sensitive: most of the image brighter, along a slow wave that is no
    mirror image of itself; an even change is invisible behind an instance normalization."""
    wave = torch.ones_like(image)
    for axis, size in enumerate(image.shape[2:], start=2):
        phase = torch.linspace(0.0, 2.2, size, device=image.device, dtype=image.dtype)
        wave = wave * (0.4 + 0.6 * torch.cos(phase)).view(-1, *([1] * (image.ndim - axis - 1)))
    return wave


def _weight_of(prediction: torch.Tensor, classes: int, sigmoid: bool) -> torch.Tensor:
    """1 for the channels that the clean answer consists of, -1 for the others, (batch, class, spatial...)."""
    if sigmoid:
        return 2.0 * (prediction > 0).double() - 1.0
    shape = (prediction.shape[0], classes, *prediction.shape[2:])
    weight = torch.full(shape, -1.0, dtype=torch.float64, device=prediction.device)
    return weight.scatter_(1, prediction.long(), 1.0)
