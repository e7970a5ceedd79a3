# SPDX-License-Identifier: Apache-2.0
"""The segmentation that an attack is measured against: which voxels and classes of it count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.objectives import CleanBatch, Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
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
    name = type(objective).__name__
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


@dataclass(frozen=True)
class Reference:
    """Reference segmentation of a batch.

    Args:
        label: class map (batch, 1, spatial...) or masks (batch, class, spatial...); ignored voxels hold 0.
        valid: boolean (batch, 1, spatial...), voxels that are not ignored; None for all.
        classes: the network's output channels.
        activation: ``"softmax"`` or ``"sigmoid"``.
        scored: the classes that scores count.
    """

    label: torch.Tensor
    valid: torch.Tensor | None
    classes: int
    activation: str
    scored: tuple[int, ...]

    @classmethod
    def read(cls, model: AttackedModel, label: torch.Tensor, classes: int) -> Reference:
        """A label as the model's scores and the attack's objective need it.

        Args:
            model: says what is ignored and what is scored.
            label: class map (batch, 1, spatial...), one-hot or masks (batch, class, spatial...), on the image's grid.
            classes: the network's output channels.

        Raises:
            ValueError: for values outside the classes, and for overlapping masks with softmax.
        """
        valid = None
        if model.ignore_index is not None:
            valid = (label != model.ignore_index).all(dim=1, keepdim=True)
            label = torch.where(valid, label, torch.zeros_like(label))
        check_label_range(label, classes)
        if label.shape[1] == classes > 1 and (model.activation or model.found_activation) != "sigmoid":
            cls._check_exclusive(model, label, valid)
        activation = model.activation_of(classes)
        scored = organ_channels(classes, activation, model.class_names, model.scored_classes)
        return cls(label, valid, classes, activation, tuple(scored))

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
        if not bound.geometric:
            return self
        valid = None if self.valid is None else bound.move_label(self.valid.to(torch.uint8), parameters) > 0
        return replace(self, label=bound.move_label(self.label, parameters), valid=valid)

    def select(self, rows: torch.Tensor) -> Reference:
        """The reference of some samples."""
        valid = None if self.valid is None else self.valid.index_select(0, rows)
        return replace(self, label=self.label.index_select(0, rows), valid=valid)

    def dice(self, prediction: torch.Tensor) -> torch.Tensor:
        """Mean Dice of a hard prediction over the scored classes, (batch,)."""
        return mean_foreground_dice(
            prediction, self.label, self.classes, self.activation, channels=self.scored, valid=self.valid
        )

    def iou(self, prediction: torch.Tensor, organs: Sequence[int] | None = None) -> torch.Tensor:
        """Mean intersection over union of a hard prediction over ``organs`` (None: the scored classes), (batch,).

        A class that is in neither the reference nor the prediction is left out; where that leaves none, both are empty
        and the mean is 1.
        """
        dice = class_dice(prediction, self.label, organs or self.scored, self.classes, self.activation, self.valid)
        return (dice / (2 - dice)).nanmean(dim=1).nan_to_num(1.0)

    def with_ignored(self, ignore_index: int | None) -> torch.Tensor:
        """The label as it was given, ignored voxels with their value."""
        if self.valid is None or ignore_index is None:
            return self.label
        wide = self.label if self.label.dtype.is_signed or ignore_index >= 0 else self.label.to(torch.int16)
        return torch.where(self.valid, wide, torch.full_like(wide, ignore_index))

    def objective_classes(self, wanted: Sequence[int] | None, model: AttackedModel) -> Sequence[int] | None:
        """The classes that an objective counts: those that the attack names, else those that are scored."""
        return wanted if wanted is not None or model.scored_classes is None else self.scored
