# SPDX-License-Identifier: Apache-2.0
"""Batches attacked by one of several attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from monai_adversarial.attacks import Attack
from monai_adversarial.engines.prepare_batch import PrepareBatchAdversarial

__all__ = ["PrepareBatchAttackMixture"]


class PrepareBatchAttackMixture(PrepareBatchAdversarial):
    """Attacks each batch with one of several attacks, drawn with equal chances: mixed kinds and strengths, as defenses
    are trained on.

    Args:
        attacks: the attacks; None among them leaves its share of the batches clean.
        network: see :class:`PrepareBatchAdversarial`.
        seed: of the draws.
        options: further arguments of :class:`PrepareBatchAdversarial`.

    Raises:
        ValueError: without attacks.
        TypeError: for something else than an ``Attack`` or None among them.
    """

    def __init__(
        self, attacks: Sequence[Attack | None], network: Callable[..., Any], seed: int = 0, **options: Any
    ) -> None:
        super().__init__(None, network, **options)
        self.attacks = list(attacks)
        if not self.attacks:
            raise ValueError("attacks must hold at least one attack or None, got none.")
        for attack in self.attacks:
            if attack is not None and not isinstance(attack, Attack):
                raise TypeError(f"attacks must be Attack objects or None, got {type(attack).__name__}.")
        self.random = np.random.RandomState(seed)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw an attack and prepare the batch with it."""
        self.attack = self.attacks[self.random.randint(len(self.attacks))]
        return super().__call__(*args, **kwargs)
