# SPDX-License-Identifier: Apache-2.0
"""What an attack is measured against: which voxels, images and classes of it count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.objectives import CleanBatch, Target
from monai_adversarial.attacks.objectives.wrapped import AroundObjective
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.metrics.accuracy import share_correct
from monai_adversarial.metrics.dice import class_dice, mean_foreground_dice
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.validation import LabelMisfit, check_label_range

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

__all__ = ["Reference", "class_mask", "prepared"]


def prepared(
    attack: Attack, target: Target, bound: BoundPerturbation, predictor: Predictor, prediction: torch.Tensor
) -> Target:
    """The reference as the attack's objective wants it.

    Args:
        attack: says what is wanted.
        target: the reference on the clean anatomy.
        bound: the perturbation on the clean batch.
        predictor: the attacked function.
        prediction: its segmentation of the clean batch.

    Raises:
        ValueError: for an objective that does not fit the attack, and what the objective itself refuses.
    """
    objective, scene = attack.objective, bound.scene
    name = type(objective.innermost if isinstance(objective, AroundObjective) else objective).__name__
    if objective.directed and attack.targeted:
        raise ValueError(f"targeted must be False with {name}, which says itself what the segmentation shall become.")
    if bound.geometric and not objective.allows_moving_anatomy:
        kind = type(attack.perturbation).__name__
        raise ValueError(f"{name} needs a perturbation that leaves the anatomy where it is, got {kind}.")
    clean = CleanBatch(
        scene.image,
        prediction,
        target.activation,
        scene.spacing,
        lambda image: predictor.answer(image).prediction,
    )
    return objective.prepare(target, clean)


def class_mask(wanted: Sequence[int] | None, classes: int, device: torch.device) -> torch.Tensor | None:
    """Boolean (class,) of the classes that an objective counts; None for all.

    Raises:
        ValueError: for no class, or one that the network does not have.
    """
    if wanted is None:
        return None
    if not wanted or max(wanted) >= classes:
        raise ValueError(f"classes must name some of the network's classes 0 to {classes - 1}, got {list(wanted)}.")
    mask = torch.zeros(classes, dtype=torch.bool, device=device)
    mask[list(wanted)] = True
    return mask


def _of_task(model: AttackedModel, label: torch.Tensor) -> torch.Tensor:
    """The label of a segmentation as it is, that of a classifier with an axis for its one voxel.

    Raises:
        LabelMisfit: for the label of the other task.
    """
    per_image = label.ndim <= 2 or tuple(label.shape[2:]) == (1,)
    if model.classifies and per_image:
        return label.reshape(label.shape[0], -1, 1)
    if model.classifies:
        raise LabelMisfit(
            f"label must hold class numbers (batch,), or one row of classes per image (batch, class), because the "
            f"network gives one answer per image, got {tuple(label.shape)}."
        )
    if label.ndim <= 2:
        raise LabelMisfit(
            f"label must have shape (batch, 1 or number of classes, spatial...) because the network answers for each "
            f"voxel, got {tuple(label.shape)}, one label per image."
        )
    return label


@dataclass(frozen=True)
class Reference:
    """Reference segmentation of a batch; of a classifier, one of a single voxel.

    Args:
        label: class map (batch, 1, spatial...) or masks (batch, class, spatial...); ignored voxels hold 0.
        valid: boolean (batch, 1, spatial...), voxels that are not ignored; None for all.
        classes: the network's output channels.
        activation: ``"softmax"`` or ``"sigmoid"``.
        scored: the classes that scores count.
        per_image: it is what a classifier says of each image, which nothing moves.
    """

    label: torch.Tensor
    valid: torch.Tensor | None
    classes: int
    activation: str
    scored: tuple[int, ...]
    per_image: bool = False

    @classmethod
    def read(cls, model: AttackedModel, label: torch.Tensor, classes: int) -> Reference:
        """A label as the model's scores and the attack's objective need it.

        Args:
            model: says what is ignored and what is scored.
            label: class map (batch, 1, spatial...), one-hot or masks (batch, class, spatial...), on the image's grid;
                of a classifier class numbers (batch,) or (batch, 1), one-hot or masks (batch, class).
            classes: the network's output channels.

        Raises:
            ValueError: for a label of another task, values outside the classes, and overlapping masks with softmax.
        """
        label = _of_task(model, label)
        valid = None
        if model.ignore_index is not None:
            valid = (label != model.ignore_index).all(dim=1, keepdim=True)
            label = torch.where(valid, label, torch.zeros_like(label))
        check_label_range(label, classes)
        if label.shape[1] == classes > 1 and (model.activation or model.found_activation) != "sigmoid":
            cls._check_exclusive(model, label, valid)
        activation = model.activation_of(classes)
        if model.classifies and activation == "softmax" and model.scored_classes is not None:
            raise ValueError(
                "scored_classes chooses organs or independent channels, but a classifier's exclusive classes are all "
                f"scored: leave it out, got {list(model.scored_classes)}."
            )
        # No class of a classifier is background.
        kind = "sigmoid" if model.classifies else activation
        scored = organ_channels(classes, kind, model.class_names, model.scored_classes)
        return cls(label, valid, classes, activation, tuple(scored), model.classifies)

    @staticmethod
    def _check_exclusive(model: AttackedModel, label: torch.Tensor, valid: torch.Tensor | None) -> None:
        """Masks that overlap, or leave voxels without a class, are no one-hot label of exclusive classes."""
        total = label.sum(dim=1, keepdim=True)
        exclusive = total == 1 if valid is None else (total == 1) | ~valid
        if bool(exclusive.all()):
            return
        if (model.activation or model.found_activation) == "softmax":
            raise LabelMisfit(
                f"label has {label.shape[1]} channels that overlap or leave voxels empty, but the model's classes are "
                "exclusive (softmax): pass activation='sigmoid' for independent channels, or a class map."
            )
        model.found_activation = "sigmoid"

    def target(self, class_mask: torch.Tensor | None, weight: torch.Tensor | None = None) -> Target:
        """What objectives compare with.

        Args:
            class_mask: boolean (class,), the classes that the objective counts; None for all.
            weight: (batch, spatial...), voxels at which it counts; None for all.
        """
        target = Target.from_label(self.label, self.classes, self.activation, weight, class_mask)
        return target if self.valid is None else target.with_valid(self.valid[:, 0])

    def moved(self, bound: BoundPerturbation, parameters: Parameters) -> Reference:
        """The same reference on the perturbed anatomy."""
        if self.per_image or not bound.geometric:
            return self
        valid = None if self.valid is None else bound.move_label(self.valid.to(torch.uint8), parameters) > 0
        return replace(self, label=bound.move_label(self.label, parameters), valid=valid)

    def select(self, rows: torch.Tensor) -> Reference:
        """The reference of some samples."""
        valid = None if self.valid is None else self.valid.index_select(0, rows)
        return replace(self, label=self.label.index_select(0, rows), valid=valid)

    def score(self, prediction: torch.Tensor) -> torch.Tensor:
        """Mean Dice of a hard prediction over the scored classes, (batch,); of a classifier 1 where the class is right
        and 0 where not, with sigmoid the share of the scored classes that are right; NaN where nothing counts."""
        if self.per_image:
            return share_correct(prediction, self.label, self.classes, self.activation, self.scored, self.valid)
        return mean_foreground_dice(
            prediction, self.label, self.classes, self.activation, channels=self.scored, valid=self.valid
        )

    def organ_scores(self, prediction: torch.Tensor) -> torch.Tensor:
        """Dice of a hard prediction in each of the scored classes, (batch, class); NaN where it is not defined."""
        return class_dice(prediction, self.label, self.scored, self.classes, self.activation, self.valid)

    def iou(self, prediction: torch.Tensor, organs: Sequence[int] | None = None) -> torch.Tensor:
        """Mean intersection over union of a hard prediction over ``organs`` (None: the scored classes), (batch,).

        A class that is in neither the reference nor the prediction is left out; where that leaves none, both are empty
        and the mean is 1.
        """
        dice = class_dice(prediction, self.label, organs or self.scored, self.classes, self.activation, self.valid)
        return (dice / (2 - dice)).nanmean(dim=1).nan_to_num(1.0)

    @property
    def metric(self) -> str:
        """What ``score`` measures: ``"Dice"`` or ``"accuracy"``."""
        return "accuracy" if self.per_image else "Dice"

    def with_ignored(self, ignore_index: int | None) -> torch.Tensor:
        """The label as it was given, ignored voxels with their value."""
        if self.valid is None or ignore_index is None:
            return self.label
        wide = self.label if self.label.dtype.is_signed or ignore_index >= 0 else self.label.to(torch.int16)
        return torch.where(self.valid, wide, torch.full_like(wide, ignore_index))

    def objective_classes(self, wanted: Sequence[int] | None, model: AttackedModel) -> Sequence[int] | None:
        """The classes that an objective counts: those that the attack names, else those that are scored."""
        return wanted if wanted is not None or model.scored_classes is None else self.scored
