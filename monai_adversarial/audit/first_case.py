# SPDX-License-Identifier: Apache-2.0
"""Whether what was read of a target is what is deployed, checked on one case before anything is attacked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import torch

from monai_adversarial.audit.facts import FOLLOWS_IMAGE, INPUT_FITS, OWN_GRADIENT, SAME_ANSWER, Fact, TargetError
from monai_adversarial.audit.segmentation import Segmentation, on_grid, same_grid
from monai_adversarial.audit.target import AuditCase, AuditTarget
from monai_adversarial.data.saving import read_back
from monai_adversarial.models import explain_clean_score, wrong_gradient_reason
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import LabelMisfit

__all__ = ["LEAST_EQUAL", "check_first_case"]

#: share of voxels in which the audit's segmentation and the deployment's own may differ: rounding of resampling
LEAST_EQUAL = 0.999


def check_first_case(target: AuditTarget, entry: Mapping[str, Any], gradients: bool = True) -> list[Fact]:
    """Run a case as the audit does, and as the unmodified deployment does where the reader knows how.

    Args:
        target: to be audited.
        entry: of a case.
        gradients: whether the target's own gradients are followed, so that they must be those of the network.

    Returns:
        what the case has shown.

    Raises:
        TargetError: where the two segmentations differ: the audit would be of another pipeline.
    """
    case = target.load(entry)
    prediction = target.deploy(case)
    found = [
        Fact(
            "first case",
            f"image {tuple(case.image.shape[1:])} on the network's grid, spacing "
            f"{', '.join(f'{step:.3g}' for step in case.grid.spacing)} mm, values {float(case.image.min()):.4g} to "
            f"{float(case.image.max()):.4g}; segmentation {prediction.shape}",
            "first case",
        )
    ]
    if case.reference is not None:
        same = "on the label's grid" if same_grid(case.reference, prediction) else "brought onto the prediction's grid"
        found.append(Fact("label", f"{sorted(case.reference.values.unique().tolist())}, {same}", "first case"))
    found += _probes(target, case, prediction)
    found += _other_readings(target, case)
    if gradients and target.differentiable and (reason := wrong_gradient_reason(target.model_for(case), case.image)):
        found.append(Fact(OWN_GRADIENT, f"no: {reason}", "first case"))
    run = target.parts.reference_prediction
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of the deployment
        deployed = None if run is None else run(entry["image"])
    if deployed is None:
        return found
    agreement = _agreement(prediction, deployed, case.file)
    if agreement < LEAST_EQUAL:
        raise TargetError(
            f"the audit's segmentation of {entry['case_id']} and that of the unmodified {target.kind} agree in "
            f"{agreement:.2%} of the voxels ({LEAST_EQUAL:.1%} is asked): what was read of {target.name} is not what "
            "is deployed."
        )
    return [
        *found,
        Fact("same as deployed", f"{agreement:.3%} of the voxels of the first case are equal", "first case"),
    ]


def _probes(target: AuditTarget, case: AuditCase, prediction: Segmentation) -> list[Fact]:
    """Whether the deployment says the same twice, and something else of another image.

    A random answer makes every figure noisy. One that ignores the image (a network that answers a constant or the
    average anatomy, postprocessing that gives back the label) changes under no attack, which is no robustness.
    """
    different = float((target.deploy(case).values != prediction.values).float().mean())
    same = "yes" if not different else f"no: {different:.3%} of the voxels differ"
    found = [Fact(SAME_ANSWER, same, "first case")]
    if different or not bool(prediction.values.any()):
        return found
    plain = as_plain(case.image)
    others = (plain.flip(tuple(range(2, plain.ndim))), plain.max() + plain.min() - plain)
    ignored = all(torch.equal(target.deploy(case, other).values, prediction.values) for other in others)
    value = "no: mirrored and inverted images get the same segmentation" if ignored else "yes"
    return [*found, Fact(FOLLOWS_IMAGE, value, "first case")]


def _other_readings(target: AuditTarget, case: AuditCase) -> list[Fact]:
    """Whether the first case would score far better mirrored, with other axes, intensities or voxel sizes.

    One forward pass, and 21 more where the score is low. A label whose values are no classes is named later.
    """
    if case.label is None:
        return []
    try:
        found = explain_clean_score(target.model_for(case), case.image, case.label)
    except LabelMisfit:
        return []
    return [Fact(INPUT_FITS, f"no: {found}", "first case")] if found.is_explained else []


def _agreement(prediction: Segmentation, deployed: Any, file: str) -> float:
    values = torch.as_tensor(as_plain(torch.as_tensor(deployed))).squeeze().cpu()
    if values.shape == prediction.values.squeeze().shape:
        return float((values == prediction.values.squeeze()).float().mean())
    original = torch.as_tensor(read_back(file).affine).double()
    own = Segmentation(values.to(torch.int32), values.ndim > len(prediction.shape), original)
    return float((on_grid(prediction, own).values == own.values).float().mean())
