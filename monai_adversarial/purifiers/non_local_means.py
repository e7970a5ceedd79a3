# SPDX-License-Identifier: Apache-2.0
"""Non-local means with a noise level in HU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["NonLocalMeansDenoise", "NonLocalMeansDenoiseD", "NonLocalMeansDenoiseDict", "NonLocalMeansDenoised"]


class NonLocalMeansDenoise(Purifier):
    """Mean over the neighborhood, weighted by how alike the patches around two voxels are.

    ``weight = exp(-max(distance - 2 * noise^2, 0) / (strength * noise)^2)``, where the distance is the mean squared
    difference of two patches under a Gaussian of standard deviation ``patch_radius / 2`` voxels; patches are reflected
    at the border, neighbors outside the image do not count. Weights below 1e-26 count as that.

    This is ``skimage.restoration.denoise_nl_means(fast_mode=False, patch_size=2 * patch_radius + 1,
    patch_distance=search_radius, h=strength * noise, sigma=noise)`` in 3D, equal to 2 % of ``noise`` (root mean
    square): scikit-image approximates the exponential function and drops small weights early, and in 2D also drops
    neighbors whose center differs much. (Its ``fast_mode=True`` compares patches that are one voxel smaller and off
    center.)

    Differentiable: an attacker goes through it exactly, in the memory of about ten images.

    >>> from monai_adversarial.transforms import NonLocalMeansDenoise
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> smooth, liver, lesion = NonLocalMeansDenoise(noise=10.0)(image[0]), label[0] == 2, label[0] == 3
    >>> bool(smooth[liver].std() < 0.7 * image[0][liver].std())
    True
    >>> bool(smooth[lesion].mean() - smooth[liver].mean() > 15)  # HU, of 18: the contrast stays
    True

    Args:
        search_radius: voxels in each direction in which neighbors are looked for.
        patch_radius: voxels in each direction that are compared.
        noise: standard deviation of the noise in HU.
        strength: of the smoothing, relative to ``noise``.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: Buades, Coll and Morel, 2005; as a defense Xu, Evans and Qi, 2018.

    Survey entry: P01 (adapted).
    """

    gradient = "exact"

    def __init__(
        self,
        search_radius: int = 2,
        patch_radius: int = 1,
        noise: float = 10.0,
        strength: float = 0.8,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        self.search_radius = check_count("search_radius", search_radius)
        self.patch_radius = check_count("patch_radius", patch_radius, minimum=0)
        self.noise = check_positive("noise", noise)
        self.strength = check_positive("strength", strength)

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Denoise all samples and channels at once."""
        size = image.shape[2:]
        # at least half the search radius, so that neighbors beyond the border never are voxels of the next row
        border = max(self.patch_radius, (self.search_radius + 1) // 2)
        padded = image
        for axis, length in enumerate(size, start=2):
            padded = padded.index_select(axis, _reflected(length, border, image.device))
        padded = padded.contiguous()
        inside = torch.zeros_like(padded)
        interior: Any = (..., *(slice(border, border + length) for length in size))
        inside[interior] = 1.0
        noise = self.hounsfield(self.noise)
        pairs = _Pairs(inside, size, self.search_radius, self.patch_radius, noise, self.strength)
        return _WeightedMean.apply(padded, pairs)[interior]


def _reflected(length: int, border: int, device: torch.device) -> torch.Tensor:
    """Indices that extend an axis by reflection about its end voxels, as often as necessary."""
    period = max(2 * (length - 1), 1)
    position = torch.arange(-border, length + border, device=device) % period
    return torch.where(position < length, position, period - position)


class _Pairs:
    """Weights of all pairs of voxels with the same offset, for one offset of each opposite pair after the other.

    Everything is done on flat tensors, where a shift is contiguous and so several times faster than slices; what wraps
    around gets the weight zero.
    """

    def __init__(
        self,
        inside: torch.Tensor,
        size: Sequence[int],
        search_radius: int,
        patch_radius: int,
        noise: float,
        strength: float,
    ) -> None:
        self.inside = inside.view(-1)
        self.strides = inside.stride()[2:]
        self.shifts = []
        reach = [range(-min(search_radius, length - 1), min(search_radius, length - 1) + 1) for length in size]
        for offset in product(*reach):
            if offset > (0,) * len(offset):
                self.shifts.append(sum(o * stride for o, stride in zip(offset, self.strides, strict=True)))
        width = patch_radius / 2.0
        self.kernel = [math.exp(-0.5 * (i / width) ** 2) if i else 1.0 for i in range(patch_radius + 1)]
        total = self.kernel[0] + 2.0 * sum(self.kernel[1:])
        self.kernel = [value / total for value in self.kernel]
        self.scale = -1.0 / (strength * noise) ** 2
        self.expected = 2.0 * noise**2

    def patch_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Weighted mean over each patch; its own adjoint."""
        for stride in self.strides:
            mean = values * self.kernel[0]
            for i, weight in enumerate(self.kernel[1:], start=1):
                shift = i * stride
                if shift < len(values):
                    mean[shift:].add_(values[:-shift], alpha=weight)
                    mean[:-shift].add_(values[shift:], alpha=weight)
            values = mean
        return values

    def __call__(self, flat: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Shift, difference of the voxels, exponent before it is limited to 0, and weight, for each offset."""
        for shift in self.shifts:
            difference = flat[shift:] - flat[:-shift]
            exponent = self.patch_mean(difference * difference).sub_(self.expected).mul_(self.scale)
            # the lower limit, which changes no sum, avoids denormal numbers: they are three times slower on the CPU
            weight = exponent.clamp(-60.0, 0.0).exp_().mul_(self.inside[shift:]).mul_(self.inside[:-shift])
            yield shift, difference, exponent, weight


class _WeightedMean(torch.autograd.Function):
    """Mean of each voxel and its neighbors; computes the weights again in the backward pass."""

    @staticmethod
    def forward(ctx, padded: torch.Tensor, pairs: _Pairs) -> torch.Tensor:  # type: ignore[override]
        flat = padded.reshape(-1)
        total, weights = flat.clone(), torch.ones_like(flat)  # a voxel counts for itself with weight 1
        for shift, _, _, weight in pairs(flat):
            total[:-shift].addcmul_(weight, flat[shift:])
            total[shift:].addcmul_(weight, flat[:-shift])
            weights[:-shift].add_(weight)
            weights[shift:].add_(weight)
        mean = total.div_(weights)
        ctx.pairs = pairs
        ctx.save_for_backward(flat, mean, weights)
        return mean.view(padded.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        flat, mean, weights = ctx.saved_tensors
        to_total = gradient.reshape(-1) / weights
        to_weights = -to_total * mean
        out = to_total.clone()
        for shift, difference, exponent, weight in ctx.pairs(flat):
            out[shift:].addcmul_(weight, to_total[:-shift])
            out[:-shift].addcmul_(weight, to_total[shift:])
            to_weight = to_weights[shift:] + to_weights[:-shift]
            to_weight.addcmul_(to_total[:-shift], flat[shift:]).addcmul_(to_total[shift:], flat[:-shift])
            to_exponent = to_weight.mul_(weight).masked_fill_(exponent >= 0, 0.0)
            to_difference = ctx.pairs.patch_mean(to_exponent).mul_(difference).mul_(2.0 * ctx.pairs.scale)
            out[shift:].add_(to_difference)
            out[:-shift].sub_(to_difference)
        return out.view(gradient.shape), None


NonLocalMeansDenoiseD = NonLocalMeansDenoiseDict = NonLocalMeansDenoised = dictionary_form(
    NonLocalMeansDenoise,
    """
    >>> from monai_adversarial.transforms import NonLocalMeansDenoised
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> smooth = NonLocalMeansDenoised("image", search_radius=1, noise=10.0)({"image": image[0]})["image"]
    >>> smooth.affine.diagonal().tolist(), bool(smooth.std() < image.std())
    ([6.0, 6.0, 6.0, 1.0], True)
    """,
)
