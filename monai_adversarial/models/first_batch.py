# SPDX-License-Identifier: Apache-2.0
"""What the first batch shows of a model: its task, an axis too few, a label that does not fit, a
network that is random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.doubts import warn_once
from monai_adversarial.utils.slabs import slabs
from monai_adversarial.utils.validation import check_class_label, check_label, check_logits, is_class_label

__all__ = [
    "check_answer",
    "check_classes_fit",
    "check_label_fits",
    "check_label_shape",
    "random_state",
    "refuse_boxes",
    "say_random",
    "task_of_answer",
]

#: a clean Dice below this share of what the volumes of label and prediction allow is no overlap to speak of
LEAST_SHARE = 0.05
#: volumes that allow less say nothing: a network that finds almost nothing, or an organ at the edge of a crop
LEAST_ALLOWED = 0.1
#: Dice from which a label value is taken to mean another class of the network
CLEARLY_THE_SAME = 0.5
#: images of which at least one is classified as labeled, or the label does not belong to the network
LEAST_IMAGES = 8


def refuse_boxes(raw: Any) -> None:
    """Refuse what a detector returns.

    Raises:
        TypeError: for a dictionary, or a list of them, that holds boxes.
    """
    first = raw[0] if isinstance(raw, (list, tuple)) and raw else raw
    if isinstance(first, Mapping) and any("box" in str(name) for name in first):
        raise TypeError(
            "the network returns boxes, as a detector does: only segmentation networks and classifiers are attacked."
        )


def task_of_answer(raw: torch.Tensor, image: torch.Tensor) -> str | None:
    """``"segmentation"`` for an answer on the image's grid, ``"classification"`` for one answer per image: (batch,
    class), (batch,) or (batch, class, 1, ...); None for neither.

    Args:
        raw: what the network returned.
        image: its input, (batch, channel, spatial...).
    """
    if raw.ndim == 0 or raw.shape[0] != image.shape[0]:
        return None
    if raw.ndim == image.ndim and raw.shape[2:] == image.shape[2:]:
        return "segmentation"
    pooled = raw.ndim == image.ndim and all(size == 1 for size in raw.shape[2:])
    return "classification" if raw.ndim <= 2 or pooled else None


def check_answer(raw: Any, image: torch.Tensor, classifies: bool = False) -> None:
    """Refuse what is no segmentation of the image, or no answer about it, before any work.

    Args:
        raw: what the network returned; of a classifier (batch, class, 1).
        image: its input.
        classifies: it is one answer per image.

    Raises:
        TypeError: for several tensors or integers.
        ValueError: for another grid.
    """
    check_logits(raw, image[:, :, :1].flatten(2)[..., :1] if classifies else image)


def check_label_shape(model: AttackedModel, label: Any, image: torch.Tensor) -> None:
    """Refuse a label that cannot fit the image. Before the first answer has shown the task, one class per image may
    still be right.

    Args:
        model: what is attacked.
        label: tensor.
        image: (batch, channel, spatial...).

    Raises:
        LabelMisfit: for another shape, NaN, or fractions.
    """
    unknown = model.found_task is None
    if model.classifies or (unknown and is_class_label(label, image)):
        check_class_label(label, image)
    else:
        check_label(label, image)


def check_classes_fit(model: AttackedModel, scores: torch.Tensor) -> None:
    """Warn where not one of many images is classified as labeled.

    Args:
        model: what is attacked.
        scores: share of each image's classes that are right, (batch,); NaN does not count.
    """
    known = scores[~scores.isnan()]
    if len(known) >= LEAST_IMAGES and not bool(known.any()):
        warn_once(
            model.network,
            "label",
            f"the label does not fit the network: none of {len(known)} images is classified as labeled. Check class "
            "numbers and weights: an attack has nothing to take from such a network.",
        )


def check_label_fits(
    model: AttackedModel, prediction: torch.Tensor, label: torch.Tensor, classes: int, activation: str
) -> None:
    """Warn where the label has hardly a voxel in common with the clean prediction although both have foreground.

    Args:
        model: what is attacked.
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...) for sigmoid.
        label: class map or masks.
        classes: number of the network's output channels.
        activation: ``"softmax"`` (class 0 is background) or ``"sigmoid"``.
    """
    names = list(range(1 if activation == "softmax" else 0, classes))
    common, labeled, predicted = _overlaps(prediction, label, classes, activation)
    common, labeled, predicted = (table[names] for table in (common[:, names], labeled, predicted))
    total = (labeled[:, None] + predicted[None, :]).clamp_min(1)
    dice = 2 * common / total
    own = dice.diagonal()
    allowed = 2 * torch.minimum(labeled, predicted) / total.diagonal()
    present = (labeled > 0) & (predicted > 0) & (allowed >= LEAST_ALLOWED)
    if not bool(present.any()) or bool((own > LEAST_SHARE * allowed)[present].any()):
        return
    hints = []
    for row in (labeled > 0).nonzero().flatten().tolist():
        best = int(dice[row].argmax())
        if best != row and float(dice[row, best]) > CLEARLY_THE_SAME:
            number = names[row] if classes > 1 else 1
            hints.append(f"label value {number} is the network's class {names[best]} (Dice {dice[row, best]:.2f})")
    hint = f"; {', '.join(hints)}: label values are permuted" if hints else ""
    warn_once(
        model.network,
        "label",
        f"the label does not fit the network: the clean Dice is at most {float(own[present].max()):.3f} where the "
        f"volumes of label and prediction allow {float(allowed[present].max()):.3f}{hint}. Check label values, "
        "orientation, grid and weights: an attack has nothing to take from such a segmentation.",
    )


def _overlaps(
    prediction: torch.Tensor, label: torch.Tensor, classes: int, activation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Voxels in common (label class, predicted class), and in each, on the CPU in float64."""
    if activation == "softmax":
        pairs = torch.zeros(classes**2, dtype=torch.int64, device=label.device)
        for where in slabs(label.shape[2:], label.shape[0]):
            box = (slice(None), slice(None), *where)
            index = label[box].argmax(dim=1) if label.shape[1] > 1 else label[box][:, 0].long()
            numbers = (index * classes).add_(prediction[box][:, 0])
            pairs += torch.bincount(numbers.flatten(), minlength=classes**2)
        common = pairs.view(classes, classes).cpu().double()
        return common, common.sum(dim=1), common.sum(dim=0)
    common = torch.zeros(classes, classes, dtype=torch.float64)
    labeled, predicted = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    masks = label.shape[1] > 1 or classes == 1
    for row in range(classes):
        true = label[:, row] > 0 if masks else label[:, 0] == row
        labeled[row], predicted[row] = float(true.sum()), float((prediction[:, row] > 0).sum())
        for column in range(classes):
            common[row, column] = float((true & (prediction[:, column] > 0)).sum())
    return common, labeled, predicted


def random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """The state of the generators that dropout draws from."""
    states = (torch.get_rng_state(),)
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


def say_random(model: AttackedModel, share: float | None = None) -> None:
    """Warn that the network is random although it is in evaluation mode.

    Args:
        model: what is attacked.
        share: of the voxels that two clean predictions disagree on, where it is known.
    """
    parts = "images' classes" if model.classifies else "voxels"
    differ = "" if share is None else f": two clean predictions differ in {share:.1%} of the {parts}"
    warn_once(
        model.network,
        "random",
        f"the network draws random numbers in evaluation mode (dropout that stays active?){differ}. An attack that "
        "sees one draw is weaker than one that averages: pass gradient=ExpectationOverTransformation(20), and read "
        "scores as those of one draw.",
    )
