# SPDX-License-Identifier: Apache-2.0
"""What is said about an input that looks wrong: an error where the outcome is scored, one warning in a training."""

from __future__ import annotations

import threading
import warnings
from typing import Any
from weakref import WeakKeyDictionary

from monai_adversarial.utils.modules import bare_network

__all__ = ["doubt", "warn_once"]

_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
_lock = threading.Lock()


def warn_once(network: Any, topic: str, sentence: str, stacklevel: int = 3) -> bool:
    """Warn about a network's input or answer, once per network and topic.

    Args:
        network: what the warning is about; a bare network that is wrapped anew for each batch counts as one.
        topic: short name of the doubt.
        sentence: what is said.
        stacklevel: of the warning, counted from here.

    Returns:
        whether it was said now.
    """
    network = bare_network(network)
    with _lock:
        try:
            topics = _said.setdefault(network, set())
        except TypeError:  # a callable that cannot be remembered
            topics = set()
        if topic in topics:
            return False
        topics.add(topic)
    warnings.warn(sentence, stacklevel=stacklevel)
    return True


def doubt(network: Any, topic: str, sentence: str, training: bool) -> None:
    """An input that looks wrong: it never ends a training, and never passes for a result.

    Args:
        network, topic, sentence: see ``warn_once``.
        training: warn once instead of raising.

    Raises:
        ValueError: where the outcome is scored.
    """
    if not training:
        raise ValueError(sentence)
    warn_once(network, topic, sentence)
