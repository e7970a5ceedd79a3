# SPDX-License-Identifier: Apache-2.0
"""Entry points into MONAI's engines."""

from __future__ import annotations

from monai_adversarial.engines.prepare_batch import PrepareBatchAdversarial

__all__ = ["PrepareBatchAdversarial"]
