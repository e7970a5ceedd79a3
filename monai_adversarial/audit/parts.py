# SPDX-License-Identifier: Apache-2.0
"""The parts of a deployed model, however it was delivered: what every kind of target is read into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from monai_adversarial.audit.facts import Fact, Missing

__all__ = ["TargetParts"]


@dataclass
class TargetParts:
    """A deployed model as a network between preprocessing and postprocessing.

    >>> from monai_adversarial.audit import AuditTarget, TargetParts
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
    >>> window = ScaleIntensityRanged("image", -160, 340, 0, 1, clip=True)
    >>> read = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), window])
    >>> target = AuditTarget(TargetParts("callable", "toy", ExampleNetwork(), preprocessing=read))
    >>> target.budget_units, list(target.missing)
    ('HU', [])

    Args:
        kind: ``"MONAI bundle"``, ``"nnU-Net"``, ``"TorchScript"``, ``"torch.export"``, ``"ONNX"``, ``"served"``,
            ``"callable"``.
        name: for the report; no path.
        network: ``torch.nn.Module`` or callable from (1, channel, spatial...) to (1, class, spatial...), float32.
        inferer: MONAI inferer; None calls the network on the whole image.
        preprocessing: dictionary transform of ``{image_key: path}`` (and ``{label_key: path}`` where
            ``preprocesses_label``) to an item whose image is a ``MetaTensor`` (channel, spatial...) with its affine.
        postprocessing: dictionary transform of the item with the network's answer under ``pred_key`` (class,
            spatial...) to the deployed segmentation under ``pred_key``: class map (1, spatial...), one-hot or masks
            (class, spatial...), a ``MetaTensor`` with the affine of its grid. None: argmax, or threshold for sigmoid,
            on the network's grid. It must write no files.
        engine: live MONAI evaluator that the above are of; the model is read from it. None: from the parts.
        prepare_batch: from collated batch to image, label and further inputs of the network; None for MONAI's default.
        image_key, label_key, pred_key: keys of the item.
        preprocesses_label: the preprocessing cannot run without a label.
        label_masks: from the class map of a label file (1, spatial...) to the masks (channel, spatial...) that the
            network answers with, where its channels overlap; None for labels that are scored as they are.
        differentiable: whether the network has gradients; otherwise it is attacked by queries alone.
        told: further arguments of ``AttackedModel`` (``class_names``, ``activation``, ``intensity``, ...).
        facts: what was read and where, beyond what ``AttackedModel`` finds.
        missing: what nothing says and the audit needs.
        hashes: what -> SHA-256: ``"weights"``, ``"config"``, ...
        reference_prediction: from the path of an image to the segmentation (spatial...) that the unmodified deployment
            gives on the image's own grid; the audit checks on the first case that its own agrees. None: no check.
        resources: closed when the audit ends.
    """

    kind: str
    name: str
    network: Callable[..., Any]
    inferer: Callable[..., Any] | None = None
    preprocessing: Callable[[dict[str, Any]], Any] | None = None
    postprocessing: Callable[[dict[str, Any]], Any] | None = None
    engine: Any = None
    prepare_batch: Callable[..., Any] | None = None
    image_key: str = "image"
    label_key: str = "label"
    pred_key: str = "pred"
    preprocesses_label: bool = False
    label_masks: Callable[[torch.Tensor], torch.Tensor] | None = None
    differentiable: bool = True
    told: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[Fact] = ()
    missing: Sequence[Missing] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    reference_prediction: Callable[[str], Any] | None = None
    resources: ExitStack = field(default_factory=ExitStack)
