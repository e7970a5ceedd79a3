# SPDX-License-Identifier: Apache-2.0
"""What of an image an objective depends on."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks.objectives import Objective, Progress, get_objective
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import check_label_shape
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.validation import check_image

__all__ = ["input_saliency"]


def input_saliency(
    model: Any, image: torch.Tensor, label: torch.Tensor, objective: str | Objective = "cross_entropy"
) -> torch.Tensor:
    """Saliency map: the largest absolute gradient of a loss over the image channels, of each voxel.

    >>> from monai_adversarial.attacks import input_saliency
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> input_saliency(model, image, label).shape
    torch.Size([1, 1, 16, 16, 16])

    Args:
        model: network or ``AttackedModel``, left as it was; in its scoring precision.
        image: (batch, channel, spatial...) in the model's image units.
        label: class map (batch, 1, spatial...), one-hot or masks, on the image's grid; of a classifier class numbers
            (batch,).
        objective: loss, by name or as object; one that compares with the label alone.

    Returns:
        (batch, 1, spatial...), at least 0, for each unit of the image.

    Raises:
        TypeError, ValueError: for an image or label that does not fit.

    Source: Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", 2014: the largest absolute gradient
    over the channels. Here it is that of the loss, as Ma et al. 2021 use it.

    Survey entry: M06 (adapted).
    """
    known = AttackedModel.wrap(model)
    check_image(image)
    label = as_tensor("label", label)
    check_label_shape(known, label, image)
    known = known.replace(precision=known.scoring_precision, checkpoint_layers=False)
    predictor = Predictor(known, image, known.units_for(None))
    chosen = get_objective(objective)
    with torch.inference_mode(False), frozen(predictor.networks):
        part = known.image_part(detached(image))
        classes = predictor.read_clean(part).classes
        if known.classifies:
            chosen = chosen.for_classifier()
        target = Reference.read(known, detached(label).to(part.device), classes).target(None)
        seen = part.clone().requires_grad_()
        with torch.enable_grad():
            loss = chosen.value(predictor(seen), target, Progress(0, 1))
            (gradient,) = torch.autograd.grad(loss.sum(), seen)
    return as_plain(gradient).abs().amax(dim=1, keepdim=True)
