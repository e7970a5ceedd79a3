# SPDX-License-Identifier: Apache-2.0
"""The networks and volumes of the benchmarks: random weights, frozen, in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets import DenseNet121, UNet
from torch import nn
from torch.nn import functional

from monai_adversarial.utils.precision import Precision

__all__ = [
    "CLASSES",
    "DenseNetSegmenter",
    "PlainInferer",
    "dilated_chain",
    "input_gradient",
    "pointwise",
    "unet",
    "volume",
]

CLASSES = 3


def _ready(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def unet(channels: tuple[int, ...] = (16, 32, 64, 128, 256), seed: int = 0, classes: int = CLASSES) -> nn.Module:
    """A 3D U-Net with two residual units."""
    torch.manual_seed(seed)
    return _ready(UNet(3, 1, classes, channels, (2,) * (len(channels) - 1), num_res_units=2))


def pointwise(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """A single 1 x 1 x 1 convolution: all memory behind it is that of volumes."""
    torch.manual_seed(seed)
    return _ready(nn.Conv3d(1, classes, 1))


def dilated_chain(layers: int, channels: int, seed: int = 0) -> nn.Module:
    """Dilated convolutions one after the other at the image's size, as in MeshNet."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for number in range(layers):
        dilation = 2 ** (number % 3)
        convolution = nn.Conv3d(channels if number else 1, channels, 3, padding=dilation, dilation=dilation)
        parts += [convolution, nn.BatchNorm3d(channels), nn.ReLU(inplace=True)]
    return _ready(nn.Sequential(*parts, nn.Conv3d(channels, CLASSES, 1)))


class DenseNetSegmenter(nn.Module):
    """MONAI's 2D DenseNet121 as encoder, a 1 x 1 convolution, and its logits interpolated to the image's grid.

    Args:
        classes: output channels.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.encoder = DenseNet121(spatial_dims=2, in_channels=1, out_channels=classes).features
        self.head = nn.Conv2d(1024, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, 1, height, width) to logits (batch, class, height, width)."""
        logits = self.head(self.encoder(image))
        return functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)

    @classmethod
    def frozen(cls, seed: int = 0) -> nn.Module:
        """With random weights, in eval mode."""
        torch.manual_seed(seed)
        return _ready(cls())


def volume(
    shape: tuple[int, ...], device: str, seed: int = 0, classes: int = CLASSES, batch: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform image (batch, 1, *shape) in [0, 1) and a random class map of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((batch, 1, *shape), generator=generator)
    return image.to(device), torch.randint(0, classes, (batch, 1, *shape), generator=generator).to(device)


def input_gradient(
    network: nn.Module, image: torch.Tensor, label: torch.Tensor, precision: Precision | None = None
) -> torch.Tensor:
    """The floor of a step: one forward and one backward pass to the input only."""
    leaf = image.clone().requires_grad_(True)
    with (precision or Precision("float32", image)).autocast():
        logits = network(leaf)
    return torch.autograd.grad(functional.cross_entropy(logits.float(), label[:, 0]), leaf)[0]


class PlainInferer:
    """Hides a MONAI inferer's type, so that the attack differentiates through it as it is."""

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer

    def __call__(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        return self.inferer(image, network)
