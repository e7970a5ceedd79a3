# SPDX-License-Identifier: Apache-2.0
"""The worst of N random transforms."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.drawn_run import DrawnRun
from monai_adversarial.attacks.objectives import HardDice
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.perturbations.random_transform import RandomTransform
from monai_adversarial.attacks.search.random_search import RandomSearch
from monai_adversarial.utils.calls import shown
from monai_adversarial.utils.validation import check_count

__all__ = ["WorstOf"]

# Arguments that the perturbation shows.
OF_TRANSFORM = ("transform", "draws", "units", "moves_anatomy", "keep_prob")


class WorstOf(Attack):
    """The worst of some draws of any random transform of MONAI or TorchIO, for each sample (worst-of-k, Engstrom et al.
    2019), and what all draws do.

    It asks about ``draws`` images by queries alone: ``draws`` + 2 forward passes of each sample, with the clean image
    and the worst one again, which is scored. The worst draw is the one with the lowest mean foreground Dice. The
    returned :class:`~monai_adversarial.attacks.DrawnResult` has the Dice and the predicted volumes of every draw: mean,
    worst and coefficient of variation. Draws depend on the seed and the voxels alone, whatever batch size and order;
    the first draws of a larger number are those of a smaller one.

    There is no budget but the transform's own settings: ``largest_change`` and ``rms_change`` say how far the worst
    draw went.

    >>> from monai.transforms import RandAdjustContrast
    >>> from monai_adversarial.attacks import WorstOf
    >>> from monai_adversarial.data.example import example_case
    >>> result = WorstOf(RandAdjustContrast(gamma=(0.7, 1.5)), draws=3, units="network")(*example_case(16))
    >>> bool(result.worst_dice <= result.mean_dice), result.forwards
    (True, 5)

    Args:
        transform: random transform of MONAI or TorchIO, see
            :class:`~monai_adversarial.attacks.RandomTransform`; or a perturbation of this package, of which random
            points within its budget are drawn, in HU and mm.
        draws: number of draws.
        units: ``"HU"``, ``"network"`` or ``"percentile"``; None for HU where the map is known.
        moves_anatomy: whether labels move with the image, for transforms that do not tell.
        keep_prob: keep the transforms' own ``prob``; by default each is applied in each draw.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; the objective is ``HardDice()`` by
            default.

    Raises:
        TypeError, ValueError: for a transform that is not supported, options of it with a perturbation, and
            ``early_stop``, which would leave draws out.
    """

    fixed_arguments = ("perturbation", "search", "steps", "random_start")
    _run_type = DrawnRun

    def __init__(
        self,
        transform: Any,
        draws: int = 16,
        *,
        units: str | None = None,
        moves_anatomy: bool | None = None,
        keep_prob: bool = False,
        **options: Any,
    ) -> None:
        if options.get("early_stop"):
            raise ValueError("early_stop must be False for WorstOf: its mean is over all draws.")
        if isinstance(transform, Perturbation):
            if units is not None or moves_anatomy is not None or keep_prob:
                raise ValueError(
                    f"units, moves_anatomy and keep_prob are for transforms of MONAI and TorchIO, but transform is "
                    f"{type(transform).__name__}, which has its own."
                )
            perturbation = transform
        else:
            perturbation = RandomTransform(transform, units, moves_anatomy, keep_prob)
        draws = check_count("draws", draws)
        options = {"objective": HardDice(), **options}
        super().__init__(perturbation, search=RandomSearch(), steps=draws, random_start=True, **options)

    def __repr__(self) -> str:
        kept = {name: value for name, value in self._given[1].items() if name not in OF_TRANSFORM}
        options = [f"{name}={shown(value)}" for name, value in kept.items()]
        return f"{type(self).__name__}({', '.join([repr(self.perturbation), f'draws={self.steps}', *options])})"
