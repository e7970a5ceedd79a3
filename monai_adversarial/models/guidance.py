# SPDX-License-Identifier: Apache-2.0
"""Clicks and prior masks: channels that interactive pipelines add behind the image, and that no attacker changes."""

from __future__ import annotations

from typing import Any

from monai.apps.deepedit.transforms import AddGuidanceSignalDeepEditd, DiscardAddGuidanced
from monai.apps.deepgrow.transforms import AddGuidanceSignald
from monai.apps.nuclick.transforms import AddClickSignalsd, AddLabelAsGuidanced, AddPointGuidanceSignald
from monai.utils import CommonKeys

from monai_adversarial.models.engine_parts import steps_of

__all__ = ["image_channels_of"]


def image_channels_of(preprocessing: Any, image_key: str = CommonKeys.IMAGE) -> tuple[int, str] | None:
    """Which of the network's input channels are image, as ``AttackedModel(image_channels=)`` takes it.

    Args:
        preprocessing: transform of the dataset.
        image_key: where the image is in its items.

    Returns:
        the number of first channels, or minus the number of last channels that are guidance, and the transforms that
        say so; None where no transform adds guidance.
    """
    first: int | None = None
    added, names = 0, []
    for number, step in enumerate(steps_of(preprocessing)):
        if isinstance(step, (AddGuidanceSignalDeepEditd, DiscardAddGuidanced)):
            if image_key not in step.keys:
                continue
            first, added = int(step.number_intensity_ch), 0
        elif isinstance(step, AddGuidanceSignald):
            if step.image != image_key:
                continue
            first, added = int(step.number_intensity_ch), 0
        elif isinstance(step, AddClickSignalsd):
            if step.image != image_key:
                continue
            added += 2  # clicks inside, clicks outside
        elif isinstance(step, AddPointGuidanceSignald):
            if step.image != image_key:
                continue
            added += 2 if step.add_exclusion_map else 1
        elif isinstance(step, AddLabelAsGuidanced):
            if image_key not in step.keys:
                continue
            added += 1
        else:
            continue
        names.append(f"`preprocessing#{number}` ({type(step).__name__})")
    if not names:
        return None
    return (-added if first is None else first), ", ".join(names)
