# SPDX-License-Identifier: Apache-2.0
"""A network that sees a clean image and says how to perturb it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import UNet
from torch import nn
from torch.nn import functional

from monai_adversarial.utils.validation import check_count

__all__ = ["PerturbationGenerator"]

# Of an amount's effect, so that it is learned about as fast as all else.
STEEPNESS = 10.0


class PerturbationGenerator(nn.Module):
    """A small U-Net with one head for each parameter tensor of a perturbation.

    What it says is a share of the budget, between -1 and 1, so that the same network serves noise, shading and
    deformation. Heads for coarse grids average the features over the grid. Conditions scale and shift the features
    (FiLM); an amount makes what each head says larger or smaller, by a factor above 0. Normalization is by instance: a
    batch changes nothing for its samples.

    Example:
        >>> import torch
        >>> from monai_adversarial.networks import PerturbationGenerator
        >>> network = PerturbationGenerator([1, 3], channels=(4, 8))
        >>> shares, attention = network(torch.rand(2, 1, 12, 12, 12), [(1, 12, 12, 12), (3, 5, 5, 5)])
        >>> [tuple(share.shape) for share in shares], attention
        ([(2, 1, 12, 12, 12), (2, 3, 5, 5, 5)], None)

    Args:
        heads: channels of each parameter tensor.
        in_channels: of the image.
        spatial_dims: axes of the image.
        channels: of each level of the U-Net; every level but the first halves the grid.
        conditions: numbers per sample that the image does not show, for example random ones.
        amount: it is also told how much is wanted, one number per sample.
        attention: one more head, a map between 0 and 1 by which shares on the image's own grid are multiplied.

    Raises:
        ValueError: for no head, fewer than two levels, or counts below 1.

    Source: our own; the generator of Xiao et al. 2018 is a ResNet in 2D, and FiLM is Perez et al. 2018.
    """

    def __init__(
        self,
        heads: Sequence[int],
        in_channels: int = 1,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 32, 64),
        conditions: int = 0,
        attention: bool = False,
        amount: bool = False,
    ) -> None:
        super().__init__()
        self.head_channels = tuple(check_count("heads", count) for count in heads)
        if not self.head_channels or len(channels) < 2:
            raise ValueError(
                f"heads must hold at least one number and channels at least two, got {tuple(heads)} and "
                f"{tuple(channels)}."
            )
        self.in_channels, self.spatial_dims = check_count("in_channels", in_channels), spatial_dims
        self.conditions = check_count("conditions", conditions, minimum=0)
        features = check_count("channels", channels[0])
        # The deepest level needs two voxels along each axis for its normalization.
        self.divisor, self.smallest = 2 ** (len(channels) - 1), 2 ** len(channels)
        self.body = UNet(spatial_dims, self.in_channels, features, channels, [2] * (len(channels) - 1), num_res_units=1)
        self.film = nn.Linear(max(self.conditions, 1), 2 * features)
        self.strength = nn.Linear(1, len(self.head_channels)) if amount else None
        for layer in (self.film, self.strength):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        convolution: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        made = [convolution(features, count, 3, padding=1) for count in self.head_channels]
        self.heads = nn.ModuleList(made)
        for head in made:  # a training begins at the clean image, where no objective is flat from excess
            nn.init.zeros_(head.weight)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
        self.attention = convolution(features, 1, 3, padding=1) if attention else None
        #: training steps so far: without any, an attack refuses the network
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: torch.Tensor

    def forward(
        self,
        image: torch.Tensor,
        shapes: Sequence[Sequence[int]],
        conditions: torch.Tensor | None = None,
        amount: torch.Tensor | None = None,
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Shares of the budget.

        Args:
            image: (batch, channel, spatial...), as the attacked network sees it.
            shapes: of each parameter tensor without the batch: (channel, grid...), (grid...) or (channel,).
            conditions: (batch, conditions).
            amount: (batch,), from 0 to 1.

        Returns:
            One tensor per head, of its shape after the batch, and the map (batch, 1, spatial...) or None.

        Raises:
            ValueError: for another number of channels, shapes or conditions than the network was made for, and for an
                amount where it takes none, or none where it takes one.
        """
        wanted = tuple(self._channels_of(shape) for shape in shapes)
        given = 0 if conditions is None else int(conditions.shape[1])
        if image.shape[1] != self.in_channels or wanted != self.head_channels or given != self.conditions:
            raise ValueError(
                f"generator was made for {self.in_channels} image channels, heads of {self.head_channels} channels "
                f"and {self.conditions} conditions, but the attack has {image.shape[1]}, {wanted} and {given}."
            )
        if (amount is None) != (self.strength is None):
            takes = "no amount" if self.strength is None else "an amount, such as drop=0.5"
            raise ValueError(f"generator was made for {takes}, got {'none' if amount is None else 'one'}.")
        features = self._features(image)
        if conditions is not None:
            scale, shift = self.film(conditions).view(*conditions.shape[:1], -1, *[1] * self.spatial_dims).chunk(2, 1)
            features = features * (1 + scale) + shift
        features = functional.leaky_relu(features, 0.1)
        attention = None if self.attention is None else self.attention(features).sigmoid()
        shares = []
        for number, (head, shape) in enumerate(zip(self.heads, shapes, strict=True)):
            share = head(features)
            if amount is not None and self.strength is not None:
                size = self.strength(STEEPNESS * (amount[:, None] - 0.5))[:, number].exp()
                share = share * size.view(-1, *[1] * (share.ndim - 1))
            grid = tuple(shape[len(shape) - self.spatial_dims :]) if len(shape) >= self.spatial_dims else None
            if grid is None:
                share = share.flatten(2).mean(dim=2)
            elif grid != tuple(share.shape[2:]):
                share = functional.interpolate(share, size=grid, mode="area")
            share = share.tanh()
            if attention is not None and grid == tuple(attention.shape[2:]):
                share = share * attention
            shares.append(share.reshape(image.shape[0], *shape))
        return tuple(shares), attention

    def _channels_of(self, shape: Sequence[int]) -> int:
        """Channels of a parameter tensor."""
        return int(shape[0]) if len(shape) != self.spatial_dims else 1

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """Features on the image's grid, which is filled up to a multiple that the U-Net can halve."""
        grid = image.shape[2:]
        full = [max(self.smallest, math.ceil(n / self.divisor) * self.divisor) for n in grid]
        filling = [part for n, m in zip(reversed(grid), reversed(full), strict=True) for part in (0, m - n)]
        filled = functional.pad(image, filling, mode="replicate") if any(filling) else image
        return self.body(filled)[(slice(None), slice(None), *(slice(n) for n in grid))]
