# SPDX-License-Identifier: Apache-2.0
"""A denoiser's loss as the segmentation network sees it."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.precision import Precision
from monai_adversarial.utils.validation import check_positive
from monai_adversarial.utils.weights import load_weights

__all__ = ["HighLevelGuidedLoss"]


class HighLevelGuidedLoss(nn.Module):
    """L1 distance between a frozen network's outputs for the denoised and for the clean image, plus a pixel term.

    ``mean |f(denoised) - f(clean)| / mean |f(clean)| + pixel_weight * mean |denoised - clean| / 0.01``: both terms are
    relative, so that the weight keeps its meaning from one network to the next.

    >>> import torch
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.losses import HighLevelGuidedLoss
    >>> loss, clean = HighLevelGuidedLoss(ExampleNetwork()), torch.rand(1, 1, 8, 8, 8)
    >>> loss(clean, clean).item(), loss((clean + 0.01).requires_grad_(), clean).requires_grad
    (0.0, True)

    Args:
        network: the segmentation network f; it is frozen in evaluation mode, and gradients go through it to the
            denoiser only. Its weights are changed by nobody.
        weights: checkpoint to load into it, None to take it as it is.
        pixel_weight: weight of the distance between the images themselves, per 0.01 of the window (4 HU of 400).
        precision: see :class:`~monai_adversarial.utils.precision.Precision`.

    Shape:
        denoised, clean: (batch, channel, spatial...); the result is a scalar.

    Source: Liao et al. 2018, "Defense against adversarial attacks using high-level representation guided denoiser"
    (logits guided, LGD); the pixel term is an addition.

    Survey entry: P08 (adapted).
    """

    def __init__(
        self,
        network: nn.Module,
        weights: str | os.PathLike[str] | None = None,
        pixel_weight: float = 0.1,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(network, weights)
        self.network = network.requires_grad_(False).eval()
        self.pixel_weight = check_positive("pixel_weight", pixel_weight, allow_zero=True)
        self.precision = precision

    def train(self, mode: bool = True) -> HighLevelGuidedLoss:
        """The frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, denoised: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        denoised, clean = as_plain(denoised), as_plain(clean)
        outputs: Callable[[torch.Tensor], torch.Tensor] = Precision(self.precision, denoised).wrap(self.network)
        with torch.no_grad():
            wanted = outputs(clean).float()
        guided = (outputs(denoised).float() - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-6)
        if self.pixel_weight == 0:
            return guided
        return guided + self.pixel_weight / 0.01 * (denoised - clean).abs().mean()
