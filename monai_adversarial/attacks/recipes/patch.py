# SPDX-License-Identifier: Apache-2.0
"""Attack by an object beside the organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients import ExpectationOverTransformation
from monai_adversarial.attacks.perturbations.localized_patch import BoundLocalizedPatch, LocalizedPatch
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import SteepestAscent
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count

__all__ = ["PatchAttack"]

# Movements that are scored are none of those that the search saw.
SCORED_STREAM = 3_000_000


class PatchAttack(Attack):
    """A cube or cylinder of admissible materials outside the organs, averaged over its place (Eykholt et al. 2018).

    Call it with ``region=`` the voxels where objects may be, for example ``label == 0``. Each gradient is the mean over
    ``placements`` random movements of up to ``jitter`` mm. The result has the object at its center;
    ``dice_over_placements`` says what it does elsewhere.

    Args:
        size, shape, center, materials, jitter: see :class:`~monai_adversarial.attacks.LocalizedPatch`.
        placements: random movements per gradient; with ``jitter=0`` there is one place.
        steps: gradients.
        relative_step: first step as a share of half the range of the materials; it falls linearly.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import PatchAttack
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> attack = PatchAttack(12.0, "cylinder", jitter=3.0, placements=2, steps=4)
        >>> result = attack(model, image, label, region=label == 0)
        >>> attack.dice_over_placements(result, label, placements=3).shape
        torch.Size([3, 1])

    Survey entry: A24 (adapted).
    Source: see :class:`~monai_adversarial.attacks.LocalizedPatch`.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        size: float | Sequence[float],
        shape: str = "cube",
        center: Sequence[int] | None = None,
        materials: Mapping[str, tuple[float, float]] | None = None,
        jitter: float = 5.0,
        placements: int = 4,
        steps: int = 20,
        relative_step: float = 1.0,
        **options: Any,
    ) -> None:
        patch = LocalizedPatch(size, shape, center, materials, jitter)
        averaged = ExpectationOverTransformation(check_count("placements", placements)) if patch.jitter > 0 else None
        search = SteepestAscent(relative_step, schedule="linear")
        super().__init__(patch, search=search, steps=steps, **{"gradient": averaged, **options})

    def dice_over_placements(self, result: AttackResult, label: torch.Tensor, placements: int = 8) -> torch.Tensor:
        """Mean foreground Dice with the object at random places that the search has not seen, (placements, batch).

        Args:
            result: of this attack.
            label: as the attack got it.
            placements: number of places; one forward pass each, and one of the clean image.
        """
        bound, model = result.bound, result.model
        if not isinstance(bound, BoundLocalizedPatch) or model is None:
            raise TypeError("result must be that of a PatchAttack, whose model is known.")
        found = []
        with self.scope(model, result.adversarial) as (predictor, _):
            answer = predictor.read_clean(result.image)
            reference = Reference.read(predictor.model, as_plain(label).to(result.image.device), answer.classes)
            for number in range(check_count("placements", placements)):
                image = bound.finished(result.image, result.parameters, bound.offsets(SCORED_STREAM + number))
                found.append(reference.score(predictor.answer(image).prediction))
        return torch.stack(found)
