# SPDX-License-Identifier: Apache-2.0
"""Attacks by additive noise along the gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients import GradientEstimator, transferable
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.recipes.strong_objective import with_strong_objective
from monai_adversarial.attacks.search import AutoPGD, SteepestAscent
from monai_adversarial.utils.validation import check_positive

__all__ = ["APGD", "BIM", "FGSM", "MIFGSM", "PGD"]


# Twice the radius already crosses the whole ball.
CROSSING = 2.0
# Toward a segmentation there is less to try and more to keep: smaller first steps, and some memory of the last ones.
TOWARD, TOWARD_MOMENTUM = 1.0, 0.5


def _search(step_size: float | None, epsilon: float, momentum: float | None, targeted: bool) -> SteepestAscent:
    """Steps of the given size in the units of epsilon, or falling ones."""
    momentum = (TOWARD_MOMENTUM if targeted and step_size is None else 0.0) if momentum is None else momentum
    if step_size is None:
        return SteepestAscent(TOWARD if targeted else CROSSING, momentum, "linear")
    step_size = check_positive("step_size", step_size)
    return SteepestAscent(CROSSING if epsilon == 0 else min(step_size / epsilon, CROSSING), momentum)


class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018): random start, sign steps, best iterate of each sample.

    By default the steps fall linearly from twice the radius, and the objective is
    :class:`~monai_adversarial.attacks.AnnealedDice`: on every network measured this reaches in 5 steps what steps of a
    quarter of the radius along Dice + cross-entropy reach in 20 (docs/search.md). The attack of before is
    ``PGD(epsilon, step_size=epsilon / 4, objective="dice_ce")``. Targeted, the steps fall from the radius with
    momentum, and the objective is Dice + cross-entropy unless ``classes`` says what shall change (docs/targeted.md).

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> result = PGD(16, "HU", steps=5)(*example_case(16))
    >>> bool(result.success), float(result.budgets["noise_linf"].values)
    (True, 16.0)
    >>> PGD(16, "hounsfield")
    Traceback (most recent call last):
    ValueError: units must be one of ...

    Args:
        epsilon: radius of the budget, in ``units``.
        units: ``"HU"``, ``"network"``, ``"fraction"`` of the intensity window, or ``"percentile"``: share of each
            image's own range from its 1st to its 99th percentile, for MRI and RGB.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        step_size: of every step, in ``units``; None for steps that fall linearly from ``2 * epsilon``, or from
            ``epsilon`` where the attack is targeted.
        momentum: decay of the accumulated gradient, 0 for none; None for 0.5 where the attack is targeted and its steps
            fall, and for none elsewhere.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"annealed_dice"``
            by default, and ``"dice_ce"`` of a targeted attack without ``classes`` (docs/targeted.md).

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; falling steps and
    the objective are our own.

    Survey entry: A03 (adapted).
    """

    fixed_arguments: ClassVar[tuple[str, ...]] = ("perturbation", "search")

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        norm: str = "linf",
        steps: int = 10,
        step_size: float | None = None,
        momentum: float | None = None,
        **options: Any,
    ) -> None:
        noise = AdditiveNoise(epsilon, norm, units)
        search = _search(step_size, noise.epsilon, momentum, bool(options.get("targeted")))
        super().__init__(noise, search=search, steps=steps, **with_strong_objective(options))


# Small steps from the clean image: its first gradient is the one that counts, and that of Dice + cross-entropy.
_FROM_CLEAN: dict[str, Any] = {"random_start": False, "objective": "dice_ce"}


class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015): one step of size ``epsilon`` from the clean image.

    >>> from monai_adversarial.attacks import FGSM
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = FGSM(8, "HU")(model, image, label)
    >>> float((result.adversarial - image).abs().max()), result.backwards
    (8.0, 1)

    Args:
        epsilon: radius of the budget and size of the step, in ``units``.
        units: see :class:`PGD`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; cross-entropy is the paper's
            objective, Dice + cross-entropy the default here, because it hurts segmentation more.

    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, with cross-
    entropy.

    Survey entry: A01 (adapted).
    """

    fixed_arguments = ("perturbation", "search", "steps")

    def __init__(self, epsilon: float, units: str = "network", **options: Any) -> None:
        super().__init__(epsilon, units, steps=1, step_size=epsilon or None, **{**_FROM_CLEAN, **options})


class BIM(PGD):
    """Basic iterative method (Kurakin et al. 2017): sign steps from the clean image.

    >>> from monai_adversarial.attacks import BIM
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> changed = BIM(12, "HU", steps=3)(model, image, label, region=label == 3).adversarial != image
    >>> bool(changed[label == 3].any()), bool(changed[label != 3].any())
    (True, False)

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        steps: gradient evaluations.
        step_size: in ``units``; None for ``epsilon / steps``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world", 2017, with cross-entropy and
    steps of one gray value.

    Survey entry: A02 (adapted).
    """

    def __init__(
        self, epsilon: float, units: str = "network", steps: int = 10, step_size: float | None = None, **options: Any
    ) -> None:
        if step_size is None and epsilon > 0 and steps > 0:
            step_size = epsilon / steps
        super().__init__(epsilon, units, steps=steps, step_size=step_size, **{**_FROM_CLEAN, **options})


class MIFGSM(PGD):
    """Momentum iterative FGSM (Dong et al. 2018): the base of transfer attacks, alone or with input diversity (DI) and
    translation invariance (TI).

    >>> from monai_adversarial.attacks import BIM, MIFGSM
    >>> from monai_adversarial.data.example import example_case
    >>> case = example_case(16)
    >>> steady, plain = MIFGSM(12, "HU", steps=4)(*case), BIM(12, "HU", steps=4)(*case)
    >>> bool((steady.adversarial != plain.adversarial).any()), steady.backwards == plain.backwards
    (True, True)
    >>> from monai_adversarial.attacks import SurrogateGradient
    >>> known = SurrogateGradient(example_case(16)[0])
    >>> result = MIFGSM(12, "HU", steps=4, diversity=0.5, translation=7, gradient=known)(*case)  # MI + DI + TI
    >>> result.forwards, result.surrogate_backwards
    (2, 4)

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        steps: gradient evaluations.
        step_size: in ``units``; None for ``epsilon / steps``.
        momentum: decay of the accumulated gradient.
        diversity: probability of :class:`~monai_adversarial.attacks.InputDiversity` (DI), 0.5 in the literature.
        translation: kernel of :class:`~monai_adversarial.attacks.TranslationInvariance` (TI) in voxels, odd, 7 in
            :class:`~monai_adversarial.attacks.EnsembleTransfer`.
        gradient: what DI and TI are put around: a :class:`~monai_adversarial.attacks.SurrogateGradient`, or None for
            the gradient of the attacked network. :func:`~monai_adversarial.attacks.transferable` has more of the kind.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Source: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, with cross-entropy; Xie et al.,
    "Improving transferability of adversarial examples with input diversity", CVPR 2019, and Dong et al., "Evading
    defenses to transferable adversarial examples by translation-invariant attacks", CVPR 2019.

    Survey entry: A04 (adapted).
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        steps: int = 10,
        step_size: float | None = None,
        momentum: float = 1.0,
        diversity: float = 0.0,
        translation: int = 0,
        gradient: GradientEstimator | None = None,
        **options: Any,
    ) -> None:
        if step_size is None and epsilon > 0 and steps > 0:
            step_size = epsilon / steps
        if diversity or translation:
            gradient = transferable(gradient, diversity=diversity, translation=translation)
        options = {**_FROM_CLEAN, "gradient": gradient, **options}
        super().__init__(epsilon, units, steps=steps, step_size=step_size, momentum=momentum, **options)


class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020): no step size to choose, halved per sample where progress stops.

    By default the steps fall besides, and the objective is :class:`~monai_adversarial.attacks.AnnealedDice`, as of
    :class:`PGD`: with few steps halving alone does less than a plain loop of falling steps (docs/search.md). The
    paper's is ``APGD(epsilon, schedule="constant", objective="cross_entropy")``.

    >>> from monai_adversarial.attacks import APGD
    >>> from monai_adversarial.data.example import example_case
    >>> result = APGD(12, "HU", steps=5)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.backwards
    (True, 5)

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        schedule: by what the steps are multiplied as the run goes on: ``"linear"``, ``"cosine"`` or ``"constant"``; see
            :class:`~monai_adversarial.attacks.AutoPGD`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"annealed_dice"``
            by default, and ``"dice_ce"`` of a targeted attack without ``classes``.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, with cross-entropy; falling steps and the objective are our own.

    Survey entry: A22 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        norm: str = "linf",
        steps: int = 20,
        schedule: str = "linear",
        **options: Any,
    ) -> None:
        noise, search = AdditiveNoise(epsilon, norm, units), AutoPGD(schedule=schedule)
        super().__init__(noise, search=search, steps=steps, **with_strong_objective(options))
