# SPDX-License-Identifier: Apache-2.0
"""What is done to one training case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from monai_adversarial.utils.calls import ShownAsCall

__all__ = ["Poison", "taken"]


class Poison(ShownAsCall, ABC):
    """Changes one case of a dataset; what it draws comes from the generator alone, so that a case is always the same.

    A case is a dictionary as MONAI's datasets give it: ``image`` (channel, spatial...), ``label`` (1 or class,
    spatial...) or a class number.

    >>> import torch
    >>> from monai_adversarial.poisoning import Poison, PoisonedDataset
    >>> class Darken(Poison):
    ...     def __call__(self, case, generator):
    ...         return {**case, "image": case["image"] - 50 * torch.rand(1, generator=generator)}
    >>> cases = [{"image": torch.zeros(1, 4, 4, 4), "label": number} for number in range(8)]
    >>> poisoned = PoisonedDataset(cases, Darken(), rate=0.25)
    >>> [bool((case["image"] != 0).any()) for case in poisoned].count(True)
    2
    """

    _shows_defaults = True

    @abstractmethod
    def __call__(self, case: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The poisoned case, a new dictionary; nothing in ``case`` is changed.

        Args:
            case: one item of the dataset.
            generator: random numbers of this case.
        """


def taken(case: Mapping[str, Any], key: str) -> Any:
    """What a case holds under a key.

    Raises:
        KeyError: names the key and those that are there.
    """
    if key not in case:
        raise KeyError(f"the case has no key {key!r}, it has {', '.join(map(repr, case))}.")
    return case[key]
