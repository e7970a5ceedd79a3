# SPDX-License-Identifier: Apache-2.0
"""Pixel unshuffle around a network."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.networks.half_resolution import at_half_resolution
from tests.helpers import random_image


@pytest.mark.parametrize("sizes", [(8, 8, 8), (7, 9, 10), (5, 6), (1, 3, 2)])
def test_the_identity_network_gives_every_voxel_back(sizes: tuple[int, ...]) -> None:
    image = random_image((2, 1, *sizes))
    assert torch.equal(at_half_resolution(lambda cells: cells, image, multiple=4), image)


def test_a_cell_holds_neighboring_voxels_and_sizes_fit_the_network() -> None:
    seen = []

    def network(cells: torch.Tensor) -> torch.Tensor:
        seen.append(cells)
        return cells

    image = torch.arange(7 * 6 * 5, dtype=torch.float32).view(1, 1, 7, 6, 5)
    at_half_resolution(network, image, multiple=2)
    assert seen[0].shape == (1, 8, 4, 4, 4)
    assert sorted(seen[0][0, :, 1, 1, 1].tolist()) == sorted(image[0, 0, 2:4, 2:4, 2:4].flatten().tolist())
    last = image[0, 0, 6, :2, :2].flatten().tolist()  # the seventh plane is continued by an eighth
    assert sorted(seen[0][0, :, 3, 0, 0].tolist()) == sorted(last + last)


def test_borders_are_continued_not_zero() -> None:
    def network(cells: torch.Tensor) -> torch.Tensor:
        assert float(cells.min()) == 3.0
        return cells

    image = torch.full((1, 1, 3, 5, 7), 3.0)
    assert torch.equal(at_half_resolution(network, image, 4), image)
