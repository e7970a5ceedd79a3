# SPDX-License-Identifier: Apache-2.0
"""An attack that draws at random and reports every draw, not the worst one only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch

from monai_adversarial.attacks.ascent import Step
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.utils.slabs import count_true

__all__ = ["DrawnResult", "DrawnRun", "class_volumes"]


@dataclass
class DrawnResult(AttackResult):
    """The outcome of the worst of some random draws, and every draw.

    >>> from monai.transforms import RandGaussianNoise
    >>> from monai_adversarial.attacks import WorstOf
    >>> from monai_adversarial.data.example import example_case
    >>> result = WorstOf(RandGaussianNoise(std=20), draws=4, units="HU")(*example_case(16))
    >>> result.draw_dice.shape, bool(result.worst_dice == result.adversarial_dice), result.volume_units
    (torch.Size([4, 1]), True, 'ml')

    Args:
        draw_dice: mean foreground Dice (of a classifier: accuracy) of each draw against the reference on its
            anatomy, (draws, batch); NaN where neither has any foreground.
        draw_volumes: predicted volume of each class in each draw, (draws, batch, class), in ``volume_units``; with
            softmax class 0 is the background.
        draw_reference_volumes: the same of the reference, which changes where a draw moves anatomy.
        clean_volumes: predicted volume of each class in the clean image, (batch, class).
        volume_units: ``"ml"``, ``"voxels"`` where the spacing is not known, ``"images"`` for a classifier: a
            class has the volume 1 where it is what is said of the image.

    The other arguments are those of :class:`AttackResult`; ``adversarial`` is the image of the worst draw.
    """

    draw_dice: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    draw_volumes: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, 0))
    draw_reference_volumes: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, 0), repr=False)
    clean_volumes: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0), repr=False)
    volume_units: str = "voxels"

    @property
    def mean_dice(self) -> torch.Tensor:
        """Mean over the draws, (batch,)."""
        return self.draw_dice.nanmean(dim=0)

    @property
    def worst_dice(self) -> torch.Tensor:
        """Lowest of the draws, (batch,); NaN where all are."""
        lowest = self.draw_dice.nan_to_num(torch.inf).amin(dim=0)
        return torch.where(torch.isinf(lowest), torch.nan, lowest)

    @property
    def volume_variation(self) -> torch.Tensor:
        """Coefficient of variation of each class's predicted volume over the draws, (batch, class): the sample standard
        deviation divided by the mean; NaN for one draw and for a class that is never predicted."""
        if len(self.draw_volumes) < 2:
            return torch.full_like(self.clean_volumes, torch.nan)
        return self.draw_volumes.std(dim=0) / self.draw_volumes.mean(dim=0)

    def __str__(self) -> str:
        """The lines of an attack, and one about the draws."""
        foreground = self.volume_variation[:, 0 if self.volume_variation.shape[1] == 1 else 1 :]
        vary = f"; predicted volumes vary by {float(foreground.nanmean()):.1%}"
        varies = vary if self.metric == "Dice" else ""
        change, rms = (self.budgets.get(name) for name in ("largest_change", "rms_change"))
        far = (
            ""
            if change is None or rms is None
            else (
                f"; the worst draws changed voxels by at most {float(change.values.max()):.4g} {change.units}, "
                f"{float(rms.values.max()):.4g} root mean square"
            )
        )
        return (
            f"{super().__str__()}\n{len(self.draw_dice)} draws: {self._metric_name} "
            f"{float(self.mean_dice.nanmean()):.3f} on average, {float(self.worst_dice.nanmean()):.3f} in the worst "
            f"draw of each sample{varies}{far}"
        )


def class_volumes(prediction: torch.Tensor, classes: int, activation: str) -> torch.Tensor:
    """Voxels of each class, (batch, class), float64.

    Args:
        prediction: class map (batch, 1, spatial...), or masks (batch, class, spatial...).
        classes: the network's output channels.
        activation: ``"softmax"`` or ``"sigmoid"``, whose class map of one channel holds 0 for the background.
    """
    if prediction.shape[1] == classes > 1 or (classes == 1 and activation == "sigmoid"):
        masks = [prediction[:, channel] > 0 for channel in range(prediction.shape[1])]
    else:
        masks = [prediction[:, 0] == number for number in range(classes)]
    return torch.stack([count_true(mask.flatten(1)) for mask in masks], dim=1).double()


class DrawnRun(ScoredRun):
    """As ``ScoredRun``; every step is a draw of its own."""

    def _search(self) -> None:
        self.dice: list[torch.Tensor] = []
        self.volumes: list[torch.Tensor] = []
        self.reference_volumes: list[torch.Tensor] = []
        super()._search()

    def _objective_classes(self) -> Sequence[int] | None:
        """The classes that are scored: the worst draw is the one with the lowest score."""
        return self.attack.classes or self.reference.scored

    def _look_at(self, bound: BoundPerturbation, step: Step, left: list[int]) -> None:
        prediction = step.found.prediction
        assert prediction is not None
        reference = self.reference if self.attack.targeted else self.reference.moved(bound, step.parameters)
        self.dice.append(reference.score(prediction))
        self.volumes.append(self._volumes(prediction))
        self.reference_volumes.append(self._volumes(reference.label))

    def _volumes(self, segmentation: torch.Tensor) -> torch.Tensor:
        voxels = class_volumes(segmentation, self.reference.classes, self.activation)
        spacing = self.scene.spacing
        if not self._in_ml or spacing is None:
            return voxels
        return voxels * spacing.prod(dim=1, keepdim=True).to(voxels) / 1000

    @property
    def _in_ml(self) -> bool:
        spacing = self.scene.spacing
        if self.reference.per_image:
            return False
        return spacing is not None and spacing.shape[1] == 3 and bool(torch.isfinite(spacing).all())

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> DrawnResult:
        """See ``ScoredRun.finish``."""
        known = super().finish(image, label)
        return DrawnResult(
            **{one.name: getattr(known, one.name) for one in fields(known)},
            draw_dice=torch.stack(self.dice),
            draw_volumes=torch.stack(self.volumes),
            draw_reference_volumes=torch.stack(self.reference_volumes),
            clean_volumes=self._volumes(self.clean_prediction),
            volume_units="images" if self.reference.per_image else "ml" if self._in_ml else "voxels",
        )
