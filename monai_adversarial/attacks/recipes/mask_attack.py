# SPDX-License-Identifier: Apache-2.0
"""Attack that makes a network draw a wanted segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import UnmatchedLogits
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search import AdaptiveMultiplier

__all__ = ["ASMA"]

# Largest change as a share of the intensity range: without it single voxels change by a quarter of the window.
CAP = 16 / 255


class ASMA(Attack):
    """Adaptive segmentation mask attack (Ozbulak et al. 2019): the network draws the segmentation that is wanted.

    The label is the wanted segmentation (``attacks.targets`` makes them), ``truth=`` the true one. Logits of the wanted
    class are raised where the prediction is not yet the wanted one, against the squared length of the change, from the
    clean image on. Each step is multiplied by ``beta * IoU + tau``. The result is the smallest change (Euclidean) among
    the points above ``iou_goal``, or else the point with the highest IoU.

    Its measure is the IoU with the attacker's mask (``result.iou``), which an attack makes high. Dice with the truth
    (``result.truth_dice``) falls on the way. A survey of the field says that ASMA "offers significant IoU degradation";
    that would be the other way round.

    Args:
        epsilon: largest change of a voxel, in ``units``; None for 16/255 of the intensity range with ``step="rms"`` and
            for all of it with ``step="raw"``, as in the paper.
        units: ``"HU"``, ``"network"`` or ``"fraction"`` of the intensity window; see
            :class:`~monai_adversarial.attacks.PGD`. None for ``"fraction"``, or ``"HU"`` where ``value_range`` is
            given.
        step: ``"rms"`` (ours: does not depend on how many voxels are unmatched) or ``"raw"`` (the paper's).
        iou_goal: least mean IoU of a success.
        organs: the classes of the mean IoU; None for all but the background.
        beta, tau: see :class:`~monai_adversarial.attacks.AdaptiveMultiplier`.
        value_range: HU that count as 1, where the model knows no intensity window.
        steps: gradient evaluations; the authors' code takes up to 2501.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import ASMA
        >>> from monai_adversarial.attacks.targets import shifted_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> attack = ASMA(25, "HU", iou_goal=0.8, organs=(1,), beta=3e-3, tau=3e-3, steps=20)
        >>> result = attack(model, image, shifted_organ(label, 1, (0, 9, 0)), truth=label)
        >>> bool(result.success) and bool(result.truth_dice < result.clean_truth_dice)
        True

    Survey entry: A08 (adapted).
    Source: Ozbulak, Van Messem and De Neve, Impact of Adversarial Examples on Deep Learning Models for Biomedical Image
    Segmentation, MICCAI 2019; objective, multiplier and its defaults for raw steps as in the authors' code. The rms
    step, its defaults, the cap, 3D and the choice of the point are ours.
    """

    fixed_arguments = ("perturbation", "objective", "search")

    def __init__(
        self,
        epsilon: float | None = None,
        units: str | None = None,
        step: str = "rms",
        iou_goal: float = 0.9,
        organs: Sequence[int] | None = None,
        beta: float | None = None,
        tau: float | None = None,
        value_range: float | None = None,
        steps: int = 300,
        **options: Any,
    ) -> None:
        search = AdaptiveMultiplier(beta, tau, step, iou_goal, value_range)
        if units is None:
            units = "fraction" if value_range is None else "HU"
        if epsilon is None:
            share = CAP if search.step == "rms" else 1.0
            if units != "fraction" and search.value_range is None:
                raise ValueError(f"epsilon must be given in units of {units!r}: only of a known range it is a share.")
            epsilon = share if units == "fraction" or search.value_range is None else share * search.value_range
        super().__init__(
            AdditiveNoise(epsilon, "linf", units),
            UnmatchedLogits(iou_goal, organs),
            search,
            steps=steps,
            **{"targeted": True, "random_start": False, **options},
        )
