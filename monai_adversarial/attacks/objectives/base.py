# SPDX-License-Identifier: Apache-2.0
"""What the attacker wants: one number per sample that it maximizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.calls import ShownAsCall

if TYPE_CHECKING:
    from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters

__all__ = ["AdditiveObjective", "Objective", "Parts", "Progress", "VoxelwiseObjective"]


@dataclass(frozen=True)
class Progress:
    """Where the search stands: some objectives change their weights on the way (SegPGD).

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import Progress, SegPGD, Target
    >>> logits, target = torch.zeros(1, 2, 1), Target.from_label(torch.ones(1, 1, 1), classes=2)
    >>> start, end = (SegPGD().value(logits, target, Progress(step, 10)) for step in (0, 9))
    >>> bool(start > end)
    True

    Args:
        step: index of the current evaluation, from 0.
        steps: number of steps of the search.
        success: boolean (batch,), whether the attack succeeded at the point before; None at the first one, and where
            nobody judges single points.
    """

    step: int
    steps: int
    success: torch.Tensor | None = None

    def growing(self, first: float, last: float) -> float:
        """A number that grows by the same factor in each step: ``last`` in the last one and where the run ends.

        Args:
            first: number of the first step, > 0.
            last: of the last one, > 0.
        """
        done = min(self.step / max(self.steps - 1, 1), 1.0)
        return first * (last / first) ** done


class Objective(ShownAsCall, ABC):
    """A loss per sample, never averaged over the batch.

    ``value`` is the loss against the reference labels. An untargeted attack maximizes it; a targeted attack, whose
    reference is the wanted segmentation, minimizes it (:class:`~monai_adversarial.attacks.Attack` turns the sign).

    >>> from monai_adversarial.attacks import PGD, Objective
    >>> from monai_adversarial.data.example import example_case
    >>> class Doubt(Objective):
    ...     def value(self, logits, target, progress, targeted=False):
    ...         probability = logits.softmax(dim=1)
    ...         return -(probability * probability.clamp_min(1e-6).log()).sum(dim=1).flatten(1).mean(dim=1)
    >>> result = PGD(16, "HU", steps=3, objective=Doubt())(*example_case(16))
    >>> bool(result.objective > result.objective_history[0])
    True

    Attributes:
        comparable: a higher value is a worse segmentation at any step. False where the weights of the voxels follow
            the prediction or the step: such a value guides the next step, but two of them do not tell which candidate
            is better. ``value_and_rank`` does.
        directed: it says itself what the segmentation shall become. Such an attack is not ``targeted``, and its label,
            if one is given, is the truth that Dice is measured with.
        allows_moving_anatomy: it means something where a geometric perturbation moves the organs.
        organs: the classes that its goal is about; None for all that are scored.
        success_rule: what counts as a success, in words; empty where the rule is the attack's, by Dice.
    """

    comparable: bool = True
    directed: bool = False
    allows_moving_anatomy: bool = True
    organs: Sequence[int] | None = None
    success_rule: str = ""
    _shows_defaults = True

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Around everything that is asked of the networks; for objectives that look inside."""
        yield

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The reference with what the objective needs to know of the clean batch, before the first step.

        Args:
            target: the reference, whole.
            clean: the clean batch.

        Returns:
            the target, with other voxels, weights or ``numbers`` where the objective wants that.

        Raises:
            ValueError: for a goal that the batch does not allow, in one sentence.
        """
        return target

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor | None:
        """Whether the attack has what it wanted, boolean (batch,); None where Dice decides.

        Args:
            prediction: class map (batch, 1, spatial...) or, with sigmoid, masks (batch, class, spatial...).
            target: what ``prepare`` returned, whole, for the same samples.
        """
        return None

    def begin(self) -> Objective:
        """The objective of one run: itself, or a fresh copy of one that keeps something between steps."""
        return self

    def select(self, rows: torch.Tensor) -> None:
        """Go on with some of the samples; for an objective that keeps something between steps."""

    @abstractmethod
    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        """Loss of each sample.

        Args:
            logits: (batch, class, spatial...), float32 or float64, before softmax or sigmoid.
            target: the reference labels, where they count, and how logits become probabilities.
            progress: position in the search.
            targeted: ``target`` is what the attacker wants to see instead of the truth; weights that depend on being
                right or wrong swap.

        Returns:
            (batch,)
        """

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value, and what to keep the best candidate by.

        Args are those of ``value``.

        Returns:
            The loss to differentiate and a number without gradient that may be compared between steps (higher is a
            worse match with ``target``), each (batch,). They are the same where ``comparable`` is True.
        """
        value = self.value(logits, target, progress, targeted)
        return value, value.detach()

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """What the attacker wants of the image itself, for example that it looks like the clean one.

        It is added to what the attacker maximizes, in targeted attacks too, and to what candidates are compared by. The
        network's answer is no part of it, so that it sees whole images where the objective sees windows.

        Args:
            bound: the perturbation on its clean batch, ``bound.scene.image``.
            changed: the perturbed image, (batch, channel, spatial...).

        Returns:
            (batch,), differentiable in ``changed``; None, the default, for nothing.
        """
        return None

    def parameter_term(self, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor | None:
        """What the attacker wants of the perturbation's parameters, for example that a flow is smooth: as
        ``image_term``, differentiable in ``parameters``.

        Args:
            bound: the perturbation on its clean batch.
            parameters: of the perturbation.
        """
        return None

    def for_classifier(self) -> Objective:
        """What takes its place where the network gives one answer per image, whose logits are (batch, class, 1).

        Raises:
            TypeError: for one that compares segmentations and has no counterpart: the default.
        """
        raise TypeError(
            f"the objective {type(self).__name__} compares segmentations, but the network gives one answer per image: "
            "pass objective='margin', 'cross_entropy' or 'dlr'."
        )


Parts = tuple[torch.Tensor, ...]


class AdditiveObjective(Objective):
    """A loss that is a function of a few sums over voxels, so that volumes are worked on part by part.

    Objectives of this kind are attacked window by window, in memory that does not grow with the volume or its classes.
    A subclass defines ``parts`` and ``combine``; ``parts`` gets targets that are a :meth:`Target.part` of a volume, and
    what it returns for parts that cover a volume must add up to what it returns for the whole.

    >>> import torch
    >>> from monai_adversarial.attacks import PGD, AdditiveObjective
    >>> from monai_adversarial.data.example import example_case
    >>> class Background(AdditiveObjective):
    ...     def parts(self, logits, target, progress, targeted):
    ...         return (logits.softmax(dim=1)[:, 0].flatten(1).sum(dim=1),)
    ...     def combine(self, parts, target):
    ...         return parts[0], parts[0]
    ...     def parts_of_reference(self, target, dtype):
    ...         return (target.reference_sums(dtype)[:, 0],)
    >>> result = PGD(16, "HU", steps=3, objective=Background())(*example_case(16))
    >>> int((result.prediction == 0).sum()) > int((result.clean_prediction == 0).sum())
    True

    Attributes:
        follows_progress: the sums of the same logits change from step to step.
    """

    follows_progress: bool = False

    @abstractmethod
    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        """The sums, each with a leading batch dimension; those without a gradient only help to compare candidates.

        Args are those of ``value``.
        """

    @abstractmethod
    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the number that candidates are compared by, each (batch,), from the sums.

        Args:
            parts: the sums.
            target: the reference, or any part of it with the same samples.
        """

    @abstractmethod
    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """About what ``parts`` returns for a prediction that equals the reference: where a search begins that has not
        seen the network's own sums yet. Any numbers will do where ``combine`` is linear.

        Args:
            target: the whole reference.
            dtype: of the sums.
        """

    def support(self, target: Target) -> torch.Tensor | None:
        """Boolean (batch, spatial...): the voxels whose logits the loss depends on; None for all."""
        region = target.region(torch.float32)
        return None if region is None else region > 0

    def slopes(self, parts: Parts, target: Target) -> Parts:
        """Derivative of the loss of each sample with respect to its sums."""
        with torch.enable_grad():
            leaves = tuple(part.detach().requires_grad_() for part in parts)
            value, _ = self.combine(leaves, target)
            found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True))

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        return self.combine(self.parts(logits, target, progress, targeted), target)[0]

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value, and what ``combine`` says of the rank."""
        value, rank = self.combine(self.parts(logits, target, progress, targeted), target)
        return value, rank.detach()


class VoxelwiseObjective(AdditiveObjective):
    """A weighted mean over voxels (with sigmoid: over voxels of all channels).

    >>> from monai_adversarial.attacks import PGD, VoxelwiseObjective
    >>> from monai_adversarial.data.example import example_case
    >>> class RootCrossEntropy(VoxelwiseObjective):
    ...     def elements(self, comparison, progress, targeted):
    ...         return (comparison.cross_entropy() + 1e-6).sqrt()
    >>> result = PGD(16, "HU", steps=3, objective=RootCrossEntropy(balanced=True))(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        balanced: every class that occurs in a sample has the same weight there, 1 / number of its voxels for each of
            them, so that a small organ is not drowned by the background. With sigmoid, foreground and background of
            each channel are the classes.
    """

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = balanced

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        comparison = compare(logits, target)
        value = comparison.average(self.elements(comparison, progress, targeted), self.balanced)
        if self.comparable:
            return (value,)
        wrong = (~comparison.correct()).to(logits.dtype)
        return value, comparison.average(wrong, self.balanced).detach()

    def for_classifier(self) -> Objective:
        """Itself: the mean over the image's one decision, or with sigmoid over those of its classes."""
        return self

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Zeros: the mean is linear in its parts."""
        zero = torch.zeros(target.voxel_shape[0], dtype=dtype, device=target.device)
        return (zero,) if self.comparable else (zero, zero)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean, and itself or (unless ``comparable``) the weighted fraction of wrong decisions."""
        return parts[0], parts[-1]

    def support(self, target: Target) -> torch.Tensor | None:
        """Voxels of the classes that count; with sigmoid all of the region."""
        region = super().support(target)
        if target.chosen is None or target.index is None or target.activation == "sigmoid":
            return region
        counted = torch.zeros(target.classes, dtype=torch.bool, device=target.device)
        counted = counted.index_fill_(0, target.chosen_index(), True)
        found = counted[target.index.long()]
        return found if region is None else found & region

    @abstractmethod
    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        """The loss of each element of ``comparison``: (batch, groups, spatial...)."""
