# SPDX-License-Identifier: Apache-2.0
"""Changes of an image by a few parameters that add up when one follows the other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch

from monai_adversarial.utils.smooth_basis import evaluate_separable, legendre_exponents, legendre_matrix
from monai_adversarial.utils.validation import check_count

__all__ = ["AdditiveChange", "BiasFieldChange", "GammaChange", "ShiftChange", "TranslationChange", "check_composes"]

#: difference between two ways to the same image, as a share of the change
COMPOSITION_TOLERANCE = 1e-3


class AdditiveChange(ABC):
    """A change whose parameters add: ``apply(apply(x, a), b)`` equals ``apply(x, a + b)``.

    This is what a certificate over the parameters needs, and few changes have it. Elastic displacements do not: of two
    warps one after the other the displacements do not add, whatever the interpolation. Neither does anything that
    clips, rounds, or interpolates between voxels on the way.

    A class of your own defines :py:attr:`units`, :py:meth:`count` and :py:meth:`apply`; one that moves voxels also
    :py:meth:`moved_back`.

    >>> import torch
    >>> from monai_adversarial.inferers import AdditiveChange
    >>> class Brighter(AdditiveChange):
    ...     units = "HU"
    ...     def count(self, image):
    ...         return 1
    ...     def apply(self, image, parameters):
    ...         return image + parameters.view(-1, 1, 1, 1, 1)
    >>> Brighter().apply(torch.zeros(1, 1, 4, 4, 4), torch.tensor([[3.0]])).unique().tolist()
    [3.0]
    """

    #: of the parameters
    units: str = "parameters"

    @abstractmethod
    def count(self, dimensions: int) -> int:
        """Number of parameters for images with so many spatial dimensions."""

    @abstractmethod
    def apply(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The changed images.

        Args:
            image: (batch, channel, spatial...).
            parameters: (batch, parameter), float32.
        """

    def moved_back(self, logits: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Logits of changed images where the voxels were before; the same unless the change moves voxels.

        Args:
            logits: (batch, class, spatial...).
            parameters: (batch, parameter).
        """
        return logits

    def check(self, image: torch.Tensor) -> None:  # noqa: B027
        """Raise ValueError for an image that cannot be changed so."""


def check_composes(change: AdditiveChange, image: torch.Tensor, sigma: float, seed: int = 0) -> None:
    """Raise ValueError where two changes of an image are not the sum: a certificate would be wrong.

    It compares two random changes of size ``sigma``, which finds what does not compose and proves nothing.

    Args:
        change: what is checked.
        image: (batch, channel, spatial...).
        sigma: standard deviation of the parameters.
        seed: of the parameters.
    """
    shape = (2, image.shape[0], change.count(image.ndim - 2))
    both = sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(image.device)
    after, sum_ = change.apply(change.apply(image, both[0]), both[1]), change.apply(image, both[0] + both[1])
    error = float((after - sum_).abs().max())
    size = max(float((sum_ - image).abs().max()), float((change.apply(image, both[0]) - image).abs().max()))
    rounding = 1e-5 * float(image.abs().max())
    if not error <= COMPOSITION_TOLERANCE * size + rounding:  # NaN as well
        raise ValueError(
            f"{type(change).__name__} does not compose: two changes, one after the other, differ from their sum by "
            f"{error / max(size, 1e-30):.1%} of the change, so that no certificate follows (warps, interpolation, "
            "rounding and clipping do not add)."
        )


class BiasFieldChange(AdditiveChange):
    """A smooth gain: the exponential of a sum of Legendre polynomials, as in MONAI's ``RandBiasField``.

    >>> import torch
    >>> from monai_adversarial.inferers import BiasFieldChange
    >>> field = BiasFieldChange(degree=1)
    >>> image, coefficients = torch.ones(1, 1, 5), torch.tensor([[0.0, 0.1]])
    >>> [f"{value:.2f}" for value in field.apply(image, coefficients).log().flatten().tolist()]
    ['-0.10', '-0.05', '0.00', '0.05', '0.10']

    Args:
        degree: highest total degree of the polynomials; 0 is one gain for the whole image.
        zero: value of an image that stays where it is: 0 where the image is proportional to the signal (MRI), -1000
            for HU, whose gain then acts on the linear attenuation.

    Raises:
        ValueError: for a bad argument.
    """

    units = "log gain"

    def __init__(self, degree: int = 3, zero: float = 0.0) -> None:
        self.degree = check_count("degree", degree, minimum=0)
        if isinstance(zero, bool) or not isinstance(zero, (int, float)) or not math.isfinite(zero):
            raise ValueError(f"zero must be a finite number, got {zero!r}.")
        self.zero = float(zero)

    def count(self, dimensions: int) -> int:
        """Coefficients of the polynomials, in the order of MONAI's ``RandBiasField``."""
        return len(legendre_exponents(self.degree, dimensions))

    def apply(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """See :py:meth:`AdditiveChange.apply`."""
        spatial = image.shape[2:]
        table = parameters.new_zeros((len(parameters), *[self.degree + 1] * len(spatial)))
        for place, exponents in enumerate(legendre_exponents(self.degree, len(spatial))):
            where: tuple[Any, ...] = (slice(None), *exponents)
            table[where] = parameters[:, place]
        matrices = [legendre_matrix(length, self.degree).to(table) for length in spatial]
        gain = evaluate_separable(table, matrices).exp()[:, None]
        return (image - self.zero) * gain + self.zero


class ShiftChange(AdditiveChange):
    """One number is added to all voxels; its units are those of the image.

    >>> import torch
    >>> from monai_adversarial.inferers import ShiftChange
    >>> ShiftChange().apply(torch.zeros(2, 1, 4, 4), torch.tensor([[1.0], [5.0]])).mean(dim=(1, 2, 3)).tolist()
    [1.0, 5.0]
    """

    units = "image units"

    def count(self, dimensions: int) -> int:
        """1."""
        return 1

    def apply(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """See :py:meth:`AdditiveChange.apply`."""
        return image + parameters.view(-1, *[1] * (image.ndim - 1))


class GammaChange(AdditiveChange):
    """A power law between the darkest and the brightest value: the exponent's logarithm adds.

    >>> import torch
    >>> from monai_adversarial.inferers import GammaChange
    >>> image, change = torch.rand(1, 1, 4, 4, 4), GammaChange()
    >>> one, two, both = (torch.tensor([[value]]) for value in (0.3, -0.5, -0.2))
    >>> torch.allclose(change.apply(change.apply(image, one), two), change.apply(image, both), atol=1e-5)
    True

    Args:
        low: value that stays, the darkest there may be.
        high: value that stays, the brightest there may be.

    Raises:
        ValueError: for a range that is empty; when used, for an image that leaves it.
    """

    units = "log exponent"

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not math.isfinite(low) or not math.isfinite(high) or low >= high:
            raise ValueError(f"low must be below high, both finite, got {low!r} and {high!r}.")
        self.low, self.high = float(low), float(high)

    def count(self, dimensions: int) -> int:
        """1."""
        return 1

    def apply(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """See :py:meth:`AdditiveChange.apply`."""
        exponent = parameters.view(-1, *[1] * (image.ndim - 1)).exp()
        size = self.high - self.low
        return self.low + size * ((image - self.low) / size) ** exponent

    def check(self, image: torch.Tensor) -> None:
        """Raise ValueError for an image that leaves the range."""
        low, high = float(image.min()), float(image.max())
        if not self.low <= low <= high <= self.high:
            raise ValueError(
                f"image must lie in {self.low:g} to {self.high:g} for GammaChange, got {low:g} to {high:g}."
            )


class TranslationChange(AdditiveChange):
    """A translation along each axis, in voxels, with what leaves at one border coming back at the other.

    Translations add, but trilinear interpolation does not: each step blurs again. So the shift is a phase of the
    Fourier transform, which is exact for periodic images; the one frequency that has no phase, at half the sampling
    rate of an even axis, stays where it is. Whole numbers of voxels shift the frequencies below it exactly. The border
    must be the same on both sides, such as air: a shift that brings in other tissue is not covered.

    The segmentation moves along: a point of tissue keeps its class. What is certified at a voxel holds at the moved
    place of its center, which is a voxel for whole shifts.

    >>> import torch
    >>> from monai_adversarial.inferers import TranslationChange
    >>> image = torch.rand(1, 1, 7, 7)
    >>> moved = TranslationChange().apply(image, torch.tensor([[1.0, 0.0]]))
    >>> any(torch.allclose(moved, image.roll(step, dims=2), atol=1e-4) for step in (1, -1))
    True
    """

    units = "voxels"

    def count(self, dimensions: int) -> int:
        """One per axis."""
        return dimensions

    def apply(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """See :py:meth:`AdditiveChange.apply`."""
        axes = tuple(range(2, image.ndim))
        spectrum = torch.fft.fftn(image, dim=axes)
        for axis in axes:
            length = image.shape[axis]
            frequencies = torch.fft.fftfreq(length, dtype=torch.float64, device=image.device)
            if length % 2 == 0:
                frequencies[length // 2] = 0.0
            angle = -2 * math.pi * parameters[:, axis - 2].double()[:, None] * frequencies
            shape = [len(parameters), 1, *[length if other == axis else 1 for other in axes]]
            spectrum = spectrum * torch.polar(torch.ones_like(angle), angle).view(shape).to(spectrum.dtype)
        return torch.fft.ifftn(spectrum, dim=axes).real.to(image.dtype)

    def moved_back(self, logits: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The nearest voxel to where each voxel went: nothing is interpolated."""
        steps = parameters.round().long().tolist()
        axes = tuple(range(1, logits.ndim - 1))
        rolled = [sample.roll([-step for step in row], axes) for sample, row in zip(logits, steps, strict=True)]
        return torch.stack(rolled)
