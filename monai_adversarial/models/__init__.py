# SPDX-License-Identifier: Apache-2.0
"""The model under attack: what is attacked, said once, for scripts, transforms, handlers, engines and studies."""

from __future__ import annotations

from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["AttackedModel"]
