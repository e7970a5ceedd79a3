# SPDX-License-Identifier: Apache-2.0
"""N4 bias-field correction."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple
from torch.nn import functional

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.bias_field_correction import BiasFieldCorrection, check_tissues
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.window import check_window
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = [
    "N4BiasFieldCorrection",
    "N4BiasFieldCorrectionD",
    "N4BiasFieldCorrectionDict",
    "N4BiasFieldCorrectiond",
]

FEWEST_BLOCKS = 8  # along an axis: smaller images are shrunk less
TISSUE_SHARE = 0.5  # weight of a block from which it counts as tissue
SPLINE_ORDER = 3
LEAST_SPREAD = 1e-5  # of the tissue's log intensities: ITK makes up a field where its histogram has no width
MOST_GAIN = 3.0  # a field in the tissue that spans this many times what the tissue itself spans is made up, too


class N4BiasFieldCorrection(Purifier):
    """N4 (Tustison et al. 2010): ITK's ``N4BiasFieldCorrectionImageFilter`` on the CPU, for 2D and 3D images.

    The image's tissue is averaged over blocks, ITK estimates the field there in a mask of soft tissue, and the field,
    which is smooth, is interpolated linearly to the voxels and divided out. N4 itself says nothing about a global
    factor (and drifts with more iterations): ``tissue`` fixes it. Tensors on a GPU are moved to the CPU for the
    estimate.

    Where there is nothing to estimate from, the field is constant. This is tissue that is uniform to 1e-5 (of its value
    above the window's low edge), or for which ITK returns values that are not finite or span more than 3 times what the
    tissue spans. With too little tissue the image stays as it is. Axes of one voxel are left out of the estimate.

    Attacked by surrogate: :class:`BiasFieldCorrection` of degree 3 with the same tissue.

    >>> import numpy as np
    >>> from monai_adversarial.transforms import N4BiasFieldCorrection
    >>> correct = N4BiasFieldCorrection(tissue=65.0, spacing=(1.0, 1.0))
    >>> flat = correct(np.full((1, 32, 32), 50.0, dtype=np.float32))  # nothing to estimate a field from
    >>> np.round(np.unique(flat), 2).tolist(), correct.gradient  # the tissue still gets its brightness
    ([65.0], 'surrogate')

    Args:
        control_spacing: distance of the B-spline's control points in mm at the first level; halved at each next one.
        iterations: the most iterations at each level; as many levels as numbers.
        shrink: voxels along each axis that make a block; small images are shrunk less.
        convergence: stop a level when the field changes by less than this (coefficient of variation).
        tissue: HU of the tissue's median after the correction, for ``domain="window"``. None, and always for
            ``domain="image"``: the mean of the field over the tissue is 0.
        window: (low, high) in HU for ``domain="window"``, see :class:`BiasFieldCorrection`.
        domain: ``"window"`` or ``"image"``, see :class:`BiasFieldCorrection`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Raises:
        ImportError: without the package itk.
        ValueError: for an argument out of range, images with fewer than 2 axes of more than one voxel, or images
            without spacing.

    Source: Tustison et al. 2010; ITK's implementation and defaults but for the iterations.
    """

    gradient = "surrogate"

    def __init__(
        self,
        control_spacing: float = 200.0,
        iterations: Sequence[int] = (20, 20),
        shrink: int = 4,
        convergence: float = 0.001,
        tissue: float | None = 65.0,
        window: Sequence[float] = (-160.0, 240.0),
        domain: str = "window",
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        if importlib.util.find_spec("itk") is None:
            raise ImportError("N4BiasFieldCorrection needs ITK: install the extra 'itk' (pip install itk).")
        self.control_spacing = check_positive("control_spacing", control_spacing)
        self.iterations = tuple(check_count("iterations", number) for number in ensure_tuple(iterations))
        if not self.iterations:
            raise ValueError("iterations must have a number for at least one level, got none.")
        self.shrink = check_count("shrink", shrink)
        self.convergence = check_positive("convergence", convergence)
        tissues = None if tissue is None else check_tissues("tissue", tissue, check_window(window)[0])
        if tissues is not None and len(tissues) > 1:
            raise ValueError(f"tissue must be one number of HU or None, got {tissue!r}.")
        self._smooth = BiasFieldCorrection(window=window, domain=domain, tissues=tissues, intensity=intensity)
        self.window, self.domain = self._smooth.window, self._smooth.domain
        self.tissue = None if self._smooth.tissues is None else self._smooth.tissues[0]

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The differentiable correction."""
        return self._smooth.purify(image, context)

    @property
    def in_hounsfield(self) -> bool:
        """Unless it takes the image's values as they are."""
        return self.domain != "image"

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Estimate the field of each sample and channel, and divide it out."""
        return self._smooth.divide(image, self.log_gain(image, context))

    def log_gain(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The estimated logarithm of the gain, in the shape of the image."""
        axes = [axis for axis, length in enumerate(image.shape[2:]) if length > 1]
        if len(axes) < 2:
            raise ValueError(
                "N4BiasFieldCorrection needs 2 or 3 spatial dimensions of more than one voxel, got spatial shape "
                f"{tuple(image.shape[2:])}."
            )
        shape = [image.shape[2 + axis] for axis in axes]
        distances = context.in_voxels(self.control_spacing, image, "control_spacing")[:, axes].tolist()
        shrink = [max(1, min(self.shrink, length // FEWEST_BLOCKS)) for length in shape]
        blocks = [math.ceil(length / size) for length, size in zip(shape, shrink, strict=True)]
        with torch.no_grad():
            level, weight = self._smooth.tissue_blocks(image.detach().reshape(-1, 1, *shape), shrink)
            field = torch.zeros_like(level).view(-1, *blocks)
            for index, (one, trust) in enumerate(zip(level, weight, strict=True)):
                distance = distances[index // image.shape[1]]
                points = [
                    max(1, round((length - 1) / step)) + SPLINE_ORDER
                    for length, step in zip(shape, distance, strict=True)
                ]
                mask = trust > TISSUE_SHARE
                if int(mask.sum()) >= math.prod(points):  # too little tissue says nothing about a field
                    field[index] = self._estimate(one.view(blocks), mask.view(blocks), points)
            full = [count * size for count, size in zip(blocks, shrink, strict=True)]
            mode = "bilinear" if len(shape) == 2 else "trilinear"
            field = functional.interpolate(field[:, None], size=full, mode=mode, align_corners=False)
            for axis, length in enumerate(shape):
                field = field.narrow(2 + axis, 0, length)
        return field.reshape(image.shape)

    def _estimate(self, level: torch.Tensor, mask: torch.Tensor, points: list[int]) -> torch.Tensor:
        """ITK's estimate from the log intensities of blocks, with the constant that N4 leaves open."""
        span = _span(level[mask])
        field = torch.zeros_like(level)
        if span > LEAST_SPREAD:
            found = self._by_itk(level, mask, points)
            if bool(torch.isfinite(found).all()) and _span(found[mask]) <= MOST_GAIN * span:
                field = found
        if self.tissue is None:
            return field - field[mask].mean()
        return field + (level - field)[mask].median() - math.log(self.tissue - self.window[0])

    def _by_itk(self, level: torch.Tensor, mask: torch.Tensor, points: list[int]) -> torch.Tensor:
        """What ITK returns."""
        import itk

        intensity = itk.image_from_array(level.exp().float().cpu().contiguous().numpy())
        tissue = itk.image_from_array(mask.to(torch.uint8).cpu().contiguous().numpy())
        real = type(intensity)
        correction = itk.N4BiasFieldCorrectionImageFilter[real, type(tissue), real].New(intensity, MaskImage=tissue)
        correction.SetNumberOfControlPoints(points[::-1])  # ITK counts axes from the last
        correction.SetNumberOfFittingLevels(len(self.iterations))
        correction.SetMaximumNumberOfIterations(list(self.iterations))
        correction.SetConvergenceThreshold(self.convergence)
        correction.SetNumberOfWorkUnits(1)  # sums in one order: the same result on every machine
        correction.Update()
        lattice = correction.GetLogBiasFieldControlPointLattice()
        return torch.from_numpy(itk.array_from_image(correction.ReconstructBiasField(lattice))).to(level)


def _span(values: torch.Tensor) -> float:
    return float(values.max() - values.min())


N4BiasFieldCorrectionD = N4BiasFieldCorrectionDict = N4BiasFieldCorrectiond = dictionary_form(
    N4BiasFieldCorrection,
    """
    >>> import numpy as np
    >>> from monai_adversarial.transforms import N4BiasFieldCorrectiond
    >>> correct = N4BiasFieldCorrectiond("t1", domain="image", spacing=(1.0, 1.0))
    >>> black = np.zeros((1, 16, 16), dtype=np.float32)
    >>> float(np.abs(correct({"t1": black})["t1"]).max())  # without tissue nothing changes
    0.0
    >>> correct({"t1": black[:, :1]})
    Traceback (most recent call last):
    ValueError: N4BiasFieldCorrection needs 2 or 3 spatial dimensions of more than one voxel, got spatial shape (1, 16).
    """,
)
