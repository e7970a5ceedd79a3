# SPDX-License-Identifier: Apache-2.0
"""The segmentation of an image by the model under attack, without an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_adversarial.models.answer import Answer
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.plain import detached

__all__ = ["answer_of", "predict", "predict_probabilities"]


def predict(model: AttackedModel | Callable[..., Any], image: torch.Tensor) -> torch.Tensor:
    """The segmentation as the deployed network gives it: what scores of an attack are computed from.

    >>> from monai_adversarial.models import predict
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> predict(model, image).shape
    torch.Size([1, 1, 32, 32, 32])

    Args:
        model: read in its scoring precision; a bare network is wrapped with defaults.
        image: (batch, channel, spatial...) in the model's image units, with all channels that the network takes.

    Returns:
        Class map (batch, 1, spatial...), or masks (batch, class, spatial...) for sigmoid outputs, in the smallest
        integers.
    """
    return answer_of(AttackedModel.wrap(model), image).prediction


def predict_probabilities(model: AttackedModel | Callable[..., Any], image: torch.Tensor) -> torch.Tensor:
    """The probabilities that the deployed network gives, in the precision in which attacks are scored.

    >>> from monai_adversarial.models import predict_probabilities
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> probabilities = predict_probabilities(model, image)
    >>> probabilities.shape, bool((probabilities.sum(dim=1) - 1).abs().max() < 1e-5)
    (torch.Size([1, 4, 16, 16, 16]), True)

    Args:
        model: a bare network is wrapped with defaults.
        image: (batch, channel, spatial...) in the model's image units, with all channels that the network takes.

    Returns:
        (batch, class, spatial...), float32, on the image's device; exclusive classes (softmax) sum to 1. Those of a
        classifier are (batch, class, 1).
    """
    known = AttackedModel.wrap(model)
    seen = known.replace(precision=known.scoring_precision, compile_network=False)
    predictor = Predictor(seen, image, seen.units_for(None))
    with torch.inference_mode(False), torch.no_grad(), frozen(predictor.networks):
        part = seen.image_part(detached(image))
        # The first image shows whether the network returns logits or probabilities.
        predictor.learn(part, scored=True)
        logits = predictor(part).float()
        sigmoid = seen.activation_of(int(logits.shape[1])) == "sigmoid"
        return logits.sigmoid() if sigmoid else logits.softmax(dim=1)


def answer_of(model: AttackedModel, image: torch.Tensor) -> Answer:
    """As :func:`predict`, with what is known of the answer."""
    predictor = Predictor(model, image, model.units_for(None))
    with torch.inference_mode(False), torch.no_grad(), frozen(predictor.networks):
        part = model.image_part(detached(image))
        # The first image shows whether the network returns logits or probabilities.
        return predictor.read_clean(part) if model.found_output_values is None else predictor.answer(part)
