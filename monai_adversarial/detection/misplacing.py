# SPDX-License-Identifier: Apache-2.0
"""A wrong segmentation that looks like anatomy: the clean one, at another place."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.dice_ce import DiceCE
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.metrics.dice import mean_foreground_dice
from monai_adversarial.utils.validation import check_fraction

__all__ = ["MisplacedAnatomy"]


class MisplacedAnatomy(AdditiveObjective):
    """The network finds all organs with their sizes and shapes, at a wrong place.

    The attacker wants the network's own clean answer, moved as a whole by as few voxels as make it wrong, along the
    axis on which the least of it leaves the image. A detector by volumes, by shapes or by features of the organs sees
    anatomy as it knows it, where an attack that only destroys the answer leaves rubbish. Success is what the attack's
    rule says of the true label.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import MisplacedAnatomy
    >>> model, image, label = example_case()
    >>> result = PGD(40, units="HU", steps=10, objective=MisplacedAnatomy())(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        overlap: mean foreground Dice with the clean answer that the moved one has at most, from 0 to 1. Success at half
            of the clean Dice needs less than a half.

    Raises:
        ValueError: for a number out of range.
        TypeError: for a classifier, whose answer has no place.

    Source: ours.
    """

    directed = True
    allows_moving_anatomy = False

    def __init__(self, overlap: float = 0.35) -> None:
        self.overlap = check_fraction("overlap", overlap)
        self.loss = DiceCE()

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The moved clean answer as the reference."""
        wanted = misplaced(clean.prediction, target.classes, clean.activation, self.overlap)
        if clean.activation == "sigmoid":
            return target.with_soft(wanted)
        made = Target(target.classes, index=wanted[:, 0], class_mask=target.class_mask)
        return made.with_voxels_of(target)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.loss.parts(logits, target, progress, True)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.loss.parts_of_reference(target, dtype)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearer to what is wanted, the higher."""
        value, rank = self.loss.combine(parts, target)
        return -value, -rank


def misplaced(prediction: torch.Tensor, classes: int, activation: str, overlap: float) -> torch.Tensor:
    """Segmentations moved by as few voxels as bring their Dice with themselves to ``overlap``.

    Args:
        prediction: class map (batch, 1, spatial...) or, with sigmoid, masks (batch, class, spatial...).
        classes: of the network.
        activation: ``"softmax"`` or ``"sigmoid"``.
        overlap: see :class:`MisplacedAnatomy`.

    Returns:
        the same kind; what enters the image is background. A segmentation that is empty stays as it is.
    """
    return torch.cat([_moved(one[None], classes, activation, overlap) for one in prediction])


def _moved(one: torch.Tensor, classes: int, activation: str, overlap: float) -> torch.Tensor:
    voxels = int((one > 0).sum())
    found = one
    for moves in _by_distance(one) if voxels else ():
        dice = torch.stack([mean_foreground_dice(move, one, classes, activation)[0] for move in moves])
        left = torch.tensor([float((move > 0).sum()) for move in moves]) / voxels
        far = (dice <= overlap).cpu()
        if bool(far.any()):
            return moves[int(torch.where(far, left, -1.0).argmax())]
        found = moves[int(left.argmax())]
    return found


def _by_distance(one: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """One segmentation, moved by 1, 2, ... voxels both ways along each axis."""
    for distance in range(1, max(one.shape[2:]) // 2 + 1):
        moves = []
        for axis in range(2, one.ndim):
            length = one.shape[axis]
            if distance < length:
                for start, stop in ((0, distance), (length - distance, length)):
                    move = one.roll(distance if start == 0 else -distance, dims=axis)
                    move.narrow(axis, start, stop - start).zero_()
                    moves.append(move)
        yield moves
