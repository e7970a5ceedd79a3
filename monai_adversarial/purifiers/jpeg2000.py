# SPDX-License-Identifier: Apache-2.0
"""JPEG 2000 compression of slices."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.biorthogonal_wavelet import map_details, soft_dead_zone
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.jpeg import check_slice_axis, slice_position
from monai_adversarial.purifiers.window import SOFT_TISSUE, check_window, window_in_image, within_window
from monai_adversarial.utils.validation import check_positive

__all__ = ["JPEG2000Compression", "JPEG2000CompressionD", "JPEG2000CompressionDict", "JPEG2000Compressiond"]

Image, _ = optional_import("PIL.Image")
features, has_pillow = optional_import("PIL.features")


#: of the surrogate's wavelet transform
LEVELS = 3


class JPEG2000Compression(Purifier):
    """Lossy JPEG 2000 (16 bits, grayscale) of every slice: Pillow's coder and decoder (OpenJPEG), on the CPU.

    Attacked by a surrogate: the same wavelet transform in torch, with a soft dead zone of 3 ``error`` for the details
    (``soft_dead_zone``) instead of the coder's choice of bits. PGD through it is stronger than straight through.

    >>> from monai_adversarial.transforms import JPEG2000Compression
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> change = JPEG2000Compression(error=8.0)(image[0]) - image[0]
    >>> 6 < float(change.square().mean().sqrt()) < 10  # HU, root mean square
    True

    Args:
        error: root mean square difference from the clipped slice that the coder aims at, in HU. Noise of about this
            size goes first. Spent on details where the image has them: more inside the body, none in air.
        window: HU that gray levels 0 to 65535 stand for; voxels outside stay as they are and count as its ends.
        slice_axis: spatial axis of a 3D image across the slices; -1 is axial for volumes as they are stored.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Raises:
        RuntimeError: when Pillow is missing or cannot write JPEG 2000.

    Source: reconstruction, after the use of JPEG.

    Survey entry: P02 (reconstruction).
    """

    gradient = "surrogate"

    def __init__(
        self,
        error: float = 8.0,
        window: Sequence[float] = SOFT_TISSUE,
        slice_axis: int = -1,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        self.error = check_positive("error", error)
        self.window = check_window(window)
        self.slice_axis = check_slice_axis(slice_axis)
        if not has_pillow or not features.check("jpg_2000"):
            raise RuntimeError("JPEG2000Compression needs Pillow with OpenJPEG: pip install pillow.")

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Code and decode each slice."""
        across = slice_position(self.slice_axis, image.ndim - 2, type(self).__name__)
        low, high = window_in_image(self.window, self.intensity)
        level = (high - low) / 65535.0

        def decoded(clipped: torch.Tensor) -> torch.Tensor:
            gray = ((clipped.detach() - low) / level).round_().to(device="cpu", dtype=torch.int32)
            gray = gray if across is None else gray.movedim(2 + across, 2)
            array = gray.numpy().astype(np.uint16)
            slices = [self._code(item) for item in array.reshape(-1, *array.shape[-2:])]
            back = torch.from_numpy(np.stack(slices).reshape(array.shape).astype(np.int32))
            back = back if across is None else back.movedim(2, 2 + across)
            return back.to(image) * level + low

        return within_window(decoded, image, low, high)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The wavelet transform of the slices with a soft dead zone."""
        across = slice_position(self.slice_axis, image.ndim - 2, type(self).__name__)
        axes = [axis for axis in range(2, image.ndim) if axis - 2 != across]
        error = self.hounsfield(self.error)
        dead_zone = partial(soft_dead_zone, threshold=3.0 * error, spread=error)
        low, high = window_in_image(self.window, self.intensity)
        return within_window(lambda clipped: map_details(clipped, axes, LEVELS, dead_zone), image, low, high)

    def _code(self, gray: np.ndarray) -> np.ndarray:
        """One slice through the coder and back."""
        # The coder's target is a signal-to-noise ratio in decibels of the full range.
        decibels = 20.0 * math.log10((self.window[1] - self.window[0]) / self.error)
        # Each wavelet level halves the slice: OpenJPEG refuses more levels than the slice can bear.
        resolutions = max(1, min(6, int(math.log2(min(gray.shape))) + 1))
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(gray)).save(
            file,
            format="JPEG2000",
            irreversible=True,
            quality_mode="dB",
            quality_layers=[decibels],
            num_resolutions=resolutions,
            no_jp2=True,
        )
        return np.asarray(Image.open(file))


JPEG2000CompressionD = JPEG2000CompressionDict = JPEG2000Compressiond = dictionary_form(
    JPEG2000Compression,
    """
    >>> from monai_adversarial.transforms import JPEG2000Compressiond
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> coded = [JPEG2000Compressiond("image", error=hu, slice_axis=0)({"image": image[0]})["image"] for hu in (2, 9)]
    >>> fine, coarse = ((one - image[0]).square().mean().sqrt() for one in coded)
    >>> bool(fine < 3 < coarse)  # HU, root mean square
    True
    """,
)
