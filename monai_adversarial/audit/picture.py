# SPDX-License-Identifier: Apache-2.0
"""The picture of one case under one row, on the grid that the network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from monai_adversarial.attacks import AttackResult
from monai_adversarial.audit.segmentation import Segmentation
from monai_adversarial.metrics import score_visibility
from monai_adversarial.studies.displacement import displacement_in_mm
from monai_adversarial.studies.gain import gain_in_percent
from monai_adversarial.studies.measurement import CLEAN_PREDICTION, LABEL
from monai_adversarial.studies.reports.panel import Panel, save_panel
from monai_adversarial.studies.study import Cell
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.plain import as_plain

__all__ = ["raw_values", "save_picture"]

SOFT_TISSUE = (-160.0, 240.0)


def raw_values(result: AttackResult, image: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """An image of a result in the values of its file where the map is known, and whether it is."""
    model = result.model
    plain = as_plain(image).detach()
    if model is None or model.image_units == "HU":
        return plain, model is not None
    found = model.intensity_for(result.image if result.image_channels is None else result.adversarial)
    return (plain, False) if found is None else (found.inverse(plain), True)


def save_picture(
    path: Path,
    result: AttackResult,
    segmentations: Sequence[Segmentation],
    moved: Segmentation,
    organs: Mapping[int, str],
    dice: Mapping[str, float],
    scores: Mapping[str, Mapping[str, Mapping[str, object]]],
    cell: Cell,
    labeled: bool,
    measurements: Mapping[str, Mapping[str, object]],
    hounsfield: bool = False,
) -> bool:
    """Draw a case; see ``save_panel``.

    Args:
        path: PNG file.
        result: of the attack.
        segmentations: reference, clean and adversarial prediction on the grid of the network's image.
        moved: reference on the moved anatomy.
        organs: class index -> name.
        dice: image -> mean Dice.
        scores: image -> organ -> scores.
        cell: names of case and row.
        labeled: whether the reference is a label.
        measurements: of ``measured_budgets``.
        hounsfield: whether the file's values are HU.

    Returns:
        Whether it was drawn: overlapping masks are not.
    """
    if any(one.masks for one in segmentations) or moved.masks:
        return False
    whole = as_plain(result.adversarial).detach()
    part = whole if result.image_channels is None else whole[:, list(result.image_channels)]
    (clean, known), (adversarial, _) = raw_values(result, result.image), raw_values(result, part)
    clean, adversarial = clean[0, 0].float().cpu(), adversarial[0, 0].float().cpu()
    sample = clean.flatten()[:: max(1, clean.numel() // 100_000)]
    low, high = (float(torch.quantile(sample, at)) for at in (0.01, 0.99))
    window = SOFT_TISSUE if known and float(clean.min()) < -100 else (low, max(high, low + 1e-6))
    displacement = displacement_in_mm(result) if result.bound.geometric else None
    volumes = [clean, adversarial, *(one.values for one in (segmentations[0], moved, *segmentations[1:]))]
    gain = gain_in_percent(result)
    if clean.ndim == 2:
        gain = None if gain is None else gain[..., None]
        volumes = [volume[..., None] for volume in volumes]
        displacement = None
    affine = segmentations[0].affine
    panel = Panel(
        clean=volumes[0],
        adversarial=volumes[1],
        clean_label=volumes[2],
        adversarial_label=volumes[3],
        clean_prediction=volumes[4],
        adversarial_prediction=volumes[5],
        affine=torch.eye(4) if affine is None or affine.shape[0] != 4 else affine,
        displacement=displacement,
        record={
            "attack": cell.attack,
            "case": cell.case,
            "reference": LABEL if labeled else CLEAN_PREDICTION,
            "geometric": bool(result.bound.geometric),
            "mean": {image: {"dice": value} for image, value in dice.items()},
            "scores": scores,
            "visibility": score_visibility(volumes[1], volumes[0], window),
            "measurements": measurements,
        },
        class_names=dict(organs),
        window=window,
        gain=gain,
        units="HU" if known and hounsfield else "file values" if known else "network values",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_complete(path) as temporary:
        save_panel(panel, temporary)
    return True
