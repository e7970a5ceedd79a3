# SPDX-License-Identifier: Apache-2.0
"""Whether a segmentation looks like anatomy: volumes, surfaces and extents of the organs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from monai_adversarial.detection.answers import answer_of_image, probabilities_of
from monai_adversarial.detection.features import Features
from monai_adversarial.detection.gaussian import GaussianDensity
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.scene import spacing_of

__all__ = ["OrganShapes", "SegmentationPlausibility"]


class OrganShapes(Features):
    """Logarithms of volume (ml), surface over volume (1/mm) and extent along each axis (mm) of each predicted organ.

    One voxel is added to each organ, so that one that is not found has numbers as well. What is differentiated are the
    same of probabilities instead of masks. An image without an affine is taken to have voxels of 1 mm.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import OrganShapes
    >>> model, image, _ = example_case(16)
    >>> OrganShapes(model)(image, image).shape
    torch.Size([1, 15])

    Args:
        model: whose segmentation is measured.

    Raises:
        ValueError: for a classifier.
    """

    has_stand_in = True

    def __init__(self, model: AttackedModel) -> None:
        self.model = model
        self._organs = 0

    def groups(self, width: int) -> list[slice]:
        """One per organ."""
        each = width // max(self._organs, 1)
        return [slice(start, start + each) for start in range(0, width, each)]

    def __call__(self, image: torch.Tensor, like: torch.Tensor, smooth: bool = False) -> torch.Tensor:
        spacing = spacing_of(like, required=False)
        if spacing is None:
            spacing = torch.ones(image.shape[0], image.ndim - 2, dtype=torch.float64)
        spacing = spacing.nan_to_num(nan=1.0).to(image.device)
        if smooth:
            found = probabilities_of(self.model, image, like)
            self._check()
            masks = found if self.model.activation_of(found.shape[1]) == "sigmoid" else found[:, 1:]
            organs = [masks[:, organ] for organ in range(masks.shape[1])]
        else:
            answer = answer_of_image(self.model, image, like)
            self._check()
            if answer.activation == "sigmoid":
                organs = [answer.prediction[:, organ] for organ in range(answer.classes)]
            else:
                organs = [answer.prediction[:, 0] == organ for organ in range(1, answer.classes)]
        self._organs = len(organs)
        return torch.cat([_shape(organ.to(torch.float32), spacing) for organ in organs], dim=1)

    def _check(self) -> None:
        if self.model.classifies:
            raise ValueError("model must segment: a classifier's answer has no volumes.")


def _shape(organ: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """Numbers of one organ.

    Args:
        organ: (batch, spatial...), from 0 to 1.
        spacing: (batch, axis) in mm.
    """
    voxel = spacing.prod(dim=1)
    amount = organ.flatten(1).double().sum(dim=1)
    volume = (amount + 1) * voxel
    surface = 2 * (voxel[:, None] / spacing).sum(dim=1)  # of the voxel that is added
    found = []
    for axis in range(1, organ.ndim):
        steps = organ.diff(dim=axis).abs().flatten(1).double().sum(dim=1)
        surface = surface + steps * voxel / spacing[:, axis - 1]
        profile = organ.sum(dim=[other for other in range(1, organ.ndim) if other != axis]).double()
        place = torch.arange(organ.shape[axis], dtype=profile.dtype, device=profile.device)
        middle = (profile @ place / (amount + 1e-6))[:, None]
        variance = (profile * (place - middle).square()).sum(dim=1) / (amount + 1)
        found.append(0.5 * ((variance + 1 / 12) * spacing[:, axis - 1].square()).log())  # 1/12: of one voxel
    return torch.stack([(volume / 1000).log(), (surface / volume).log(), *found], dim=1)


class SegmentationPlausibility(GaussianDensity):
    """Squared Mahalanobis distance of the organs' volumes, surfaces and extents from those of clean images.

    An organ that is missing, too large or torn is suspicious, whatever the image looks like. It needs images of one
    kind: another field of view or another body size is suspicious as well.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import SegmentationPlausibility
    >>> model = example_case()[0]
    >>> detector = SegmentationPlausibility(model).fit(example_case(16, seed)[1] for seed in range(8))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model: an ``AttackedModel``, or a bare network, that segments.

    Raises:
        ValueError: as :class:`~monai_adversarial.detection.density.FeatureDetector`, for a classifier, and where some
            images have voxel sizes and others have none.

    Source: own; quality control by volumes and shapes is common, and no one paper is followed.

    Survey entry: T09 (own).
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.features = OrganShapes(self.model)

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        sized: list[bool] = []

        def noted() -> Iterator[torch.Tensor]:
            for batch in batches:
                sized.append(_has_spacing(batch))
                if sized[-1] != sized[0]:
                    raise ValueError("images must all have voxel sizes (an affine), or none of them, got both.")
                yield batch

        super()._learn(noted())
        self.state["sized"] = torch.tensor(sized[0])

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        # Volumes in ml beside volumes in voxels would make every image suspicious, attacked or not.
        sized, here = bool(self.state.get("sized", _has_spacing(like))), _has_spacing(like)
        if sized != here:
            what = ("with", "without") if here else ("without", "with")
            raise ValueError(
                f"image came {what[0]} voxel sizes (an affine), but {type(self).__name__} was fitted to images "
                f"{what[1]}: its volumes are in ml, and without voxel sizes those of voxels of 1 mm."
            )
        return super()._suspicion(image, like, smooth)


def _has_spacing(image: torch.Tensor) -> bool:
    return spacing_of(image, required=False) is not None
