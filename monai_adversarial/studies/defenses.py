# SPDX-License-Identifier: Apache-2.0
"""Inferers with purifiers in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from monai_adversarial.inferers import PurifiedInferer, ScannerSpaceInferer
from monai_adversarial.purifiers.base import Purifier

__all__ = ["check_purifier_name", "place_purifiers"]


def place_purifiers(
    inferer: Any, purifiers: Mapping[str, Purifier], network_grid: Mapping[str, Purifier] | None = None
) -> dict[str, Any]:
    """One defended inferer per purifier.

    >>> from monai.inferers import SimpleInferer
    >>> from monai_adversarial.purifiers import GaussianDenoise, MedianDenoise
    >>> from monai_adversarial.studies import place_purifiers
    >>> defenses = place_purifiers(SimpleInferer(), {"gaussian": GaussianDenoise(), "median": MedianDenoise()})
    >>> {name: type(inferer).__name__ for name, inferer in defenses.items()}
    {'gaussian': 'PurifiedInferer', 'median': 'PurifiedInferer'}

    Args:
        inferer: undefended inferer, None for a network alone.
        purifiers: go around it: they see what it sees.
        network_grid: go into it, a ``ScannerSpaceInferer``, behind its resampling and intensity map: they see the
            network's values on the network's grid.

    Raises:
        TypeError: for ``network_grid`` without a ``ScannerSpaceInferer``.
        ValueError: for a name that occurs twice.
    """
    inside = dict(network_grid or {})
    if inside and not isinstance(inferer, ScannerSpaceInferer):
        raise TypeError(
            f"purifiers on the network's grid need a ScannerSpaceInferer around them, got {type(inferer).__name__}."
        )
    twice = sorted(set(purifiers) & set(inside))
    if twice:
        raise ValueError(f"every purifier needs a name of its own, but {twice[0]!r} occurs twice.")
    defended: dict[str, Any] = {name: PurifiedInferer(inferer, purifier) for name, purifier in purifiers.items()}
    for name, purifier in inside.items():
        outer = copy.copy(inferer)
        outer.inferer = PurifiedInferer(inferer.inferer, purifier)
        defended[name] = outer
    return defended


def check_purifier_name(name: str | None) -> str:
    """The name of the purifier that a training config trains, which its weights are called by.

    >>> from monai_adversarial.studies import check_purifier_name
    >>> check_purifier_name("autoencoder")
    'autoencoder'
    >>> check_purifier_name(None)
    Traceback (most recent call last):
    ValueError: ...

    Raises:
        ValueError: without one: the config alone has nothing to take away from the images.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(
            "choose a purifier: add an overlay such as configs/purifier_autoencoder.yaml to --config_file, or set "
            f"purifier_name for your own, got {name!r}."
        )
    return name
