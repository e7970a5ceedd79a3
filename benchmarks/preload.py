# SPDX-License-Identifier: Apache-2.0
"""What the processes of ``fresh_process.py`` have imported before they are forked, so that they start at once."""

from __future__ import annotations

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()

import monai.bundle  # noqa: E402, F401
import monai.inferers  # noqa: E402, F401
import monai.losses  # noqa: E402, F401
import monai.networks.nets  # noqa: E402, F401

import monai_adversarial.attacks  # noqa: E402, F401
import monai_adversarial.models  # noqa: E402, F401
from benchmarks.peers import loaded_attacks  # noqa: E402

__all__: list[str] = []

loaded_attacks()
