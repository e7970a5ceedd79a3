# SPDX-License-Identifier: Apache-2.0
"""Attacks on the frequencies of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives.ssim_penalized import SSIMPenalized
from monai_adversarial.attacks.perturbations.frequency_quantization import FrequencyQuantization
from monai_adversarial.attacks.perturbations.spectral_noise import SpectralNoise
from monai_adversarial.attacks.search import SteepestAscent
from monai_adversarial.utils.validation import check_positive

__all__ = ["VAFA", "AdvDrop", "SpectralAttack"]


def _search(step_size: float, radius: float) -> SteepestAscent:
    step_size = check_positive("step_size", step_size)
    return SteepestAscent(step_size / radius if radius > 0 else 1.0)


class VAFA(Attack):
    """Volumetric adversarial frequency attack: one quantization table per volume, learned by sign steps.

    The objective is Dice loss minus ``1 - SSIM``. In the paper transformer and convolutional networks lose far more to
    VAFA than to PGD, FGSM or BIM at 4 and 8 of 255, at an image that has no bound on the change of a voxel. A budget in
    HU does not compare with it; the largest change, its root mean square and the SSIM are in ``result.budgets``.

    >>> from monai_adversarial.attacks import VAFA
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = VAFA(largest_step=60, block_size=16, steps=4, step_size=15)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        largest_step: q_max, in 1/255 of the window's width.
        block_size: voxels along each axis of a block.
        steps: gradient evaluations.
        step_size: of every step, in 1/255 of the window's width.
        first_step: of the table at which the search begins; None for the largest one.
        ssim_weight: factor of ``1 - SSIM``.
        window: (low, high) in HU; None for that of the intensity map.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: X02 (published).

    Source: Hanif et al., "Frequency domain adversarial training for robust volumetric medical segmentation", MICCAI
    2023: blocks of 32, 20 sign steps of 1, q_max 20. The paper begins with steps of 1 and its code with the largest
    ones. From 1 on sign steps wander so much here that random tables do more harm. How the rounding differs is said at
    :class:`~monai_adversarial.attacks.FrequencyQuantization`.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        largest_step: float = 20.0,
        block_size: int = 32,
        steps: int = 20,
        step_size: float = 1.0,
        first_step: float | None = None,
        ssim_weight: float = 1.0,
        window: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        first = largest_step if first_step is None else first_step
        table = FrequencyQuantization(largest_step, block_size=block_size, first_step=first, window=window)
        chosen = {"objective": SSIMPenalized("dice", ssim_weight=ssim_weight, window=window), **options}
        super().__init__(table, search=_search(step_size, table.largest_step), steps=steps, **chosen)


class AdvDrop(Attack):
    """Drops information that the network needs: quantization tables of small blocks, learned by sign steps.

    It adds nothing that was not in the image before; what is dropped has no bound in HU.

    >>> from monai_adversarial.attacks import AdvDrop
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = AdvDrop(steps=3, step_size=20)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        largest_step: the largest step of the table, in 1/255 of the window's width.
        smallest_step: the smallest step, in 1/255 of the window's width.
        block_size: voxels along each axis of a block.
        steps: gradient evaluations.
        step_size: of every step, in 1/255 of the window's width.
        first_step: of the table at which the search begins; None for the largest one.
        window: (low, high) in HU; None for that of the intensity map.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; the objective is cross-entropy.

    Survey entry: A22 (adapted).

    Source: Duan et al., "AdvDrop: adversarial attack to DNNs by dropping information", ICCV 2021, for 2D photographs:
    blocks of 8, steps from 5 on, 40 to 50 sign steps. One table for three dimensions, the largest step of 60, the
    step size of 1, and the beginning at the largest steps are our choice.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        largest_step: float = 60.0,
        smallest_step: float = 5.0,
        block_size: int = 8,
        steps: int = 50,
        step_size: float = 1.0,
        first_step: float | None = None,
        window: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        first = largest_step if first_step is None else first_step
        table = FrequencyQuantization(largest_step, smallest_step, block_size, first, window=window)
        chosen = {"objective": "cross_entropy", **options}
        super().__init__(table, search=_search(step_size, table.largest_step), steps=steps, **chosen)


class SpectralAttack(Attack):
    """Multiplicative noise on the coefficients of the cosine transform, with an eye on the SSIM.

    >>> from monai_adversarial.attacks import SpectralAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = SpectralAttack(steps=3, step_size=0.2)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        rho: largest relative change of a coefficient.
        block_size: voxels along each axis of a block.
        band: lowest and highest frequency that changes, as shares from 0 to 1.
        steps: gradient evaluations.
        step_size: of every sign step, as a relative change.
        dice_weight: factor of the Dice loss.
        ssim_weight: factor of ``1 - SSIM``.
        window: (low, high) in HU; None for that of the intensity map.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: X03 (reconstruction).

    Source: SA2 (ISBI 2025): rho 0.4, 10 sign steps of 0.1, blocks of 16, weights 0.2 (Dice) and 0.75 (SSIM), from its
    public options. The body of the paper was not read.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        rho: float = 0.4,
        block_size: int = 16,
        band: Sequence[float] = (0.0, 1.0),
        steps: int = 10,
        step_size: float = 0.1,
        dice_weight: float = 0.2,
        ssim_weight: float = 0.75,
        window: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        noise = SpectralNoise(rho, block_size, band, window)
        similar = SSIMPenalized("dice", dice_weight, ssim_weight, window=window)
        chosen = {"objective": similar, "random_start": False, **options}
        super().__init__(noise, search=_search(step_size, noise.rho), steps=steps, **chosen)
