# SPDX-License-Identifier: Apache-2.0
"""Normalized surface Dice: surfaces that lie more than some mm apart, made differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.masked_cross_entropy import BalancedMaskedCrossEntropy
from monai_adversarial.attacks.objectives.soft_surface import (
    ball_in_mm,
    near_surface,
    surface_places,
    surfaces,
    weighted_near,
)
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["SurfaceDice"]

SMOOTH = 1e-5


class SurfaceDice(Objective):
    """1 - normalized surface Dice (NSD) at a tolerance in mm: how much of the surfaces of prediction and reference lies
    further than that from the other one.

    The gradient is that of soft surfaces, which an erosion by one voxel takes from ``softmax(k * logits)`` (sigmoid
    likewise); k grows from step to step, and the balanced masked cross-entropy of the same probabilities is added, as
    in :class:`AnnealedDice`. Points are compared by the NSD of the decision, which is MONAI's
    (``compute_surface_dice``), averaged over organs: one that is in neither segmentation is left out, one that is in a
    single one counts as 0. Distances are in mm by the image's affine, or by ``spacing=`` of the call.

    It is a success where the NSD has fallen below ``left`` of the clean prediction's. Reference surfaces, their
    neighborhood and distances are computed once. The answer is needed as a whole, also of a sliding window; memory
    grows with voxels times organs.

    Args:
        tolerance: mm that do not count as a difference.
        left: largest share of the clean NSD that may be left.
        first_sharpness, last_sharpness: k of the first and of the last step.
        cross_entropy_weight: factor of :class:`BalancedMaskedCrossEntropy`, >= 0.

    Raises:
        ValueError: for numbers out of range, and in an attack for an image without a voxel size, a perturbation that
            moves the anatomy, a targeted attack, and classes that are all background.

    Example:
        >>> from monai_adversarial.attacks import PGD, SurfaceDice
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case(16)
        >>> result = PGD(16, "HU", steps=4, objective=SurfaceDice(6.0))(model, image, label)
        >>> bool(result.objective > result.objective_history[0])  # 1 - NSD
        True

    Source: ours, after the metric of Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for
    radiotherapy", 2021. The boundary loss of Kervadec et al., MIDL 2019, left more NSD than Dice does
    (docs/targeted.md).
    """

    comparable = False
    #: a wanted surface is no success of this objective
    directed = True
    allows_moving_anatomy = False

    def __init__(
        self,
        tolerance: float = 2.0,
        left: float = 0.5,
        first_sharpness: float = 0.5,
        last_sharpness: float = 8.0,
        cross_entropy_weight: float = 1.0,
    ) -> None:
        self.tolerance = check_positive("tolerance", tolerance)
        self.left = check_fraction("left", left)
        self.first_sharpness = check_positive("first_sharpness", first_sharpness)
        self.last_sharpness = check_positive("last_sharpness", last_sharpness)
        self.cross_entropy_weight = check_positive("cross_entropy_weight", cross_entropy_weight, allow_zero=True)
        self.cross_entropy = BalancedMaskedCrossEntropy()

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"normalized surface Dice at {self.tolerance:g} mm below {self.left:.0%} of the clean one"

    def for_classifier(self) -> Objective:
        """The margin: one decision has no surface."""
        return Margin(math.inf)

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """Surfaces of the reference, what is near to them, and the clean NSD."""
        spacing = clean.mm("SurfaceDice").tolist()
        organs = self._organs(target)
        reference = target.one_hot()[:, list(organs)] > 0.5
        region = target.region(torch.float32)
        surface = surfaces(reference.float()) > 0.5
        if region is not None:
            surface &= (region > 0).unsqueeze(1)
        ball = ball_in_mm(self.tolerance, spacing)
        places = surface_places(surface, region, ball.shape[1:])
        made = target.with_numbers(
            near=near_surface(surface, spacing, self.tolerance),
            ball=ball.to(target.device),
            **places,
        )
        return made.with_numbers(clean=self._hard(clean.prediction, made))

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        sharpness = progress.growing(self.first_sharpness, self.last_sharpness)
        sharp = logits * sharpness
        probabilities = sharp.sigmoid() if target.activation == "sigmoid" else sharp.softmax(dim=1)
        agreeing, total, known = self._sums(self._chosen(probabilities, target), target)
        losses = 1 - (agreeing + SMOOTH) / (total + SMOOTH)
        present = (known > 0).to(losses.dtype)
        counted = torch.where(present.any(dim=1, keepdim=True), present, 1.0)
        value = (losses * counted).sum(dim=1) / counted.sum(dim=1)
        cross_entropy = self.cross_entropy.value(sharp, target, progress, targeted)
        return value + self.cross_entropy_weight * cross_entropy / sharpness

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value, and 1 - NSD of the decision."""
        value = self.value(logits, target, progress, targeted)
        with torch.no_grad():
            rank = 1 - self._hard(hard_prediction(logits, target.activation), target)
        return value, rank.to(value.dtype)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether the NSD has fallen that far."""
        return self._hard(prediction, target) < self.left * target.numbers["clean"]

    @staticmethod
    def _organs(target: Target) -> Sequence[int]:
        counted = [n for n in target.chosen or range(target.classes) if n > 0 or target.activation == "sigmoid"]
        if not counted:
            raise ValueError(
                "the SurfaceDice objective excludes the background, and the target's class_mask selects nothing else: "
                "select other classes."
            )
        return counted

    def _chosen(self, channels: torch.Tensor, target: Target) -> torch.Tensor:
        """The channels of the organs."""
        organs = tuple(self._organs(target))
        where = target.class_table(("surface_dice", organs), lambda: torch.tensor(organs, device=target.device))
        return channels.index_select(1, where)

    @staticmethod
    def _sums(masks: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Surface that agrees, both surfaces, and the reference's, each (batch, organ)."""
        known, region = target.numbers, target.region(masks.dtype)
        soft = surfaces(masks)
        if region is not None:
            soft = soft * region.unsqueeze(1)
        places = {name: known[name] for name in ("place", "organ", "weight")}
        weight = places["weight"].to(soft.dtype)
        reference = soft.new_zeros(soft.shape[:2]).scatter_add(1, places["organ"], weight)
        near = (soft * known["near"]).flatten(2).sum(dim=2)
        return near + weighted_near(soft, places, known["ball"]), soft.flatten(2).sum(dim=2) + reference, reference

    @torch.no_grad()
    def _hard(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Mean NSD of a class map or of masks, (batch,); 1 where there is no organ at all."""
        if target.activation == "sigmoid":
            masks = self._chosen(prediction > 0, target)
        else:
            organs = torch.arange(target.classes, device=prediction.device)
            masks = self._chosen(prediction == organs.view(1, -1, *[1] * (prediction.ndim - 2)), target)
        agreeing, total, _ = self._sums(masks.float(), target)
        return (agreeing / total).nanmean(dim=1).nan_to_num(1.0)  # 0 / 0 is NaN
