# SPDX-License-Identifier: Apache-2.0
"""Differentiable correction of a smooth multiplicative shading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple
from torch.nn import functional

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.window import check_window, window_in_image
from monai_adversarial.utils.smooth_basis import (
    evaluate_separable,
    legendre_exponents,
    legendre_matrix,
)
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = [
    "BiasFieldCorrection",
    "BiasFieldCorrectionD",
    "BiasFieldCorrectionDict",
    "BiasFieldCorrectiond",
]

DOMAINS = ("window", "image")
TISSUE_RANGE = (-45.0, 190.0)  # HU: fluid to enhanced organs, with room for a gain of 30 % either way
EDGE = 8.0  # HU over which a voxel's weight rises at the ends of that range
PURITY = 4  # power of the share of soft tissue in a block: blocks at borders hardly count
FEW_BLOCKS = 30.0  # a field rests on more blocks than this, or it stays close to none
FIRST_SPREAD, LAST_SPREAD = 0.12, 0.04  # of a class in log intensity: wide at first, to catch a large field
OUTLIERS = 0.2  # density of what is no class, per unit of log intensity
CLASS_SPREAD = 0.03  # how far a class mean may lie from where it is expected, in log intensity
CLASS_EVIDENCE = 0.02  # a class with less than this share of the tissue keeps its expected mean
IMAGE_CLASSES = 3


class BiasFieldCorrection(Purifier):
    """Estimate a smooth gain and divide it out: the answer to a bias-field attack (``BiasFieldAttack``).

    The logarithm of the gain is a Legendre polynomial, as in the attack. It is fitted by expectation maximization
    (Wells et al. 1996): every block of soft tissue belongs to one of a few classes or to none, and the polynomial
    explains by regularized weighted least squares how the blocks of a class differ. A fixed number of iterations on a
    coarse grid, each of them smooth, in plain torch.

    Differentiable: an attacker goes through it exactly. A field of the same degree is then taken out whatever it is;
    an aware attacker uses one that the polynomial cannot follow, such as B-splines, and keeps most of its effect.

    Organs that are brighter than their surroundings bend the estimate a little, on a clean scan too (2 to 5 % on the
    phantom). The corrected scan of a shaded and that of a clean patient are alike, but not the clean scan itself.

    >>> import torch
    >>> from monai_adversarial.transforms import BiasFieldCorrection
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case()
    >>> shaded = (image[0] + 160) * torch.linspace(0.85, 1.15, 32) - 160
    >>> correct = BiasFieldCorrection(degree=3, window=(-160, 240))
    >>> shading, rest = (shaded - image[0]).abs().mean(), (correct(shaded) - correct(image[0])).abs().mean()
    >>> bool(shading > 15), bool(rest < 1)  # HU
    (True, True)

    Args:
        degree: largest total degree of the Legendre polynomials, at most 6; 0 corrects one global factor.
        window: (low, high) in HU for ``domain="window"``: what is multiplied is the value above ``low``, voxels outside
            the window do not change. It has to be the network's window, as in the attack.
        domain: ``"window"`` for CT, or ``"image"`` for images in arbitrary units (MRI, background 0): the image's own
            values are multiplied, and ``tissues`` counts as None.
        tissues: expected HU of the soft tissue's main classes (one number or several), for ``domain="window"``. One
            class is the most robust: what is far from it counts for nothing. The global brightness is set by it, so
            that a scan whose tissue is elsewhere (35 HU without contrast agent, for example) is rescaled unless its own
            value is given. None: the classes are found in the image, and the mean of the field over the tissue is 0.
        iterations: of expectation maximization.
        smoothness: weight of the squared coefficients against that of the tissue.
        threshold: root-mean-square size of the log gain at which half of the estimate is applied, smaller fields
            hardly at all; 0 applies every estimate. It spares clean scans and leaves an aware attacker as much.
        grid: most points of the coarse grid along each axis.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Raises:
        ValueError: for an argument out of range.

    Source: Wells et al. 1996 (adaptive segmentation of MRI); this form for CT is a reconstruction.
    """

    gradient = "exact"

    def __init__(
        self,
        degree: int = 3,
        window: Sequence[float] = (-160.0, 240.0),
        domain: str = "window",
        tissues: float | Sequence[float] | None = (65.0,),
        iterations: int = 6,
        smoothness: float = 0.002,
        threshold: float = 0.0,
        grid: int = 36,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        self.degree = check_count("degree", degree, minimum=0)
        if self.degree > 6:
            raise ValueError(f"degree must be at most 6, got {degree}: the estimate would follow the organs.")
        self.window = check_window(window)
        self.domain = check_choice("domain", domain, DOMAINS)
        if domain == "image":
            tissues = None
        self.tissues = None if tissues is None else check_tissues("tissues", tissues, self.window[0])
        if self.tissues is None and self.degree == 0:
            raise ValueError("degree must be at least 1 without tissues: a constant field without its mean is nothing.")
        self.iterations = check_count("iterations", iterations)
        self.smoothness = check_positive("smoothness", smoothness)
        self.threshold = check_positive("threshold", threshold, allow_zero=True)
        self.grid = check_count("grid", grid, minimum=2)

    @property
    def in_hounsfield(self) -> bool:
        """Unless it takes the image's values as they are."""
        return self.domain != "image"

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Divide the estimated gain out."""
        return self.divide(image, self.log_gain(image))

    def divide(self, image: torch.Tensor, log_gain: torch.Tensor) -> torch.Tensor:
        """Divide a gain out in the chosen domain."""
        gain = (-log_gain).exp()
        if self.domain == "image":
            return image * gain
        low, high = window_in_image(self.window, self.intensity)
        value = (image - low).clamp(0, high - low)
        return image + torch.where(image < high, (value * gain).clamp_max(high - low) - value, 0)

    def log_gain(self, image: torch.Tensor) -> torch.Tensor:
        """The estimated logarithm of the gain, in the shape of the image."""
        shape = tuple(image.shape[2:])
        shrink = [math.ceil(length / self.grid) for length in shape]
        volumes = image.reshape(-1, 1, *shape)
        level, weight = self.tissue_blocks(volumes, shrink)
        matrices = [legendre_matrix(length, self.degree).to(image) for length in shape]
        exponents = legendre_exponents(self.degree, len(shape))
        basis = _block_basis(matrices, shrink, exponents)
        coefficients = self._fit(level, weight, basis)
        if self.tissues is None:
            constant = torch.eye(len(exponents), dtype=basis.dtype, device=basis.device)[0]
            coefficients = coefficients - _mean(coefficients @ basis.T, weight)[:, None] * constant
        if self.threshold > 0:
            size = _mean((coefficients @ basis.T) ** 2, weight)
            coefficients = coefficients * (size / (size + self.threshold**2))[:, None]
        functions = self.degree + 1
        places = torch.tensor(
            [sum(e * functions**power for power, e in enumerate(reversed(one))) for one in exponents],
            device=image.device,
        )
        full = coefficients.new_zeros(len(volumes), functions ** len(shape)).index_copy(1, places, coefficients)
        return evaluate_separable(full.view(-1, *[functions] * len(shape)), matrices).view(image.shape)

    def tissue_blocks(self, volumes: torch.Tensor, shrink: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the tissue over blocks of voxels.

        Args:
            volumes: (volumes, 1, spatial...).
            shrink: voxels of a block along each axis; the last blocks may hold fewer.

        Returns:
            mean log intensity of the tissue in each block and the block's weight from 0 to 1, both (volumes, blocks).
        """
        if self.domain == "window":
            first, last = (edge - self.window[0] for edge in TISSUE_RANGE)
            value = (volumes - window_in_image(self.window, self.intensity)[0]) / self.hounsfield(1.0)
            weight = torch.sigmoid((value - first) / EDGE) * torch.sigmoid((last - value) / EDGE)
            floor = value.new_tensor(EDGE)
        else:
            # The mean that bright voxels dominate: a level of the tissue, however much background there is.
            value = volumes
            positive = value.clamp_min(0).flatten(1)
            tissue = (positive**2).sum(dim=1) / positive.sum(dim=1).clamp_min(torch.finfo(value.dtype).tiny)
            tissue = tissue.clamp_min(1e-6).view(-1, *[1] * (value.ndim - 1))
            weight = torch.sigmoid((value / tissue - 0.25) / 0.03)
            floor = 0.05 * tissue
        logarithm = torch.maximum(value, floor).log()
        pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[volumes.ndim - 3]
        both = pool(
            torch.cat((weight, weight * logarithm), dim=1), list(shrink), ceil_mode=True, count_include_pad=False
        )
        share, total = both.flatten(2).unbind(dim=1)
        return total / share.clamp_min(1e-6), share**PURITY

    def _classes(self, level: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Expected log intensity of the classes, (volumes, classes)."""
        if self.tissues is not None:
            means = [math.log(tissue - self.window[0]) for tissue in self.tissues]
            return level.new_tensor(means).expand(len(level), -1)
        mean = _mean(level, weight)
        spread = (_mean((level - mean[:, None]) ** 2, weight) + 1e-6).sqrt()
        steps = torch.linspace(-1.2, 1.2, IMAGE_CLASSES, dtype=level.dtype, device=level.device)
        return mean[:, None] + spread[:, None] * steps

    def _fit(self, level: torch.Tensor, weight: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """Coefficients of the log gain, (volumes, functions)."""
        expected = means = self._classes(level, weight)
        shares = torch.full_like(means, 1 / means.shape[1])
        amount = weight.sum(dim=1) + FEW_BLOCKS
        penalty = self.smoothness * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
        coefficients = level.new_zeros(len(level), basis.shape[1])
        for iteration in range(self.iterations):
            progress = min(1.0, 2 * iteration / self.iterations)
            spread = FIRST_SPREAD * (LAST_SPREAD / FIRST_SPREAD) ** progress
            distance = (level - coefficients @ basis.T)[..., None] - means[:, None]
            density = shares[:, None].log() - 0.5 * (distance / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
            outlier = torch.full_like(density[..., :1], math.log(OUTLIERS))
            belongs = torch.cat((density, outlier), dim=-1).softmax(dim=-1)[..., :-1] * weight[..., None]
            trust = belongs.sum(dim=-1)
            wanted = trust * level - (belongs * means[:, None]).sum(dim=-1)
            matrix = (basis.T * trust[:, None]) @ basis / amount[:, None, None] + penalty
            coefficients = torch.linalg.solve(matrix, wanted @ basis / amount[:, None])
            members = belongs.sum(dim=1)
            part = members / amount[:, None]
            residual = level - coefficients @ basis.T
            found = (belongs * residual[..., None]).sum(dim=1) / members.clamp_min(1e-6)
            evidence = part * CLASS_SPREAD**2
            means = expected + evidence / (evidence + CLASS_EVIDENCE * spread**2) * (found - expected)
            shares = (part + 0.05) / (part + 0.05).sum(dim=1, keepdim=True)
        return coefficients


def check_tissues(name: str, tissues: float | Sequence[float], low: float) -> tuple[float, ...]:
    """Return one or more finite HU above ``low`` as floats, else raise ValueError."""
    try:
        values = () if isinstance(tissues, str) else tuple(float(value) for value in ensure_tuple(tissues))
    except (TypeError, ValueError):
        values = ()
    if not values or not all(low < value < math.inf for value in values):
        raise ValueError(f"{name} must be HU above the window's low edge {low:g}, or None, got {tissues!r}.")
    return values


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (values * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-6)


def _block_basis(matrices: list[torch.Tensor], shrink: list[int], exponents: list[tuple[int, ...]]) -> torch.Tensor:
    """Mean of every polynomial over every block, (blocks, functions)."""
    means = [
        functional.avg_pool1d(matrix.T[None], size, ceil_mode=True, count_include_pad=False)[0]
        for matrix, size in zip(matrices, shrink, strict=True)
    ]
    columns = []
    for exponent in exponents:
        column = means[0].new_ones(())
        for mean, power in zip(means, exponent, strict=True):
            column = column[..., None] * mean[power]
        columns.append(column.flatten())
    return torch.stack(columns, dim=1)


BiasFieldCorrectionD = BiasFieldCorrectionDict = BiasFieldCorrectiond = dictionary_form(
    BiasFieldCorrection,
    """
    >>> import torch
    >>> from monai_adversarial.transforms import BiasFieldCorrectiond
    >>> ramp = 100 * torch.linspace(0.8, 1.2, 32).expand(1, 32, 32)  # one tissue under a coil's shading
    >>> item = BiasFieldCorrectiond("t1", degree=2, domain="image")({"t1": ramp})
    >>> bool(item["t1"].std() < 0.1 * ramp.std())
    True
    """,
)
