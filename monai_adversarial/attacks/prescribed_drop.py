# SPDX-License-Identifier: Apache-2.0
"""The smallest perturbation at which Dice has fallen by a given share, sample by sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import FixedPoint
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["PrescribedDrop", "prescribed_drop"]


@dataclass(frozen=True)
class PrescribedDrop:
    """What it took to lower the Dice of one sample by a given share.

    >>> from monai_adversarial.attacks import PGD, prescribed_drop
    >>> from monai_adversarial.data.example import example_case
    >>> (found,) = prescribed_drop(PGD(1, "HU", steps=1), *example_case(16), drop=0.9)
    >>> found.reached, found.factor, list(found.tried)
    (False, inf, [1.0])

    Args:
        result: the attack's outcome at the smallest budget that was found.
        factor: that budget, as a factor of the attack's own; infinity where the whole of it was not enough.
        wanted: the prescribed Dice.
        reached: whether the Dice is within the tolerance of it.
        tried: factor -> Dice, of every attack that was run.
        forwards, backwards: passes of one sample, of all of them.
    """

    result: AttackResult
    factor: float
    wanted: float
    reached: bool
    tried: dict[float, float]
    forwards: int
    backwards: int

    @property
    def dice(self) -> float:
        """Dice with the label on the moved anatomy."""
        return float(self.result.adversarial_dice[0])


def prescribed_drop(
    attack: Attack,
    model: AttackedModel | Callable[..., Any],
    image: torch.Tensor,
    label: torch.Tensor | None = None,
    drop: float = 0.5,
    tolerance: float = 0.05,
    halvings: int = 6,
    organs: Sequence[int] | None = None,
    **call: Any,
) -> list[PrescribedDrop]:
    """The smallest budget of an attack, by halving, at which each sample has lost a share of its Dice.

    An attack does not care to stop: with the smallest budget that is enough, Dice may be far below what was wanted. So
    the parameters it found are then shortened, again by halving, until Dice is within the tolerance. The line from the
    clean image to that outcome stays in the budget, and Dice goes from its clean value to one that is low enough.

    Example:
        >>> from monai_adversarial.attacks import PGD, prescribed_drop
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case(16)
        >>> (found,) = prescribed_drop(PGD(20, "HU", steps=3), model, image, label, drop=0.3)
        >>> found.reached, abs(found.dice - found.wanted) <= 0.05, found.factor < 1
        (True, True, True)

    Args:
        attack: with the largest budget that is tried; see ``Attack.scaled``.
        model, image, label: see :class:`~monai_adversarial.attacks.Attack`; each sample is attacked alone.
        drop: share of the clean Dice that shall be lost, above 0 to 1.
        tolerance: of the Dice that is left.
        halvings: of the budget, and then of the length of what was found.
        organs: the classes whose Dice counts and that are attacked; None for those of the model and the attack.
        call: further arguments of the attack's call, for example ``spacing``.

    Returns:
        One finding for each sample.

    Raises:
        ValueError: for a targeted attack, a classifier, a sample without Dice, or arguments out of range.

    Source: the prescribed loss of Dice is Chen et al. 2019, from the abstract; the two halvings are ours.

    Survey entry: A09 (reconstruction).
    """
    drop, tolerance = check_fraction("drop", drop), check_positive("tolerance", tolerance)
    if drop == 0 or attack.targeted:
        raise ValueError(f"drop must be above 0 and the attack untargeted, got drop={drop} and {attack!r}.")
    check_count("halvings", halvings)
    known = AttackedModel.wrap(model)
    if organs is not None:
        known = known.replace(scored_classes=list(organs))
        attack = copy.copy(attack)
        attack.classes = tuple(organs)
    count = as_tensor("image", image).shape[0]
    found = []
    for row in range(count):
        one = None if label is None else label[row : row + 1]
        found.append(_Sample(attack, known, image[row : row + 1], one, tolerance, call).find(drop, halvings))
    return found


class _Sample:
    """The search on one sample."""

    def __init__(
        self, attack: Attack, model: AttackedModel, image: Any, label: Any, tolerance: float, call: dict[str, Any]
    ) -> None:
        self.attack, self.model, self.image, self.label, self.call = attack, model, image, label, call
        self.tolerance = tolerance
        self.tried: dict[float, float] = {}
        self.forwards = self.backwards = 0

    def _run(self, attack: Attack, start: Parameters | None = None) -> tuple[AttackResult, float]:
        call = self.call if start is None else {**self.call, "start": start}
        result = attack(self.model, self.image, self.label, **call)
        self.forwards += result.forwards
        self.backwards += result.backwards
        if result.metric != "Dice":
            raise ValueError("prescribed_drop needs a segmentation: a classifier has no Dice to lose.")
        return result, float(result.adversarial_dice[0])

    def _at(self, factor: float) -> tuple[AttackResult, float]:
        result, dice = self._run(self.attack.scaled(factor))
        self.tried[factor] = dice
        return result, dice

    def find(self, drop: float, halvings: int) -> PrescribedDrop:
        """Halve the budget, then the length of what was found."""
        result, dice = self._at(1.0)
        clean = float(result.clean_dice[0])
        if not clean > 0:
            raise ValueError(f"the clean Dice of a sample must be above 0 to lose a share of it, got {clean}.")
        wanted = (1 - drop) * clean
        if dice > wanted + self.tolerance:
            return self._made(result, float("inf"), wanted, False)
        low, high, best = 0.0, 1.0, (result, dice)
        for _ in range(halvings):
            middle = (low + high) / 2
            tried = self._at(middle)
            if tried[1] > wanted:
                low = middle
            else:
                high, best = middle, tried
        result, dice = best
        if abs(dice - wanted) > self.tolerance:
            result, dice = self._shortened(result, high, wanted, halvings)
        return self._made(result, high, wanted, abs(dice - wanted) <= self.tolerance)

    def _shortened(
        self, result: AttackResult, factor: float, wanted: float, halvings: int
    ) -> tuple[AttackResult, float]:
        """The point nearest to the wanted Dice between the clean image and an outcome."""
        still = copy.copy(self.attack.scaled(factor, 1))
        still.search, still.restarts, still.early_stop = FixedPoint(), 1, False
        best = (result, float(result.adversarial_dice[0]))
        low, high = 0.0, 1.0
        for _ in range(2 * halvings):
            middle = (low + high) / 2
            tried = self._run(still, tuple(middle * part for part in result.parameters))
            if abs(tried[1] - wanted) < abs(best[1] - wanted):
                best = tried
            if abs(tried[1] - wanted) <= self.tolerance:
                break
            low, high = (middle, high) if tried[1] > wanted else (low, middle)
        return best

    def _made(self, result: AttackResult, factor: float, wanted: float, reached: bool) -> PrescribedDrop:
        return PrescribedDrop(result, factor, wanted, reached, self.tried, self.forwards, self.backwards)
