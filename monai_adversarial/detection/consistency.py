# SPDX-License-Identifier: Apache-2.0
"""A clean image is segmented the same after it is flipped or turned; an attack fits one orientation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import torch

from monai_adversarial.detection.squeezing import PredictionComparison
from monai_adversarial.utils.validation import check_flag

__all__ = ["OrientationConsistency"]

Move = Callable[[torch.Tensor], torch.Tensor]


class OrientationConsistency(PredictionComparison):
    """Mean disagreement between the answer to an image and those to its flips and quarter turns, moved back.

    Quarter turns are taken in planes whose two axes have the same number of voxels; nothing is interpolated. It takes
    one pass through the network for the image and one for each move: 5 where two axes of a volume are equal, 7 where
    all are.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import OrientationConsistency
    >>> model, image, _ = example_case(16)
    >>> OrientationConsistency(model).score(image) < 1e-3  # its network has no preferred orientation
    tensor([True])

    Args:
        model: an ``AttackedModel``, or a bare network.
        flips: along each axis.
        rotations: a quarter turn in each plane of equal axes.
        reduction: ``"max"`` or ``"mean"`` over foreground classes.

    Raises:
        ValueError: where neither is asked for or possible.

    Source: own form; the idea of comparing predictions under rotations is that of EVADE as the survey names it, whose
    paper was not read.
    """

    def __init__(self, model: Any, flips: bool = True, rotations: bool = True, reduction: str = "mean") -> None:
        super().__init__(model, reduction)
        self.flips, self.rotations = check_flag("flips", flips), check_flag("rotations", rotations)
        if not (self.flips or self.rotations):
            raise ValueError("flips and rotations must not both be False.")

    def _moves(self, image: torch.Tensor) -> list[tuple[Move, Move]]:
        axes = range(2, image.ndim)
        found: list[tuple[Move, Move]] = []
        if self.flips:
            found += [(partial(torch.flip, dims=(axis,)),) * 2 for axis in axes]  # type: ignore[misc]
        if self.rotations:
            found += [
                (partial(torch.rot90, k=1, dims=plane), partial(torch.rot90, k=-1, dims=plane))
                for plane in combinations(axes, 2)
                if image.shape[plane[0]] == image.shape[plane[1]]
            ]
        if not found:
            raise ValueError(
                f"rotations need two axes with the same number of voxels, got {tuple(image.shape[2:])}: "
                "pass flips=True."
            )
        return found

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        moves, unmoved = self._moves(image), self._answer(image, like, smooth)
        found = [self._apart(unmoved, self._answer(move(image), like, smooth), back) for move, back in moves]
        return torch.stack(found).mean(dim=0)
