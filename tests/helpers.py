# SPDX-License-Identifier: Apache-2.0
"""Small things that many tests use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn


def as_metatensor(data: Any) -> MetaTensor:
    """A MetaTensor with an anisotropic affine (spacing 1 x 2 x 3 mm) and one harmless meta entry."""
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(data), affine=affine, meta={"some": "info"})


# The array types a transform has to accept, as in MONAI's own tests.
TEST_NDARRAYS: tuple[Callable, ...] = (np.array, torch.as_tensor, as_metatensor)
if torch.cuda.is_available():
    TEST_NDARRAYS += (lambda data: torch.as_tensor(data, device="cuda"),)


def tiny_segmentation_network(
    in_channels: int = 1, out_channels: int = 3, spatial_dims: int = 3, features: int = 4, seed: int = 0
) -> nn.Module:
    """Two convolutions with a PReLU between them, random weights from ``seed``, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        network = nn.Sequential(
            convolution(in_channels, features, kernel_size=3, padding=1),
            nn.PReLU(init=0.2501),  # as after training: the slope that it is made with would be called untrained
            convolution(features, out_channels, kernel_size=3, padding=1),
        )
    return network.eval()


class LinearNetwork(nn.Module):
    """Per-voxel linear logits ``weights[k] * image + biases[k]``: gradients and worst cases have closed forms."""

    def __init__(self, weights: tuple[float, ...] = (-1.0, 1.0), biases: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.biases = nn.Parameter(torch.tensor(biases if biases is not None else (0.0,) * len(weights)))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shape = (1, -1) + (1,) * (image.ndim - 2)
        return image[:, :1] * self.weights.view(shape) + self.biases.view(shape)


def random_image(
    shape: tuple[int, ...] = (1, 1, 16, 16, 16), seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Uniform values in [0, 1) that depend on ``seed`` alone."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_label(shape: tuple[int, ...] = (1, 1, 16, 16, 16), classes: int = 3, seed: int = 0) -> torch.Tensor:
    """Integer class map in [0, classes) that depends on ``seed`` alone."""
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))
