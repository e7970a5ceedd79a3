# SPDX-License-Identifier: Apache-2.0
"""How concentrated a network's attention is, and how much of it lies in the organ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.metrics.concentration import concentration
from monai_adversarial.utils.plain import as_plain

__all__ = ["SaliencyConcentration", "saliency_concentration"]

NUMBERS = ("mean", "gini", "entropy", "top_1_percent", "top_5_percent", "in_organ", "in_organ_ratio")


def saliency_concentration(saliency: torch.Tensor, organ: torch.Tensor) -> dict[str, torch.Tensor]:
    """How a saliency map is spread over each image.

    The saliency S of a voxel is the largest absolute value over the channels.

    >>> import torch
    >>> from monai_adversarial.metrics import saliency_concentration
    >>> found = saliency_concentration(torch.tensor([[[3.0, 1.0, 0.0, 0.0]]]), torch.tensor([[[1, 0, 0, 0]]]))
    >>> found["in_organ"], found["in_organ_ratio"], found["gini"]
    (tensor([0.7500], ...), tensor([3.], ...), tensor([0.6250], ...))

    Args:
        saliency: gradient or attribution (batch, channel, spatial...), in any unit.
        organ: mask (batch, 1, spatial...), voxels above 0.

    Returns:
        Each (batch,), float64. ``mean``: of S. ``gini``: 0 for an even map, near 1 for a single voxel. ``entropy``: of
        the shares of S, divided by its largest value; 1 for an even map. ``top_1_percent``, ``top_5_percent``: share
        of the sum of S in that part of the voxels. ``in_organ``: share of the sum of S in the organ.
        ``in_organ_ratio``: the same divided by the organ's share of the voxels; 1 for an even map. All but the mean are
        NaN for a map of zeros, the last two without an organ.

    Raises:
        ValueError: for shapes that do not fit, and for NaN or infinite values.

    Source: after Ma et al., "Understanding adversarial attacks on deep learning based medical image analysis systems",
    Pattern Recognition 2021, who compare saliency maps by eye; the numbers are ours.

    Survey entry: M06 (adapted).
    """
    values, mask = as_plain(saliency).detach(), as_plain(organ).detach()
    if values.ndim < 3 or mask.shape != (values.shape[0], 1, *values.shape[2:]):
        raise ValueError(
            "saliency must be (batch, channel, spatial...) and organ (batch, 1, spatial...) on its grid, got "
            f"{tuple(values.shape)} and {tuple(mask.shape)}."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError("saliency must be finite, got NaN or infinite values.")
    flat = values.abs().amax(dim=1).flatten(1).double()
    inside = mask.to(flat.device).flatten(1) > 0
    own = (flat * inside).sum(dim=1) / flat.sum(dim=1)  # NaN for a map of zeros
    size = inside.double().mean(dim=1)
    has_organ = size > 0
    return {
        "mean": flat.mean(dim=1),
        **concentration(flat),
        "in_organ": torch.where(has_organ, own, torch.nan),
        "in_organ_ratio": torch.where(has_organ, own / size, torch.nan),
    }


class SaliencyConcentration(CaseMetric):
    """:func:`saliency_concentration` under attack and, as ``clean_...``, before it.

    >>> from monai_adversarial.attacks import PGD, input_saliency
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.metrics import SaliencyConcentration
    >>> metric = SaliencyConcentration(input_saliency)
    >>> _ = metric.add(PGD(8, units="HU", steps=3)(*example_case(16)))
    >>> sorted(name for name in metric.aggregate() if "organ" in name)
    ['clean_in_organ', 'clean_in_organ_ratio', 'in_organ', 'in_organ_ratio']

    Called with the saliency under attack (batch, channel, spatial...), the organ on the attacked anatomy (batch, 1,
    spatial...), ``clean``, the saliency of the clean image, and ``clean_organ`` where the anatomy moved.

    Args:
        saliency: for ``add``: a function of model, image and label, such as ``attacks.input_saliency`` or an
            attribution of Captum; None where the metric is called with maps.

    Raises:
        ValueError: for maps that do not fit, and for ``add`` without a function.

    Source: as :func:`saliency_concentration`.

    Survey entry: M06 (adapted).
    """

    columns = (*NUMBERS, *(f"clean_{name}" for name in NUMBERS))

    def __init__(self, saliency: Callable[..., torch.Tensor] | None = None) -> None:
        super().__init__()
        self.saliency = saliency

    def rows(
        self,
        y_pred: torch.Tensor,
        y: torch.Tensor | None = None,
        clean: torch.Tensor | None = None,
        clean_organ: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See the class."""
        if y is None or clean is None:
            raise ValueError("y, the organ, and clean, the saliency of the clean image, must be given, got None.")
        before = saliency_concentration(clean, y if clean_organ is None else clean_organ)
        after = saliency_concentration(y_pred, y)
        return torch.stack([*after.values(), *before.values()], dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of an attack's result; the organ is all foreground of the label.

        Args:
            result: an ``AttackResult``.

        Returns:
            The rows, (batch, columns).
        """
        if self.saliency is None or result.model is None:
            raise ValueError(
                "saliency must be a function of model, image and label for add, such as attacks.input_saliency: got "
                "None, or a result without its model."
            )
        if result.metric != "Dice":
            raise ValueError("result must be of a segmentation: the image of a classifier has no organ.")
        clean = as_plain(torch.as_tensor(result.adversarial)).clone()
        channels = slice(None) if result.image_channels is None else list(result.image_channels)
        clean[:, channels] = result.image.to(clean)
        maps = [
            self.saliency(result.model, image, label)
            for image, label in ((result.adversarial, result.label), (clean, result.clean_label))
        ]
        ignored, activation = result.model.ignore_index, result.model.found_activation or result.model.activation
        organs = [_foreground(label, ignored, activation) for label in (result.label, result.clean_label)]
        return self(maps[0], organs[0], clean=maps[1], clean_organ=organs[1])


def _foreground(label: torch.Tensor, ignored: int | None, activation: str | None) -> torch.Tensor:
    """(batch, 1, spatial...)."""
    plain = as_plain(torch.as_tensor(label))
    masks = plain if ignored is None else torch.where(plain == ignored, torch.zeros_like(plain), plain)
    if masks.shape[1] > 1 and activation != "sigmoid":
        masks = masks[:, 1:]
    return (masks > 0).any(dim=1, keepdim=True)
