# SPDX-License-Identifier: Apache-2.0
"""Networks that answer and tell nothing else, and images for them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import uniform_filter


def bright_boxes(batch: int = 2, size: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of 0.6 on 0.4 with a little noise, at a different place in each sample, and their label."""
    label = torch.zeros((batch, 1, size, size, size), dtype=torch.long)
    for sample in range(batch):
        low = 2 + sample % 3
        label[sample, :, low : low + 5, 3:9, low : low + 6] = 1
    noise = 0.02 * torch.randn(label.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(label > 0, 0.6, 0.4) + noise, label


class NumpyNetwork:
    """A mean over 3 voxels along each axis and a threshold of 0.5, in NumPy: takes and gives float32 only.

    Attributes:
        calls: samples that it was asked about.
    """

    def __init__(self, probabilities: bool = False) -> None:
        self.probabilities, self.calls = probabilities, 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if image.dtype != torch.float32:
            raise TypeError(f"tensor(float) expected, got {image.dtype}")
        self.calls += image.shape[0]
        # A torch operation that autocast computes in fewer bits, whose result NumPy would not read.
        passed = torch.nn.functional.conv3d(image, torch.ones(1, 1, 1, 1, 1)).numpy()
        smooth = uniform_filter(passed, size=(1, 1, 3, 3, 3))
        logits = np.concatenate([20 * (0.5 - smooth), 20 * (smooth - 0.5)], axis=1)
        if self.probabilities:
            logits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return torch.from_numpy(logits.astype(np.float32))


class SmoothThreshold(torch.nn.Module):
    """The same in torch, with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
        torch.nn.init.constant_(self.mean.weight, 1 / 27)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        smooth = self.mean(image)
        return torch.cat([20 * (0.5 - smooth), 20 * (smooth - 0.5)], dim=1)
