# SPDX-License-Identifier: Apache-2.0
"""Classes that remember what they were made with have the signature of their ``__init__``."""

from __future__ import annotations

import inspect

import pytest

from monai_adversarial import attacks
from monai_adversarial.utils.calls import ShownAsCall

PUBLIC = [getattr(attacks, name) for name in attacks.__all__]
CLASSES = [item for item in PUBLIC if inspect.isclass(item) and issubclass(item, ShownAsCall)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_signature_names_the_arguments(kind: type) -> None:
    wanted = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind.__init__).parameters)[1:]
    assert list(inspect.signature(kind).parameters) == wanted


def test_an_attack_shows_epsilon_and_an_object_its_own_call() -> None:
    assert list(inspect.signature(attacks.PGD).parameters)[:3] == ["epsilon", "units", "norm"]
    assert "image" in inspect.signature(attacks.PGD(8.0)).parameters
    assert len(CLASSES) > 10
