# SPDX-License-Identifier: Apache-2.0
"""Whether the intensity map that was read of an engine's transforms is that of the image that its network gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_adversarial.attacks import Attack
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.engine_parts import preprocessing_of
from monai_adversarial.models.pipeline_intensity import intensity_of
from monai_adversarial.utils.intensity_fit import LARGEST_RESIDUAL, fit_intensity, sampled_places
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.plain import as_plain

__all__ = ["check_image_key"]

#: budgets in these units are converted by the map
CONVERTED = ("HU", "fraction")
#: relative difference of a factor from 1 that no rounding makes
CLOSE = 1e-3


def check_image_key(
    engine: Any, model: AttackedModel, attack: Attack, batch: Any, image: torch.Tensor, image_key: str
) -> None:
    """Refuse a budget that another image's map would convert, once for a model.

    Args:
        engine: whose transforms were read.
        model: what was read of it.
        attack: its budget is converted by the model's map.
        batch: the collated batch.
        image: what ``prepare_batch`` has made of it for the network.
        image_key: the key whose map was read.

    Raises:
        ValueError: where ``prepare_batch`` takes the image from a key with another map, or maps its values on.
    """
    units = getattr(attack.perturbation, "units", None)
    if model.checked or model.intensity is None or units not in CONVERTED:
        return
    own = batch.get(image_key) if isinstance(batch, Mapping) else None
    if not isinstance(own, torch.Tensor) or _same(own, image):
        return
    for key, value in batch.items():
        if not isinstance(value, torch.Tensor) or not _same(value, image):
            continue
        found = intensity_of(preprocessing_of(engine), key)[0]
        if isinstance(found, IntensityMap) and isinstance(model.intensity, IntensityMap):
            if found.agrees_with(model.intensity):
                return
        raise ValueError(
            f"prepare_batch hands {key!r} to the network, but the intensity map was read of {str(image_key)!r}, and a "
            f"budget in {units} would be another one: tell image_key={key!r}."
        )
    if own.shape == image.shape:
        before, after = (as_plain(one).detach().cpu().double().flatten() for one in (own, image))
        places = sampled_places(before)
        fit = fit_intensity(before[places], after[places])
        if fit.residual <= LARGEST_RESIDUAL and abs(fit.scale - 1) > CLOSE:
            raise ValueError(
                f"prepare_batch multiplies the image's values by {fit.scale:.4g}, so that the intensity map that was "
                "read of the transforms, and a budget that it converts, is not that of the network: scale in the "
                "transforms alone."
            )


def _same(value: torch.Tensor, image: torch.Tensor) -> bool:
    if value.shape != image.shape:
        return False
    return torch.equal(as_plain(value).to(image.device, image.dtype), as_plain(image))
