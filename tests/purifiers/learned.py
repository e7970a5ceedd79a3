# SPDX-License-Identifier: Apache-2.0
"""Arguments of purifiers that need a trained network: small random ones."""

from __future__ import annotations

from typing import Any

from tests.purifiers.learned_networks import LEARNED_PURIFIERS, WINDOW, small_network

_BY_NAME = {kind.__name__: kind for kind in LEARNED_PURIFIERS}
LEARNED = tuple(_BY_NAME)


def arguments_of(name: str) -> dict[str, Any]:
    """Arguments without which a purifier cannot be made."""
    return {"network": small_network(_BY_NAME[name]), "intensity": WINDOW} if name in _BY_NAME else {}
