# SPDX-License-Identifier: Apache-2.0
"""Targeted attack led by features that leaves low frequencies alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import FeatureCosine, LowFrequencyPenalized, Objective
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search import SteepestAscent

__all__ = ["MAFL"]


class MAFL(Attack):
    """Momentum-driven adaptive feature cosine similarity with a low-frequency constraint (after Sun et al. 2025): the
    network draws the segmentation that is wanted.

    The label is the wanted segmentation (``attacks.targets`` makes them), ``truth=`` the true one. Its measure is the
    overlap with the attacker's mask; Dice with the truth (``result.truth_dice``) falls on the way.

    Args:
        epsilon: largest change of a voxel, in ``units``.
        layers: names of deep layers, as in ``network.named_modules()``, whose features turn away from the clean ones.
        units: ``"HU"``, ``"network"``, ``"fraction"`` or ``"percentile"``; see
            :class:`~monai_adversarial.attacks.PGD`.
        toward: an image, (1 or batch, channel, spatial...), of which the wanted segmentation is true and whose features
            attract; None for none.
        objective: distance to the wanted segmentation, an objective of sums over voxels.
        feature_weight: of the features, see :class:`~monai_adversarial.attacks.FeatureCosine`.
        low_frequency_weight: of low frequencies, see :class:`~monai_adversarial.attacks.LowFrequencyPenalized`.
        momentum: decay of the accumulated gradient; with 1, as of MI-FGSM, falling steps reach less.
        steps: gradient evaluations, whose size falls linearly from half the radius.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import MAFL
        >>> from monai_adversarial.attacks.targets import shifted_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> attack = MAFL(30, ["smoothing"], "HU", steps=10)
        >>> result = attack(model, image, shifted_organ(label, 1, (0, 9, 0)), truth=label)
        >>> bool(result.adversarial_dice > result.clean_dice), bool(result.truth_dice < result.clean_truth_dice)
        (True, True)

    Survey entry: X13 (reconstruction).

    Source: Sun et al., "MAFL-Attack: a targeted attack method against deep learning-based medical image segmentation
    models", Journal of Medical Imaging 12(4) 044501, 2025. Only the abstract was readable: it names the four parts
    (momentum, features, low frequencies, dynamic steps) and no formula. Features and low frequencies follow Luo et al.
    2022; the objective on the mask, the falling steps and all weights are ours.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        epsilon: float,
        layers: Sequence[str],
        units: str = "network",
        toward: Any = None,
        objective: str | Objective = "dice_ce",
        feature_weight: float = 0.1,
        low_frequency_weight: float = 10.0,
        momentum: float = 0.5,
        steps: int = 30,
        **options: Any,
    ) -> None:
        quiet = LowFrequencyPenalized(objective, low_frequency_weight=low_frequency_weight)
        led = FeatureCosine(quiet, layers, feature_weight, toward)
        search = SteepestAscent(0.5, momentum, "linear")
        chosen = {"targeted": True, "random_start": False, **options}
        super().__init__(AdditiveNoise(epsilon, units=units), led, search, steps=steps, **chosen)
