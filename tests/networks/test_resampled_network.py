# SPDX-License-Identifier: Apache-2.0
"""Resizing and flipping around a network are exact where they can be, and differentiable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.networks import ResampledNetwork


class Recorder(nn.Module):
    """Returns what it sees, and remembers it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image
        return image


def ramp(*size: int) -> torch.Tensor:
    """A linear function of position, which linear interpolation reproduces."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij")
    return sum((2.0 * i + 1.0) * axis for i, axis in enumerate(axes))[None, None]


@pytest.mark.parametrize("size", [(6,), (5, 7), (4, 6, 5)])
def test_same_grid_is_the_identity_for_the_user_and_flipped_for_the_network(size: tuple[int, ...]) -> None:
    image = torch.randn(2, 1, *size, dtype=torch.float64)
    recorder = Recorder()
    wrapped = ResampledNetwork(recorder, size, flip_axes=(0,))
    assert torch.allclose(wrapped(image), image, atol=1e-12)
    assert torch.allclose(recorder.seen, image.flip(2), atol=1e-12)


def test_a_ramp_survives_the_way_there_and_back() -> None:
    image = ramp(9, 10, 8)
    recorder = Recorder()
    back = ResampledNetwork(recorder, (27, 30, 24), flip_axes=(0, 2))(image)
    assert recorder.seen.shape == (1, 1, 27, 30, 24)
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))  # at the border interpolation repeats the last voxel
    assert torch.allclose(back[inner], image[inner], atol=1e-9)


def test_gradient_through_both_resizings_is_exact() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Softplus(), nn.Conv3d(2, 2, 1)).double()
    wrapped = ResampledNetwork(network, (4, 5, 3), flip_axes=(0, 2))
    image = torch.randn(1, 1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wrapped, (image,))


def test_flips_commute_with_a_flipped_image() -> None:
    network = nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(1, 1, 5, 6, 4)
    flipped = ResampledNetwork(network, (7, 7, 7), flip_axes=(0, 2))(image)
    direct = ResampledNetwork(network, (7, 7, 7))(image.flip(2, 4)).flip(2, 4)
    assert torch.allclose(flipped, direct, atol=1e-6)
    assert not torch.allclose(flipped, ResampledNetwork(network, (7, 7, 7))(image), atol=1e-3)


@pytest.mark.parametrize(
    ("size", "axes", "message"),
    [
        ((0, 4, 4), (), "positive numbers"),
        ((4, 4, 4, 4), (), "1 to 3"),
        ((4, 4), (2,), "from 0 to 1"),
        ((4, 4), (0, 0), "different"),
    ],
)
def test_bad_arguments_are_refused(size: tuple[int, ...], axes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResampledNetwork(nn.Identity(), size, axes)


def test_image_of_another_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="3 spatial dimensions"):
        ResampledNetwork(nn.Identity(), (4, 4, 4))(torch.zeros(1, 1, 4, 4))
