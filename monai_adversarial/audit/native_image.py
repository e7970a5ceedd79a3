# SPDX-License-Identifier: Apache-2.0
"""Adversarial images on the grid and in the values of the file that the network's image was made from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.blocks import Warp
from monai.transforms import SpatialResample

from monai_adversarial.attacks import AttackResult
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric
from monai_adversarial.audit.picture import raw_values
from monai_adversarial.audit.segmentation import Segmentation, affine_of, on_grid
from monai_adversarial.audit.target import AuditCase, AuditTarget
from monai_adversarial.data.dicom import read_series, save_adversarial_series
from monai_adversarial.data.saving import read_back, read_reference, save_adversarial_nifti, save_label_nifti
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.plain import as_plain

__all__ = ["native_image", "save_clean", "save_native"]


def native_image(case: AuditCase, result: AttackResult) -> torch.Tensor | None:
    """The adversarial image on the grid of its file: the file's own voxels with the attack's change added, or moved.

    A change of intensity comes onto the file's grid by linear interpolation, which keeps an L-infinity budget: what
    resampling alone does to an image is no part of it. Voxels that the network does not see do not change.

    Args:
        case: that was attacked.
        result: of the attack.

    Returns:
        (spatial...) in the file's values; None where the map between file and network is not known, for images of
        several channels, and for chains of deformations.
    """
    affine = affine_of(case.image)
    if affine is None or result.image.shape[1] != 1 or case.image.ndim != 5:
        return None
    original = read_back(case.file)
    own = torch.as_tensor(original.affine).double()
    plain = as_plain(original)[0]
    if isinstance(result.bound, BoundGeometric):
        steps = result.bound.displacement(result.parameters)[0].detach().cpu().double()
        world = torch.einsum("ij,jxyz->ixyz", affine[:3, :3], steps)
        there = _resampled(world.float(), affine, own, plain.shape)
        voxels = torch.einsum("ij,jxyz->ixyz", torch.linalg.inv(own[:3, :3]).float(), there)
        return Warp("bilinear", "border")(plain[None, None], voxels[None])[0, 0]
    if result.bound.geometric:
        return None
    clean, known = raw_values(result, result.image)
    if not known:
        return None
    adversarial, _ = raw_values(result, as_plain(result.adversarial))
    change = torch.where(as_plain(result.adversarial) == result.image, 0.0, adversarial - clean)[0].float().cpu()
    return plain + _resampled(change, affine, own, plain.shape)[0]


def _resampled(field: torch.Tensor, source: torch.Tensor, target: torch.Tensor, shape: Any) -> torch.Tensor:
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True, dtype="float32")
    return as_plain(resample(MetaTensor(field, affine=source), dst_affine=target, spatial_size=tuple(shape)))


def save_clean(case: AuditCase, path: Path) -> Path:
    """The unchanged image beside what was made of it, in a header that names nobody.

    Args:
        case: that was audited.
        path: where to write.
    """
    voxels = read_back(case.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(as_plain(voxels)[0].numpy(), np.asarray(voxels.affine, dtype=np.float64))
    with replace_when_complete(path) as temporary:
        nibabel.save(image, temporary)
    return path


def save_native(
    target: AuditTarget,
    case: AuditCase,
    result: AttackResult,
    clean: Segmentation,
    adversarial: Segmentation,
    places: Mapping[str, Path],
    description: str,
    epsilon: float | None = None,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the adversarial image and both predictions on the grid of the input.

    Args:
        target: what was audited.
        case: that was attacked.
        result: of the attack.
        clean, adversarial: deployed predictions.
        places: kind -> path.
        description: for the header.
        epsilon: L-infinity budget in the file's values that rounding must not leave; None without one.

    Returns:
        the files, and what was measured on the image's file against the original: the largest and the root mean square
        change in the file's values, beside the deployed prediction of the file itself (key ``"prediction"``). Both
        are empty where no image can be written.
    """
    image = native_image(case, result)
    if image is None:
        return {}, {}
    reference = read_reference(case.file)
    original = as_plain(read_back(case.file))
    places["adversarial"].parent.mkdir(parents=True, exist_ok=True)
    written = {
        "adversarial": save_adversarial_nifti(image, reference, places["adversarial"], description, original, epsilon)
    }
    empty = Segmentation(
        torch.zeros(original.shape[1:], dtype=torch.uint8), affine=torch.as_tensor(read_back(case.file).affine).double()
    )
    for kind, found in (("clean_prediction", clean), ("prediction", adversarial)):
        if not found.masks:
            written[kind] = save_label_nifti(on_grid(found, empty).values, reference, places[kind], description)
    change = as_plain(read_back(written["adversarial"])) - original
    measured: dict[str, Any] = {}
    if case.dicom:
        folder = places["adversarial"].parent / f"{places['adversarial'].name.removesuffix('.nii.gz')}_dicom"
        shutil.rmtree(folder, ignore_errors=True)
        save_adversarial_series(
            as_plain(read_back(places["adversarial"])), read_series(case.dicom), folder, description, epsilon
        )
        measured["dicom_series"] = folder.name
    again = target.load({"image": str(written["adversarial"]), "case_id": case.name})
    return written, {
        **measured,
        "largest_change": float(change.abs().max()),
        "rms_change": float(change.double().square().mean().sqrt()),
        "prediction": target.deploy(case, again.image) if again.image.shape == case.image.shape else None,
    }
