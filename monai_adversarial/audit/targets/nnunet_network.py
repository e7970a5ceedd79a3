# SPDX-License-Identifier: Apache-2.0
"""The networks of several folds, and of mirrored images, as one that is differentiated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["NNUNetEnsemble"]


class NNUNetEnsemble(nn.Module):
    """Mean of the logits of an nnU-Net's folds, each the mean over mirrored images where that is asked for.

    nnU-Net averages the stitched logits of its folds one after the other. Stitching is linear, so that the mean on each
    window is the same up to rounding, and it has a gradient.

    Args:
        networks: one for each fold, from (batch, channel, spatial...) to logits (batch, class, spatial...).
        mirrored_axes: spatial axes that images are mirrored along, in all combinations; empty for none.
        out_channels: number of classes, for reports.
    """

    def __init__(self, networks: Sequence[nn.Module], mirrored_axes: Sequence[int] = (), out_channels: int = 0) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        axes = [axis + 2 for axis in mirrored_axes]
        self.flips = tuple(flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count))
        self.out_channels = out_channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, class, spatial...)."""
        folds = [
            sum(network(image.flip(flip)).flip(flip) if flip else network(image) for flip in self.flips)
            / len(self.flips)
            for network in self.networks
        ]
        return sum(folds[1:], folds[0]) / len(folds)
