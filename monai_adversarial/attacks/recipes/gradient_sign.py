# SPDX-License-Identifier: Apache-2.0
"""Attacks by additive noise along the gradient."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search import AutoPGD, SteepestAscent
from monai_adversarial.utils.validation import check_positive

__all__ = ["APGD", "BIM", "FGSM", "MIFGSM", "PGD"]


def _relative_step(step_size: float | None, epsilon: float, default: float) -> float:
    """Step size in the units of epsilon -> fraction of the radius."""
    if step_size is None:
        return default
    step_size = check_positive("step_size", step_size)
    if epsilon == 0:
        return default
    return min(step_size / epsilon, 2.0)  # twice the radius already crosses the whole ball


class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018): random start, sign steps, best iterate of each sample.

    Args:
        epsilon: radius of the budget, in ``units``.
        units: ``"HU"``, ``"network"``, ``"fraction"`` of the intensity window, or ``"percentile"``: share of each
            image's own range from its 1st to its 99th percentile, for MRI and RGB.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        step_size: in ``units``; None for a quarter of ``epsilon``.
        momentum: decay of the accumulated gradient, 0 for none.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        norm: str = "linf",
        steps: int = 10,
        step_size: float | None = None,
        momentum: float = 0.0,
        **options: Any,
    ) -> None:
        noise = AdditiveNoise(epsilon, norm, units)
        search = SteepestAscent(_relative_step(step_size, noise.epsilon, 0.25), momentum)
        super().__init__(noise, search=search, steps=steps, **options)


class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015): one step of size ``epsilon`` from the clean image.

    Args:
        epsilon: radius of the budget and size of the step, in ``units``.
        units: see :class:`PGD`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; cross-entropy is the paper's
            objective, Dice + cross-entropy the default here, because it hurts segmentation more.
    """

    def __init__(self, epsilon: float, units: str = "network", **options: Any) -> None:
        super().__init__(epsilon, units, steps=1, step_size=epsilon or None, **{"random_start": False, **options})


class BIM(PGD):
    """Basic iterative method (Kurakin et al. 2017): sign steps from the clean image.

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        steps: gradient evaluations.
        step_size: in ``units``; None for ``epsilon / steps``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.
    """

    def __init__(
        self, epsilon: float, units: str = "network", steps: int = 10, step_size: float | None = None, **options: Any
    ) -> None:
        if step_size is None and epsilon > 0 and steps > 0:
            step_size = epsilon / steps
        super().__init__(epsilon, units, steps=steps, step_size=step_size, **{"random_start": False, **options})


class MIFGSM(PGD):
    """Momentum iterative FGSM (Dong et al. 2018): the base of transfer attacks.

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        steps: gradient evaluations.
        step_size: in ``units``; None for ``epsilon / steps``.
        momentum: decay of the accumulated gradient.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        steps: int = 10,
        step_size: float | None = None,
        momentum: float = 1.0,
        **options: Any,
    ) -> None:
        if step_size is None and epsilon > 0 and steps > 0:
            step_size = epsilon / steps
        options = {"random_start": False, **options}
        super().__init__(epsilon, units, steps=steps, step_size=step_size, momentum=momentum, **options)


class APGD(Attack):
    """Auto-PGD (Croce and Hein 2020): no step size to choose, halved per sample where progress stops.

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`PGD`.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.
    """

    def __init__(
        self, epsilon: float, units: str = "network", norm: str = "linf", steps: int = 20, **options: Any
    ) -> None:
        super().__init__(AdditiveNoise(epsilon, norm, units), search=AutoPGD(), steps=steps, **options)
