# SPDX-License-Identifier: Apache-2.0
"""The strongest evaluation in one name: different attacks within one budget, the worst outcome of each case."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.ensemble import AttackEnsemble, Member
from monai_adversarial.attacks.objectives import Dice
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.recipes.gradient_sign import PGD
from monai_adversarial.attacks.recipes.square import SquareAttack
from monai_adversarial.attacks.search import AutoPGD, SteepestAscent
from monai_adversarial.utils.validation import check_count

__all__ = ["AutoAttack3D"]


class AutoAttack3D(AttackEnsemble):
    """What to believe a defense by: six attacks of different kinds within one L-infinity budget, worst of each case.

    Members, in this order; each works on the cases of which any Dice is left (``early_stop``: that have not failed):

    1. PGD whose steps fall from twice the budget, along the Dice of logits that sharpen from step to step.
    2. The same along balanced masked cross-entropy, which does not saturate.
    3. The same along the Dice of sharpened logits (8), which suits hardened networks.
    4. The same towards a segmentation without any organ: targeted, for organs that other objectives leave alone.
    5. Auto-PGD from the best point so far, with a first step of the radius instead of twice that.
    6. The square attack with cubes, by queries alone: it needs no gradient, so that masked ones show.

    Members, order and steps were chosen on CT phantoms and one abdominal network at equal cost, and shown on others
    (docs/attack_table.md). Cost per case: ``5 * steps`` gradients, ``queries`` queries, and one or two passes of each
    member for its score. The result says what each member did, and names signs of masked gradients (``flags``,
    docs/gradient_masking.md).

    Source: after AutoAttack (Croce and Hein 2020) and its form for segmentation (Croce, Singh, Hein, "Towards reliable
    evaluation and fast training of robust semantic segmentation models", ECCV 2024) and for volumes (Daza, Pérez,
    Arbeláez, "Towards robust general medical image segmentation", MICCAI 2021). The members are our own choice.

    Survey entry: X04 (adapted), X06 (adapted).

    >>> from monai_adversarial.attacks import PGD, AutoAttack3D
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = AutoAttack3D(4, units="HU", steps=2, queries=4)(model, image, label)
    >>> single = PGD(4, units="HU", steps=2)(model, image, label)
    >>> bool(result.adversarial_dice <= single.adversarial_dice)
    True

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        steps: gradients of each of the five members that use them.
        queries: of the square attack; 0 leaves it out, and with it the only member that sees masked gradients.
        options: further arguments of :class:`~monai_adversarial.attacks.AttackEnsemble`, and ``gradient``, ``classes``
            and ``seed`` for all members, for example ``gradient=BackwardPassSubstitute()`` for a purified network.
    """

    def __init__(
        self, epsilon: float, units: str = "network", steps: int = 20, queries: int = 200, **options: Any
    ) -> None:
        steps, queries = check_count("steps", steps), check_count("queries", queries, minimum=0)
        shared: dict[str, Any] = {name: options.pop(name) for name in ("gradient", "classes") if name in options}
        shared["seed"] = options.pop("seed", 0)
        by_query = {name: value for name, value in shared.items() if name != "gradient"}

        def pgd(objective: Any, **more: Any) -> PGD:
            return PGD(epsilon, units, steps=steps, objective=objective, **shared, **more)

        # From a good point a first step of the whole radius leads further than the crossing of the ball.
        search = AutoPGD(relative_step=1.0)
        onward = Attack(AdditiveNoise(epsilon, units=units), "annealed_dice", search, steps=steps, **shared)
        # No organ is left: this goes on destroying, in steps as large as those of the others.
        crossing = SteepestAscent(2.0, schedule="linear")
        noise = AdditiveNoise(epsilon, units=units)
        erasing = Attack(noise, "masked_cross_entropy", crossing, steps=steps, targeted=True, **shared)
        members = [
            Member("PGD, annealed Dice", pgd("annealed_dice")),
            Member("PGD, balanced masked cross-entropy", pgd("balanced_masked_cross_entropy")),
            Member("PGD, sharpened Dice", pgd(Dice(sharpness=8.0))),
            Member("PGD, no organ", erasing, erase=True),
            Member("Auto-PGD", onward, continues=True),
        ]
        if queries:
            members.append(Member("square attack", SquareAttack(epsilon, units, queries=queries, **by_query)))
        super().__init__(members, **options)
