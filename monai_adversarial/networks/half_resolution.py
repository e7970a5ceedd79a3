# SPDX-License-Identifier: Apache-2.0
"""Networks that work at half resolution without losing a voxel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.networks.utils import pixelshuffle, pixelunshuffle

__all__ = ["at_half_resolution"]

# The network's grid holds HU -160 to 240 as 0 to 1: soft tissue (about 40 HU) becomes 0 and the window -2 to 2.
CENTER, GAIN = 0.5, 4.0


def at_half_resolution(
    network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, multiple: int
) -> torch.Tensor:
    """Run a network on the image's voxels rearranged into channels at half resolution (pixel unshuffle).

    Every 2 x 2 (x 2) voxels become 4 (8) channels, an exact rearrangement, so that convolutions cost an eighth in 3D
    (FFDNet, Zhang et al. 2018). Sizes that do not fit are filled up with border values and cut back.

    Args:
        network: (batch, channel * 2**dimensions, spatial / 2) to the same spatial size.
        image: (batch, channel, 2 or 3 spatial dimensions).
        multiple: sizes at half resolution must be multiples of it.
    """
    dimensions, sizes = image.ndim - 2, image.shape[2:]
    missing = [-size % (2 * multiple) for size in sizes]
    filled = F.pad(image, [n for m in reversed(missing) for n in (0, m)], mode="replicate") if any(missing) else image
    out = pixelshuffle(network(pixelunshuffle(filled, dimensions, 2)), dimensions, 2)
    for axis, size in enumerate(sizes, start=2):
        out = out.narrow(axis, 0, size)
    return out
