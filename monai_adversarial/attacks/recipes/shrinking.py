# SPDX-License-Identifier: Apache-2.0
"""Budgets that shrink during a search, and the segmentation ensemble that was published with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.ensemble import AttackEnsemble, Member
from monai_adversarial.attacks.recipes.gradient_sign import APGD
from monai_adversarial.attacks.shrinking_run import ShrinkingRun
from monai_adversarial.utils.validation import check_count, check_instance

__all__ = ["SEA3D", "ShrinkingRadius"]

#: factor of the budget and share of the steps, as published
PHASES = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))


class ShrinkingRadius(Attack):
    """An attack that searches in a larger budget first and ends in its own.

    The best point of each phase, projected into the next budget, is where the next phase begins. Only points of the
    last phase count, so that the outcome keeps the budget.

    Source: Croce, Singh, Hein, ECCV 2024: 2 epsilon, 1.5 epsilon, epsilon for 30, 30 and 40 % of the steps.

    Survey entry: X04 (published).

    >>> from monai_adversarial.attacks import APGD, ShrinkingRadius
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = ShrinkingRadius(APGD(4, units="HU", steps=10))(model, image, label)
    >>> bool(result.budgets["noise_linf"].values <= 4), result.backwards
    (True, 10)

    Args:
        attack: what searches; its steps are shared out to the phases.
        phases: (factor of the budget, share of the steps) of each phase; the last factor is 1.

    Raises:
        TypeError: for anything but a single attack.
        ValueError: for phases that do not end in the budget, or fewer steps than phases, and for several restarts.
    """

    _run_type = ShrinkingRun

    def __init__(self, attack: Attack, phases: Sequence[tuple[float, float]] = PHASES) -> None:
        check_instance("attack", attack, Attack, "APGD(8, units='HU')")
        if isinstance(attack, AttackEnsemble):
            raise TypeError(f"attack must be a single attack, got {type(attack).__name__}.")
        self.phases = tuple((float(factor), float(share)) for factor, share in phases)
        if not self.phases or self.phases[-1][0] != 1.0 or min(min(phase) for phase in self.phases) <= 0:
            raise ValueError(
                f"phases must be pairs of numbers above 0 (factor of the budget, share of the steps) of which the last "
                f"factor is 1, got {phases!r}."
            )
        if attack.steps < len(self.phases) or attack.restarts != 1:
            raise ValueError(
                f"attack must have one restart and at least a step for each of {len(self.phases)} phases, got "
                f"{attack.restarts} restarts and {attack.steps} steps."
            )
        super().__init__(
            attack.perturbation,
            attack.objective,
            attack.search,
            attack.gradient,
            steps=attack.steps,
            random_start=attack.random_start,
            targeted=attack.targeted,
            classes=attack.classes,
            early_stop=attack.early_stop,
            success_threshold=attack.success_threshold,
            seed=attack.seed,
            progress=attack.progress,
        )


class SEA3D(AttackEnsemble):
    """Segmentation ensemble attack in three dimensions: Auto-PGD along three losses with a budget that shrinks.

    Losses: balanced masked cross-entropy, masked cross-entropy, Jensen-Shannon divergence. The worst of each case is
    chosen by its mean foreground Dice (reconstruction: by accuracy and mean IoU in the paper).

    Source: Croce, Singh, Hein, "Towards reliable evaluation and fast training of robust semantic segmentation models",
    ECCV 2024, section 3; 300 steps there.

    Survey entry: X04 (adapted).

    >>> from monai_adversarial.attacks import SEA3D
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> len(SEA3D(4, units="HU", steps=3)(model, image, label).members)
    3

    Args:
        epsilon: radius of the L-infinity budget, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        steps: gradients of each member.
        options: further arguments of :class:`~monai_adversarial.attacks.AttackEnsemble`, and ``gradient``, ``classes``
            and ``seed`` for all members.
    """

    def __init__(self, epsilon: float, units: str = "network", steps: int = 300, **options: Any) -> None:
        shared: dict[str, Any] = {name: options.pop(name) for name in ("gradient", "classes") if name in options}
        shared |= {"seed": options.pop("seed", 0), "steps": check_count("steps", steps, minimum=len(PHASES))}
        super().__init__(
            [
                Member(name, ShrinkingRadius(APGD(epsilon, units, schedule="constant", objective=objective, **shared)))
                for name, objective in (
                    ("balanced masked cross-entropy", "balanced_masked_cross_entropy"),
                    ("masked cross-entropy", "masked_cross_entropy"),
                    ("Jensen-Shannon", "jensen_shannon"),
                )
            ],
            **options,
        )
