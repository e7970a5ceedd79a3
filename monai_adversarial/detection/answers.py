# SPDX-License-Identifier: Apache-2.0
"""What a model says of an image, and how far two such answers are apart."""

from __future__ import annotations

import torch

from monai_adversarial.metrics.dice import class_dice
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor

__all__ = ["answer_of_image", "disagreement", "predictor_of", "probabilities_of", "soft_disagreement"]


def predictor_of(model: AttackedModel, image: torch.Tensor, like: torch.Tensor) -> Predictor:
    """The model as it is deployed, with every gradient: in its scoring precision, without checkpoints and compilation,
    which hide what layers return."""
    seen = model.replace(precision=model.scoring_precision, checkpoint_layers=False, compile_network=False)
    predictor = Predictor(seen, like, seen.units_for(None))
    predictor.learn(image.detach())
    return predictor


def answer_of_image(model: AttackedModel, image: torch.Tensor, like: torch.Tensor) -> Answer:
    """The segmentation, in the memory of a class map."""
    return predictor_of(model, image, like).answer(image)


def probabilities_of(model: AttackedModel, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Probabilities (batch, class, spatial...), differentiable in ``image``."""
    logits = predictor_of(model, image, like)(image)
    return logits.sigmoid() if model.activation_of(logits.shape[1]) == "sigmoid" else logits.softmax(dim=1)


def disagreement(one: Answer, other: Answer, reduction: str) -> torch.Tensor:
    """1 - Dice between two segmentations, the largest or the mean over foreground classes, (batch,); a class that is in
    neither agrees."""
    channels = range(1 if one.activation == "softmax" else 0, one.classes)
    dice = class_dice(one.prediction, other.prediction, list(channels), one.classes, one.activation)
    apart = (1 - dice.double()).nan_to_num(nan=0.0)
    return apart.amax(dim=1) if reduction == "max" else apart.mean(dim=1)


def soft_disagreement(one: torch.Tensor, other: torch.Tensor, activation: str, reduction: str) -> torch.Tensor:
    """The same of probabilities (batch, class, spatial...), with the squared Dice, which is 1 for equal ones."""
    first = 1 if activation == "softmax" else 0
    p, q = one[:, first:].flatten(2), other[:, first:].flatten(2)
    # one voxel is added on both sides: a class that is in neither agrees
    dice = (2 * (p * q).sum(dim=2) + 1) / (p.square().sum(dim=2) + q.square().sum(dim=2) + 1)
    return (1 - dice).amax(dim=1) if reduction == "max" else (1 - dice).mean(dim=1)
