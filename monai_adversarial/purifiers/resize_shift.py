# SPDX-License-Identifier: Apache-2.0
"""Random scale and shift of the image, undone on what the network makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import ensure_tuple

from monai_adversarial.purifiers.base import RandomPurifier
from monai_adversarial.purifiers.checks import MOST_CLASSES
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.utils.separable_resampling import AxisInterpolation, resample_axes
from monai_adversarial.utils.validation import check_positive

__all__ = ["RandResizeShift", "RandResizeShiftD", "RandResizeShiftDict", "RandResizeShiftd"]


class RandResizeShift(RandomPurifier):
    """Scales the image about its center and shifts it by random amounts, on its own grid, linearly interpolated.
    ``pull_back`` undoes both on logits and probabilities (linearly) and on labels.

    The grid keeps its size: what moves in from outside repeats the border's values or is padded with ``pad_value``, and
    what moves out of the grid is lost to ``pull_back``.

    Labels do not mix. Of integers, and of floats where the context's ``interpolation`` (``mode`` of the dictionary
    form, or ``Invertd(nearest_interp=True)``) is ``"nearest"``, each voxel takes the class with the largest share, and
    the channels of a one-hot label share one decision. Values that are no classes (fractions, or more than 256
    different ones) are taken from the nearest voxel.

    Scale and shift act along the axes one by one, by the package's ``AxisInterpolation``. Equal to
    ``scipy.ndimage.affine_transform(order=1)`` to 1e-5 of the intensities, with ``mode="nearest"`` or, when padding,
    ``mode="constant"``.

    Differentiable: an attacker goes through one draw exactly, and through many with ``ExpectationOverTransformation``.

    >>> from monai_adversarial.transforms import RandResizeShift
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, label = example_case()
    >>> move = RandResizeShift(scale=(1.1, 1.1), shift=0.0)
    >>> larger = move(label[0].int())
    >>> larger.unique().tolist(), bool((larger > 0).sum() > 1.2 * (label > 0).sum())  # 1.1 along three axes
    ([0, 1, 2, 3], True)

    Args:
        scale: lowest and highest magnification, the same along all axes of an image.
        shift: largest shift either way in mm, one number or one per axis.
        pad_value: HU of what moves in from outside, for example -1000; labels get 0 there. None repeats the border.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: Xie et al., "Mitigating adversarial effects through randomization", ICLR 2018, who classify and resize and
    pad with zeros onto a larger grid; for segmentation, on the image's own grid, a reconstruction.

    Survey entry: P13 (adapted).
    """

    gradient = "exact"
    geometric = True
    pad_value: float | None = None

    def __init__(
        self,
        scale: Sequence[float] = (0.95, 1.05),
        shift: float | Sequence[float] = 5.0,
        pad_value: float | None = None,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        try:
            lowest, highest = scale
        except (TypeError, ValueError):
            raise ValueError(f"scale must be two numbers (lowest, highest), got {scale!r}.") from None
        self.scale = (check_positive("scale", lowest), check_positive("scale", highest))
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be two numbers (lowest, highest), got {scale!r}.")
        self.shift = tuple(check_positive("shift", value, allow_zero=True) for value in ensure_tuple(shift))
        if pad_value is not None:
            if isinstance(pad_value, bool) or not isinstance(pad_value, (int, float)) or not math.isfinite(pad_value):
                raise ValueError(f"pad_value must be a finite number of HU or None, got {pad_value!r}.")
            self.pad_value = float(pad_value)

    @property
    def in_hounsfield(self) -> bool:
        """Only if it pads."""
        return self.pad_value is not None

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Move each sample by its own draw."""
        moved = self._move(image, context, 0)
        return moved if self.pad_value is None else self._pad(moved, context)

    def pull_back(self, output: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Undo the move of the same draw.

        Args:
            output: (batch, any number of channels, spatial...).
            context: that of the purified image.
        """
        return self._move(output, context, 1)

    def _move(self, image: torch.Tensor, context: ImageContext, way: int) -> torch.Tensor:
        nearest = context.interpolation == "nearest"
        return torch.cat(
            [_resample(image[i : i + 1], drawn[way], nearest) for i, drawn in enumerate(self._draws(image, context))]
        )

    def _pad(self, moved: torch.Tensor, context: ImageContext) -> torch.Tensor:
        value = 0.0  # of a label: background
        if moved.is_floating_point() and context.interpolation != "nearest":
            hounsfield = torch.tensor(self.pad_value, dtype=torch.float64)
            value = float(hounsfield if self.intensity is None else self.intensity(hounsfield))
        samples = []
        for sample, (positions, _) in zip(moved, self._draws(moved, context), strict=True):
            inside = torch.ones((), dtype=torch.bool, device=moved.device)
            for where, size in zip(positions, sample.shape[1:], strict=True):
                within = torch.as_tensor((where >= 0) & (where <= size - 1), device=moved.device)
                inside = inside[..., None] & within
            samples.append(sample.masked_fill(~inside, value))
        return torch.stack(samples)

    def _draws(self, image: torch.Tensor, context: ImageContext) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
        """For each sample and axis the positions to read at: in the image, and in what is computed from it."""
        batch, rank = image.shape[0], image.ndim - 2
        # No shift is none in every spacing, also in an unknown one.
        none = torch.zeros(batch, rank, dtype=torch.float64)
        limits = context.in_voxels(self.shift, image, "shift") if any(self.shift) else none
        draws = []
        # CPU generators: the same move on every device. All numbers are drawn whatever the rank is.
        for generator, limit in zip(context.generators("cpu", batch), limits, strict=True):
            uniform = torch.rand(4, generator=generator, dtype=torch.float64)
            scale = self.scale[0] + (self.scale[1] - self.scale[0]) * float(uniform[0])
            shifts = ((2.0 * uniform[1 : 1 + rank] - 1.0) * limit).tolist()
            there, back = [], []
            for size, shift in zip(image.shape[2:], shifts, strict=True):
                offset = np.arange(size) - (size - 1) / 2.0
                there.append((offset - shift) / scale + (size - 1) / 2.0)
                back.append(offset * scale + shift + (size - 1) / 2.0)
            draws.append((there, back))
        return draws


def _resample(image: torch.Tensor, positions: list[np.ndarray], nearest: bool = False) -> torch.Tensor:
    axes = [AxisInterpolation(len(where), where) for where in positions]
    if image.is_floating_point() and not nearest:
        return resample_axes(image, axes)
    whole = not image.is_floating_point() or bool((image == image.round()).all())
    values = image.unique() if whole else None
    if values is None or len(values) > MOST_CLASSES:
        return _take_nearest(image, positions)
    if image.shape[1] > 1 and bool(((image == 0) | (image == 1)).all()) and bool((image.sum(dim=1) == 1).all()):
        # One-hot: channels on their own would leave voxels without a class where three meet.
        largest_channel = resample_axes(image.float(), axes).argmax(dim=1, keepdim=True)
        return torch.zeros_like(image).scatter_(1, largest_channel, 1)
    # Numbers of classes do not mix: each voxel takes the class with the largest share.
    result, largest = torch.empty_like(image), torch.full(image.shape, -1.0, device=image.device)
    for value in values:
        share = resample_axes((image == value).float(), axes)
        result = torch.where(share > largest, value, result)
        largest = torch.maximum(share, largest)
    return result


def _take_nearest(image: torch.Tensor, positions: list[np.ndarray]) -> torch.Tensor:
    for axis, where in enumerate(positions, start=2):
        index = np.rint(where).clip(0, image.shape[axis] - 1).astype(np.int64)
        image = image.index_select(axis, torch.as_tensor(index, device=image.device))
    return image


RandResizeShiftD = RandResizeShiftDict = RandResizeShiftd = dictionary_form(
    RandResizeShift,
    """
    >>> import numpy as np
    >>> from monai_adversarial.transforms import RandResizeShiftd
    >>> air = RandResizeShiftd("image", scale=(0.5, 0.5), shift=0.0, pad_value=-1000)
    >>> small = air({"image": np.full((1, 16, 16), 40.0)})["image"]
    >>> bool(small[0, 0, 0] == -1000), bool(small[0, 8, 8] == 40), float((small > 0).mean())
    (True, True, 0.25)
    """,
)
