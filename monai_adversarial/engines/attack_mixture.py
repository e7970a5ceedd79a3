# SPDX-License-Identifier: Apache-2.0
"""Batches attacked by one of several attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai_adversarial.attacks import Attack
from monai_adversarial.engines.batch import check_trains
from monai_adversarial.engines.prepare_batch import PrepareBatchAdversarial
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.draws import chance
from monai_adversarial.utils.validation import check_count

__all__ = ["PrepareBatchAttackMixture"]


class PrepareBatchAttackMixture(PrepareBatchAdversarial):
    """Attacks each batch with one of several attacks, drawn with equal chances: mixed kinds and strengths, as defenses
    are trained on. Which one depends on the seed and the number of the batch alone, so that a training that is resumed
    from ``state_dict`` goes on exactly.

    Args:
        attacks: the attacks; None among them leaves its share of the batches clean.
        model: see :class:`PrepareBatchAdversarial`.
        seed: of the draws.
        options: further arguments of :class:`PrepareBatchAdversarial`.

    Raises:
        ValueError: without attacks.
        TypeError: for something else than an ``Attack`` or None among them.
    """

    def __init__(
        self,
        attacks: Sequence[Attack | None],
        model: AttackedModel | Callable[..., Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.attacks = tuple(attacks)
        if not self.attacks:
            raise ValueError("attacks must hold at least one attack or None, got none.")
        for attack in self.attacks:
            if attack is not None and not isinstance(attack, Attack):
                raise TypeError(f"attacks must be Attack objects or None, got {type(attack).__name__}.")
            if attack is not None and options.get("training"):
                check_trains(attack, "attacks")
        self.seed = check_count("seed", seed, minimum=0)
        super().__init__(None, model, **options)

    def attack_of(self, number: int) -> Attack | None:
        """The attack that is drawn for a batch."""
        return self.attacks[int(chance(self.seed, number) * len(self.attacks))]

    def attacks_of(self) -> tuple[Attack, ...]:
        """All but None."""
        return tuple(attack for attack in self.attacks if attack is not None)
