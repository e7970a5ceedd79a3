# SPDX-License-Identifier: Apache-2.0
"""Adversarial attacks, defenses and robustness evaluation for 3D CT segmentation networks built with MONAI.

Importing this package loads nothing heavy; import what you need from its subpackages, for example
``from monai_adversarial.attacks import PGD``.
"""

from __future__ import annotations

__version__ = "0.1.0"
