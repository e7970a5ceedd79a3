# SPDX-License-Identifier: Apache-2.0
"""How many files of the package a reader has to open to follow one plain attack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import monai_adversarial
from monai_adversarial.attacks import PGD
from tests.helpers import random_image, random_label, tiny_segmentation_network

PACKAGE = Path(monai_adversarial.__file__).parent
# Half of them belong to what is checked before the first step and measured after the last one. Lower it with every
# merge, and raise it for a check that is worth it.
MOST = 60


def files_entered(call: Callable[[], Any]) -> set[str]:
    """Files of the package whose functions run during ``call``, relative to the package; imports do not count."""
    found: set[str] = set()
    prefix = f"{PACKAGE}/"

    def look(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(prefix) and code.co_name != "<module>":
            found.add(code.co_filename.removeprefix(prefix))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


def test_one_attack_enters_few_files() -> None:
    network, image, label = tiny_segmentation_network(), random_image((1, 1, 8, 8, 8)), random_label((1, 1, 8, 8, 8))
    entered = files_entered(lambda: PGD(0.1, steps=2)(network, image, label))
    assert "attacks/ascent.py" in entered and "models/predictor.py" in entered
    assert not [name for name in entered if name.split("/")[0] not in ("attacks", "metrics", "models", "utils")]
    assert len(entered) <= MOST, sorted(entered)
