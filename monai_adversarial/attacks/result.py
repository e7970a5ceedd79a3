# SPDX-License-Identifier: Apache-2.0
"""What an attack returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.metrics.clean_score import low_clean_caution, low_organ_caution
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.metrics.success import success_count
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import unscaled_values
from monai_adversarial.utils.arrays import as_given, as_tensor
from monai_adversarial.utils.plain import as_plain

__all__ = ["AttackResult"]

# Streams of random numbers: restarts use 0, 1, 2, ...
CONTROL_STREAM = 1_000_000
#: organs that are named when a result is printed
MOST_ORGANS = 12
STABILITY = (
    "caution: there is no label, so this is stability and not accuracy: a network that is wrong, or not trained, can "
    "be stable"
)


def _numbers(values: torch.Tensor) -> str:
    """Some numbers: all of a small batch, mean and range of a large one."""
    found = values.detach().double().flatten()
    if len(found) <= 4:
        return ", ".join(f"{value:.3f}" for value in found.tolist())
    known = found[~found.isnan()]
    if not len(known):
        return f"nan ({len(found)} samples)"
    lost = len(found) - len(known)
    return (
        f"{float(known.mean()):.3f} (mean of {len(known)}, {float(known.min()):.3f} to {float(known.max()):.3f}"
        f"{f', {lost} nan' if lost else ''})"
    )


def _measured(name: str, found: Measurement) -> str:
    """A measurement of the sample that is nearest to its limit, with the limit."""
    values = found.values.detach().double().flatten()
    limits = [found.limit_of(sample) for sample in range(len(values))]
    margins = values.cpu() - torch.tensor(limits, dtype=torch.float64)
    sample = int((-margins if found.at_least else margins).argmax())
    side = "at least" if found.at_least else "at most"
    return f"{name} {float(values[sample]):.4f} {found.units} ({side} {limits[sample]:g})"


@dataclass
class AttackResult:
    """The outcome of an attack on one batch.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = PGD(16, "HU", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice), result.backwards, result.budgets["noise_linf"].units
    (True, 3, 'HU')
    >>> control, label_of_control = result.random_control()
    >>> float((control - image).abs().max())
    16.0
    >>> result.verify(image + 17)
    Traceback (most recent call last):
    monai_adversarial.attacks.perturbations.base.BudgetError: ...

    Args:
        adversarial: perturbed image in the kind and type of the clean image: a ``MetaTensor`` keeps its metadata, an
            array of whole numbers stays one.
        label: reference that belongs to the perturbed anatomy, (batch, 1 or class, spatial...): moved with a geometric
            attack, equal to the given label otherwise; the clean prediction when no label was given.
        parameters: what made the image, one row per sample.
        objective: best value of the objective per sample, (batch,), as the attacker maximizes it. For objectives
            whose values cannot be compared between steps (masked cross-entropy, SegPGD, CosPGD): the share of wrong
            voxels.
        objective_history: the same at each evaluation, (evaluations, batch); NaN where a sample was already solved.
        success: boolean (batch,); see ``Attack.success_threshold``.
        clean_score: mean foreground Dice before, (batch,); NaN where the reference has no foreground. Of a classifier
            1 where the class is right and 0 where not, with sigmoid the share of its classes that are right.
        adversarial_score: the same afterwards, against ``label``.
        metric: ``"Dice"`` or ``"accuracy"``: what the scores are.
        clean_prediction: what ``clean_score`` was computed from, in the scoring precision: class map (batch, 1,
            spatial...) or, for sigmoid outputs, masks (batch, class, spatial...), small unsigned integers. Of a
            classifier (batch, 1) or (batch, class).
        prediction: what ``adversarial_score`` was computed from, as ``clean_prediction``.
        budgets: name -> what was measured on ``adversarial``, with its limit and unit.
        forwards: forward passes, counted per sample, checks included.
        backwards: backward passes, counted per sample.
        queries: forward passes that did not serve a backward pass.
        surrogate_forwards: forward passes of networks that were followed instead of the attacked one, per sample.
        surrogate_backwards: backward passes of those.
        zero_gradient_fraction: mean share of gradient entries that were exactly zero, (batch,): voxels that a sign step
            could not move.
        reference_is_prediction: scores are against the network's own clean prediction.
        reference_reason: why, in a few words: no label was given, or it could not fit; empty with a label.
        image: image channels of the clean batch, plain tensor.
        bound: perturbation tied to the clean batch.
        clean_label: reference that belongs to the clean anatomy.
        attack: the attack, as a call that makes an equal one.
        model: what was attacked.
        facts: what is known of it and where that was read; see ``AttackedModel.findings``.
        success_rule: what counts as a success.
        clean_success: of a targeted attack: whether the clean prediction counts as one already, (batch,); None for
            others.
        image_channels: where ``image`` sits among the input channels; None where it is all of them.
        iou: of a targeted attack: mean intersection over union with the wanted segmentation, (batch,), over the
            ``organs`` of its objective or else the scored classes; 1 where both are empty. None for other attacks.
        clean_iou: the same before the attack.
        truth_dice: of a targeted attack: mean foreground Dice with the true segmentation (``truth=``, or else the
            clean prediction), (batch,). None for other attacks.
        clean_truth_dice: the same before the attack.
    """

    adversarial: torch.Tensor
    label: torch.Tensor
    parameters: Parameters
    objective: torch.Tensor
    objective_history: torch.Tensor
    success: torch.Tensor
    clean_score: torch.Tensor
    adversarial_score: torch.Tensor
    budgets: dict[str, Measurement]
    forwards: int
    backwards: int
    queries: int
    zero_gradient_fraction: torch.Tensor
    reference_is_prediction: bool
    image: torch.Tensor = field(repr=False)
    bound: BoundPerturbation = field(repr=False)
    clean_label: torch.Tensor = field(repr=False)
    clean_prediction: torch.Tensor = field(repr=False)
    prediction: torch.Tensor = field(repr=False)
    image_channels: tuple[int, ...] | None = None
    attack: str = ""
    model: AttackedModel | None = field(default=None, repr=False)
    facts: tuple[str, ...] = ()
    reference_reason: str = ""
    success_rule: str = ""
    clean_success: torch.Tensor | None = None
    iou: torch.Tensor | None = None
    clean_iou: torch.Tensor | None = None
    truth_dice: torch.Tensor | None = None
    clean_truth_dice: torch.Tensor | None = None
    surrogate_forwards: int = 0
    surrogate_backwards: int = 0
    metric: str = "Dice"

    @property
    def clean_dice(self) -> torch.Tensor:
        """``clean_score`` of a segmentation.

        Raises:
            AttributeError: for a classifier, which has no Dice.
        """
        return self._dice("clean")

    @property
    def adversarial_dice(self) -> torch.Tensor:
        """``adversarial_score`` of a segmentation.

        Raises:
            AttributeError: for a classifier, which has no Dice.
        """
        return self._dice("adversarial")

    def _dice(self, which: str) -> torch.Tensor:
        if self.metric != "Dice":
            raise AttributeError(f"the result of a classifier has no {which}_dice: read {which}_score, its accuracy.")
        return getattr(self, f"{which}_score")

    @property
    def unmoved_score(self) -> torch.Tensor:
        """Mean Dice with the label as it was before the anatomy moved, (batch,): it counts every organ that moved as an
        error. ``adversarial_score`` unless the attack is geometric, and then to be read beside it."""
        if not self.bound.geometric or self.metric != "Dice" or self.model is None:
            return self.adversarial_score
        classes = self.model.found_classes
        assert classes is not None
        return Reference.read(self.model, self.clean_label, classes).score(self.prediction)

    @cached_property
    def organ_dice(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Dice of each scored class: name -> (clean, adversarial), each (batch,), NaN where a class is in neither the
        reference nor the prediction. Names are the model's ``class_names``, or else ``"class_1"``, ``"class_2"``, ...

        >>> from monai_adversarial.attacks import PGD
        >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
        >>> model, image, label = example_case(16)
        >>> result = PGD(16, "HU", steps=3)(model.replace(class_names=EXAMPLE_CLASSES), image, label)
        >>> clean, adversarial = result.organ_dice["liver"]
        >>> bool(adversarial < clean)
        True

        Raises:
            AttributeError: for a classifier, which has no Dice.
        """
        if self.metric != "Dice" or self.model is None:
            raise AttributeError("organ_dice is defined for the segmentations of a known model, not for a classifier.")
        classes = self.model.found_classes
        assert classes is not None
        before, after = (
            # The label is handed back as it came: an array stays one, a tensor stays on its device.
            Reference.read(self.model, as_plain(as_tensor("label", label)).to(self.prediction.device), classes)
            for label in (self.clean_label, self.label)
        )
        clean, adversarial = before.organ_scores(self.clean_prediction), after.organ_scores(self.prediction)
        names = organ_channels(classes, before.activation, self.model.class_names, self.model.scored_classes)
        return {name: (clean[:, row], adversarial[:, row]) for row, name in enumerate(names.values())}

    @property
    def caution(self) -> str:
        """Why a small loss here is no robustness: the network does not segment the clean images, or not all organs of
        them, or nothing says whether it does because there is no label. Empty where it does, and of classifiers. Of a
        targeted attack why its success is none: the clean prediction is near enough to what is wanted."""
        if self.clean_success is not None and bool(self.clean_success.any()):
            return (
                f"caution: the clean prediction counts as a success already in {int(self.clean_success.sum())} of "
                f"{len(self.clean_success)} ({self.success_rule}), which says nothing of the attack: compare iou with "
                "clean_iou, or ask for more by success_threshold."
            )
        if self.metric != "Dice" or self.iou is not None:
            return ""
        if self.reference_is_prediction:
            return STABILITY
        hint = "" if self.model is None else unscaled_values(self.model, self.image)
        low = low_clean_caution(self.clean_score, hint)
        if low or self.model is None:
            return low
        clean = torch.stack([before for before, _ in self.organ_dice.values()], dim=1)
        return low_organ_caution(list(self.organ_dice), clean)

    def __str__(self) -> str:
        """Three lines: what was attacked within which budget, what it did, what it cost. A targeted attack has one more
        of the wanted and the true segmentation, a model with ``class_names`` one of its organs, and where there is a
        caution, it is the last."""
        behind = "" if self.model is None else f" on {self.model!r}"
        budgets = [_measured(name, found) for name, found in self.budgets.items() if found.limit is not None]
        reference = "clean prediction" if self.reference_is_prediction else "label"
        rule = f" ({self.success_rule})" if self.success_rule else ""
        frozen = float(self.zero_gradient_fraction.mean())
        zeros = "" if math.isnan(frozen) else f"; {frozen:.1%} zero gradients"
        facts = "".join(f"; {fact}" for fact in self.facts)
        wanted = []
        if self.iou is not None and self.clean_iou is not None:
            wanted.append(f"mean IoU with the label {_numbers(self.clean_iou)} -> {_numbers(self.iou)}")
        if self.truth_dice is not None and self.clean_truth_dice is not None:
            true = f"{_numbers(self.clean_truth_dice)} -> {_numbers(self.truth_dice)}"
            wanted.append(f"mean foreground Dice with the true segmentation {true}")
        followed = (
            f"; {self.surrogate_forwards} forward and {self.surrogate_backwards} backward passes of surrogates"
            if self.surrogate_forwards
            else ""
        )
        return "\n".join(
            [
                f"{self.attack or 'attack'}{behind}: {'; '.join(budgets) or 'no budget measured'}{self._inside}",
                f"{self._metric_name} with the {reference} {_numbers(self.clean_score)} -> "
                f"{_numbers(self.adversarial_score)}; success in "
                f"{success_count(self.success, self.clean_score, self.adversarial_score)}{rule}",
                *(["; ".join(wanted)] if wanted else []),
                *self._organ_line(),
                f"{self.forwards} forward and {self.backwards} backward passes of one sample, {self.queries} of them "
                f"queries without a backward pass{followed}{zeros}{facts}",
                *([self.caution] if self.caution else []),
            ]
        )

    @property
    def _inside(self) -> str:
        """How much of the image was left to the attacker, where a region says it."""
        region = self.bound.scene.region
        return "" if region is None else f"; inside a region of {float(region.float().mean()):.2g} of the voxels"

    def _organ_line(self) -> list[str]:
        """What is left of each organ, where there are several with names."""
        if self.metric != "Dice" or self.iou is not None or self.model is None or self.model.class_names is None:
            return []
        shown = list(self.organ_dice.items())[:MOST_ORGANS]
        more = len(self.organ_dice) - len(shown)
        parts = [
            f"{name} {_numbers(clean.nanmean())} -> {_numbers(attacked.nanmean())}" for name, (clean, attacked) in shown
        ]
        return [f"{', '.join(parts)}{f', and {more} more in organ_dice' if more else ''}"] if len(parts) > 1 else []

    @property
    def _metric_name(self) -> str:
        return "mean foreground Dice" if self.metric == "Dice" else self.metric

    def verify(self, saved: torch.Tensor, rounding: float = 0.0) -> dict[str, Measurement]:
        """Measure the image that was read back from a file and raise where it left the budget.

        Args:
            saved: (batch, channel, spatial...) in the units of the clean image.
            rounding: largest rounding of a voxel that came after the attack, in image units: 0.5 where a float image
                was saved as integer HU. An image that the attack has rounded to the grid of its file needs none, and
                lengths (L2, root mean square) get none: what rounding adds to them is a change like any other.

        Raises:
            ValueError: for another shape.
            BudgetError: names the budget that is exceeded.
        """
        plain = as_plain(as_tensor("saved", saved))
        if self.image_channels is not None and plain.shape == self.adversarial.shape:
            plain = plain[:, list(self.image_channels)]
        if plain.shape != self.image.shape:
            raise ValueError(f"saved must have shape {tuple(self.image.shape)}, got {tuple(plain.shape)}.")
        return self.bound.verify(self.image, plain.to(self.image), self.parameters, rounding)

    def random_control(self, stream: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """A random perturbation of the same kind and size: the control that says what is due to the attack.

        Args:
            stream: number of the draw; the same number gives the same draw.

        Returns:
            the perturbed image, in the type of ``adversarial``, and the label moved with it.
        """
        generators = self.bound.scene.generators(CONTROL_STREAM + stream)
        with torch.no_grad():
            parameters = self.bound.random_control(generators, self.parameters)
            image = self.bound.finished(self.image, parameters)
            label = self.clean_label
            if self.metric == "Dice":  # what is said of a whole image does not move
                label = self.bound.move_label(label, parameters)
        if self.image_channels is not None:
            whole = as_plain(as_tensor("adversarial", self.adversarial)).to(image).clone()
            whole[:, list(self.image_channels)] = image
            image = whole
        return as_given(image, self.adversarial), as_given(label, self.label)
