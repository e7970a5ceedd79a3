# SPDX-License-Identifier: Apache-2.0
"""JPEG compression of slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from monai_adversarial.purifiers.base import Purifier, RandomPurifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.discrete_cosine import (
    attack_spread,
    pad_to_blocks,
    quantize,
    soft_quantize,
    tile_blocks,
    transform_axis,
)
from monai_adversarial.purifiers.window import SOFT_TISSUE, check_window, window_in_image, within_window

__all__ = [
    "JPEGCompression",
    "JPEGCompressionD",
    "JPEGCompressionDict",
    "JPEGCompressiond",
    "RandJPEGCompression",
    "RandJPEGCompressionD",
    "RandJPEGCompressionDict",
    "RandJPEGCompressiond",
]

Quantization = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Rounding = Callable[[torch.Tensor], torch.Tensor]

# fmt: off
#: luminance table of the JPEG standard (ITU-T T.81, annex K), (row frequency, column frequency)
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
#: libjpeg's transform with 13 bits behind the point, left half of each row (frequency, position); the right half
#: mirrors it with the sign of the frequency's parity
INTEGER_DCT = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
# fmt: on


class JPEGCompression(Purifier):
    """JPEG (8 bits, grayscale) of every slice, without the file: 8x8 DCT, the standard's luminance table scaled to a
    quality as libjpeg does, rounding.

    With libjpeg's integer arithmetic: equal to Pillow's coder and decoder to the bit in float64, and in float32 but for
    one voxel in 1000. One gray level is 1/255 of ``window``: 2 HU.

    Attacked by a surrogate: the same with soft rounding of the coefficients (``soft_quantize``) and none of the gray
    levels.

    >>> from monai_adversarial.transforms import JPEGCompression
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case()
    >>> change = [float((JPEGCompression(quality)(image[0]) - image[0]).abs().mean()) for quality in (90, 50, 10)]
    >>> 2 < change[0] < change[1] < change[2] < 12  # HU
    True

    Args:
        quality: 1 (coarse) to 100.
        window: HU that gray levels 0 to 255 stand for; voxels outside stay as they are and count as its ends.
        slice_axis: spatial axis of a 3D image across the slices; -1 is axial for volumes as they are stored. Of the
            two others, the first one counts as the rows.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: Guo et al., "Countering adversarial images using input transformations", ICLR 2018 (quality 75).

    Survey entry: P02 (adapted).
    """

    gradient = "surrogate"

    def __init__(
        self,
        quality: int = 75,
        window: Sequence[float] = SOFT_TISSUE,
        slice_axis: int = -1,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        self.quality = check_quality(quality)
        self.window = check_window(window)
        self.slice_axis = check_slice_axis(slice_axis)

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Code and decode."""
        return self._compress(image, self.quality, quantize, _half_up)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The same with soft rounding."""
        return self._compress(image, self.quality, *self._soft())

    def _soft(self) -> tuple[Quantization, Rounding]:
        """Stand-ins for the rounding of coefficients and of gray levels."""
        spread = attack_spread((8, 8)) * 255.0 / (self.window[1] - self.window[0])
        return partial(soft_quantize, spread=spread), lambda gray: gray

    def _compress(
        self,
        image: torch.Tensor,
        quality: int,
        quantization: Quantization,
        rounding: Rounding,
    ) -> torch.Tensor:
        low, high = window_in_image(self.window, self.intensity)
        across = slice_position(self.slice_axis, image.ndim - 2, type(self).__name__)
        row, column = (axis for axis in range(2, image.ndim) if axis - 2 != across)
        block = [1 if axis == across else 8 for axis in range(image.ndim - 2)]
        table = quality_table(quality).to(image).reshape(block)
        half = torch.tensor(INTEGER_DCT).to(image) / 8192.0
        sign = torch.tensor([1.0, -1.0]).to(image).repeat(4)[:, None]
        matrix = torch.cat([half, sign * half.flip(1)], dim=1)  # the orthonormal one times the root of 8
        level = (high - low) / 255.0

        def decoded(clipped: torch.Tensor) -> torch.Tensor:
            gray = pad_to_blocks(rounding((clipped - low) / level) - 128.0, block)
            # Rounded after each pass as in libjpeg: to quarters, then to eighths of a coefficient.
            quarters = rounding(transform_axis(gray, column, matrix) * 4.0)
            eighths = rounding(transform_axis(quarters, row, matrix) / 4.0)
            coefficients = quantization(eighths / 8.0, tile_blocks(table, gray.shape))
            quarters = rounding(transform_axis(coefficients, row, matrix.T) * 4.0)
            gray = rounding(transform_axis(quarters, column, matrix.T) / 32.0) + 128.0
            return gray[tuple(slice(length) for length in image.shape)].clamp(0.0, 255.0) * level + low

        return within_window(decoded, image, low, high)


class RandJPEGCompression(JPEGCompression, RandomPurifier):
    """:class:`JPEGCompression` with a quality that is drawn anew for every image.

    >>> import torch
    >>> from monai_adversarial.transforms import RandJPEGCompression
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> compress = RandJPEGCompression(quality=(10, 90)).set_random_state(1)
    >>> first, second = compress(image[0]), compress(image[0])
    >>> torch.equal(first, second), torch.equal(first, compress.set_random_state(1)(image[0]))
    (False, True)

    Args:
        quality: lowest and highest, both included.
        window: see :class:`JPEGCompression`.
        slice_axis: see :class:`JPEGCompression`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: reconstruction.

    Survey entry: P02 (reconstruction).
    """

    def __init__(
        self,
        quality: Sequence[int] = (50, 90),
        window: Sequence[float] = SOFT_TISSUE,
        slice_axis: int = -1,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        if not isinstance(quality, Sequence) or len(quality) != 2 or quality[0] > quality[1]:
            raise ValueError(f"quality must be two integers (lowest, highest), got {quality!r}.")
        super().__init__(check_quality(quality[1]), window, slice_axis, intensity, spacing)
        self.qualities = (check_quality(quality[0]), check_quality(quality[1]))

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Code and decode each sample with its own quality."""
        return self._each(image, context, quantize, _half_up)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The same draw with soft rounding."""
        return self._each(image, context, *self._soft())

    def _each(
        self, image: torch.Tensor, context: ImageContext, quantization: Quantization, rounding: Rounding
    ) -> torch.Tensor:
        low, high = self.qualities
        draws = [
            int(torch.randint(low, high + 1, (), generator=generator))
            for generator in context.generators("cpu", image.shape[0])
        ]
        return torch.cat([self._compress(image[i : i + 1], q, quantization, rounding) for i, q in enumerate(draws)])


def _half_up(values: torch.Tensor) -> torch.Tensor:
    return (values + 0.5).floor_()


def quality_table(quality: int) -> torch.Tensor:
    """The luminance table for a quality as libjpeg scales it, 8 x 8."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(LUMINANCE) * scale + 50) // 100).clamp(1, 255)


def check_quality(quality: int) -> int:
    """Return ``quality`` if it is an integer from 1 to 100, else raise ValueError."""
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"quality must be an integer from 1 to 100, got {quality!r}.")
    return quality


def check_slice_axis(slice_axis: int) -> int:
    """Return ``slice_axis`` if it is an integer that names one of three axes, else raise ValueError."""
    if isinstance(slice_axis, bool) or not isinstance(slice_axis, int) or not -3 <= slice_axis <= 2:
        raise ValueError(f"slice_axis must be a spatial axis, an integer from -3 to 2, got {slice_axis!r}.")
    return slice_axis


def slice_position(slice_axis: int, rank: int, name: str) -> int | None:
    """Non-negative slice axis of a 3D image, None for 2D ones.

    Raises:
        ValueError: for 1D images.
    """
    if rank == 1:
        raise ValueError(f"{name} needs images with 2 or 3 spatial dimensions, got 1.")
    return None if rank == 2 else slice_axis % 3


JPEGCompressionD = JPEGCompressionDict = JPEGCompressiond = dictionary_form(
    JPEGCompression,
    """
    >>> import numpy as np
    >>> from monai_adversarial.transforms import JPEGCompressiond
    >>> scan = np.random.default_rng(0).normal(50, 20, (1, 16, 16, 4))
    >>> scan[:, :4] = -1000.0  # air is outside the window of -200 to 300 HU
    >>> item = JPEGCompressiond("image", quality=30)({"image": scan})
    >>> bool((item["image"][:, :4] == -1000).all()), bool((item["image"][:, 4:] != scan[:, 4:]).any())
    (True, True)
    """,
)
RandJPEGCompressionD = RandJPEGCompressionDict = RandJPEGCompressiond = dictionary_form(
    RandJPEGCompression,
    """
    >>> import numpy as np
    >>> from monai.transforms import Compose
    >>> from monai_adversarial.transforms import RandJPEGCompressiond
    >>> scan = np.random.default_rng(0).normal(50, 20, (1, 16, 16))
    >>> pipeline = Compose([RandJPEGCompressiond("image", quality=(10, 90))])
    >>> first, again = (pipeline.set_random_state(5)({"image": scan})["image"] for _ in range(2))
    >>> bool((first == again).all())
    True
    """,
)
