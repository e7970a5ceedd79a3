# SPDX-License-Identifier: Apache-2.0
"""Another network on the images of a target: whose gradients a transfer attack follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.target import AuditTarget
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.read_intensity import ReadIntensity
from monai_adversarial.utils.intensity_map import IntensityMap

__all__ = ["surrogate_for"]


class _Rescaled(nn.Module):
    """A network that gets images in its own values from images in another network's values."""

    def __init__(self, network: Callable[..., Any], given: IntensityMap, own: IntensityMap) -> None:
        super().__init__()
        self.network, self.given, self.own = network, given, own

    def forward(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        return self.network(self.own(self.given.inverse(image)), *args, **kwargs)


def surrogate_for(target: AuditTarget, surrogate: AttackedModel) -> AttackedModel:
    """A surrogate that takes what the target's preprocessing gives.

    A network that sees another window of HU gets the target's image mapped back and forth, so that its gradients are
    those of images that it knows, within the HU that the target's window keeps.

    Args:
        target: that is audited.
        surrogate: another network.

    Raises:
        TargetError: where the two maps between HU and network cannot be brought together.
    """
    given, own = (_exact(model.intensity) for model in (target.model, surrogate))
    if target.model.image_units != surrogate.image_units:
        raise TargetError("the surrogate takes images in other units than the target: give one that is read alike.")
    if given is None and own is None:
        return surrogate
    if given is None or own is None:
        lacking = "target" if given is None else "surrogate"
        raise TargetError(
            f"the map from HU of the {lacking} is not known and that of the other is: a gradient of differently scaled "
            "images would be no transfer attack; give a surrogate whose images are scaled alike."
        )
    if given.agrees_with(own):
        return surrogate
    network = surrogate.network
    made = _Rescaled(network, given, own)
    return surrogate.replace(network=made.train(getattr(network, "training", False)), intensity=given)


def _exact(intensity: Any) -> IntensityMap | None:
    return intensity.exact if isinstance(intensity, ReadIntensity) else intensity
