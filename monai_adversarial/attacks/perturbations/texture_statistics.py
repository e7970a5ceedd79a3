# SPDX-License-Identifier: Apache-2.0
"""Other texture statistics: mean and spread of the bands of a fixed filter bank, tissue by tissue."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise, BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import RELATIVE_TOLERANCE, Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.geometric import shared_spacing, unexplained_change
from monai_adversarial.attacks.perturbations.rounding import Limits
from monai_adversarial.attacks.perturbations.windowed import BoundWindowed
from monai_adversarial.purifiers.gaussian import gaussian_smooth
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import UNITS, Scene, spacing_of
from monai_adversarial.utils.shown_window import check_shown_window, clipped
from monai_adversarial.utils.slabs import count_true
from monai_adversarial.utils.smooth_basis import bspline_matrix, evaluate_separable
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["BoundTextureStatistics", "TextureStatistics"]


# Share of the window below which a spread is the rounding of filters, not texture.
LEAST_SPREAD = 1e-5


class TextureStatistics(Perturbation):
    """Multiplies the spread of each band of texture by a smooth gain and shifts its mean, as adaptive instance
    normalization does with features.

    A band is the difference of two Gaussians of the window's content: what is finer than the first scale, what lies
    between the first and the second, and so on. What is coarser than the last scale stays as it is, so that organs keep
    shape and place. In a neighborhood of ``control_spacing`` a band ``b`` with mean ``m`` and spread ``s`` becomes
    ``gain * (b - m) + m + shift * s``. The shifts of all bands add up to one smooth field, whose parameter is their
    common share of the spreads. To change one organ only, give the attack its mask as ``region=``.

    >>> from monai_adversarial.attacks import Attack, TextureStatistics
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(TextureStatistics(0.3, 0.1, cap=10), "dice", steps=3)(model, image, label, region=label == 2)
    >>> found = result.budgets["largest_gain"]
    >>> bool(found.values <= 30.01), found.units, result.budgets["noise_linf"].limit
    (True, 'percent', 10.0)

    Args:
        max_gain: largest gain of a band's spread minus one, for example 1 for twice the spread; spreads shrink by the
            same factor at most. 0 leaves them alone.
        max_shift: largest shift of a band's mean, as a share of its spread; 0 leaves means alone.
        cap: largest change of a voxel, in ``units``.
        units: of the cap: ``"HU"``, ``"network"``, ``"fraction"`` of the intensity window, or ``"percentile"`` (share
            of the range of each image, for MRI); see :class:`~monai_adversarial.attacks.AdditiveNoise`.
        scales: standard deviations in mm of the Gaussians between the bands, ascending.
        control_spacing: distance in mm of the controls of gains and shifts (cubic B-splines), and so the size of the
            neighborhoods whose statistics change.
        window: (low, high) in HU whose content has texture; None for that of the intensity map, and each image's own
            range where none is known. Voxels outside keep their bits.
        style: an image, (1 or batch, channel, spatial...) of any size, in the units of the attacked one, or None.
            Where it is given, mean and spread of each band move toward those of its voxels in the window, and no
            further than they. Its spacing is that of its affine, or else of the attacked image. Crop it to the tissue
            whose texture is wanted.

    Raises:
        TypeError: for a style that is no array.
        ValueError: for a number out of range, scales that do not ascend, unknown units, and a window that is not low <
            high. When it is bound, for a style of other channels or axes, or without a voxel in the window.

    Survey entry: X12 (reconstruction).

    Source: Lee et al., "Adversarial attacks on medical segmentation model via transformation of feature statistics",
    Applied Sciences 14(6) 2576, 2024; abstract, outline and public code were read. The code multiplies mean and
    deviation of each feature of a 2D style network (VGG-19, trained on photographs) by 0.3, for every target network
    alike. Ours is a reconstruction: the features are bands of a fixed filter bank in mm, gains and shifts are local and
    found by the target's gradient, and both they and the change of a voxel have a bound.
    """

    budget_attributes = ("max_gain", "max_shift", "cap")

    def __init__(
        self,
        max_gain: float = 1.0,
        max_shift: float = 0.25,
        cap: float = 20.0,
        units: str = "HU",
        scales: Sequence[float] = (2.0, 4.0, 8.0),
        control_spacing: float = 16.0,
        window: Sequence[float] | None = None,
        style: Any = None,
    ) -> None:
        self.max_gain = check_positive("max_gain", max_gain, allow_zero=True)
        self.max_shift = check_positive("max_shift", max_shift, allow_zero=True)
        self.cap = check_positive("cap", cap, allow_zero=True)
        self.units = check_choice("units", units, UNITS)
        self.scales = tuple(check_positive("scales", scale) for scale in scales)
        if not self.scales or any(b <= a for a, b in zip(self.scales, self.scales[1:], strict=False)):
            raise ValueError(f"scales must be one or more lengths in mm that ascend, got {self.scales}.")
        self.control_spacing = check_positive("control_spacing", control_spacing)
        self.window = check_shown_window(window)
        self.style = None if style is None else as_tensor("style", style)

    def bind(self, scene: Scene) -> BoundTextureStatistics:
        """Tie the statistics to a batch.

        Raises:
            ValueError: for an unknown window or spacing, units that the scene cannot convert, and a style that does not
            fit the image.
        """
        return BoundTextureStatistics(self, scene)


class BoundTextureStatistics(BoundWindowed):
    """Statistics of one batch.

    Parameters: logarithms of the gains, (batch, channel, band, controls along each axis), and the shift as a share of
    the spreads, (batch, channel, controls along each axis). B-splines are a weighted mean of their controls, so that no
    voxel's gain exceeds the largest of these.

    >>> from monai_adversarial.attacks import TextureAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = TextureAttack(0.3, 0.1, scales=(4, 12), steps=2)(*example_case(16))
    >>> gains, shift = result.parameters
    >>> gains.shape[:3], shift.shape[:2], bool(gains.exp().max() < 1.3001)
    (torch.Size([1, 1, 2]), torch.Size([1, 1]), True)

    Attributes:
        details: bands without their local mean, (batch, channel, spatial...) each.
        means: of each band at the controls, (batch, channel, band, controls along each axis).
        spreads: standard deviations there.
    """

    def __init__(self, perturbation: TextureStatistics, scene: Scene) -> None:
        super().__init__(scene, perturbation.window)
        self.kind = perturbation
        self.widest = math.log1p(perturbation.max_gain)
        spacing = shared_spacing(scene, "scales and control_spacing of TextureStatistics")
        self.sigmas = [[scale / along for along in spacing] for scale in perturbation.scales]
        self.matrices = [
            bspline_matrix(length, along, perturbation.control_spacing).to(scene.image)
            for length, along in zip(scene.spatial_shape, spacing, strict=True)
        ]
        self.noise: BoundAdditiveNoise = AdditiveNoise(perturbation.cap, units=perturbation.units).bind(scene)
        self.style = None if perturbation.style is None else self._style(perturbation.style, spacing)
        self._look()

    def rebind(self, perturbation: Perturbation, scene: Scene) -> BoundTextureStatistics:
        """The same budget around another image."""
        made = copy.copy(self)
        made.scene = scene
        made.noise = self.noise.rebind(perturbation, scene)
        with torch.no_grad():
            made._look()
        return made

    def _look(self) -> None:
        """The statistics of the clean image, and how far each may go."""
        self.details, self.means, self.spreads = self._statistics(self.scene.image)
        width = torch.as_tensor(self.high - self.low).to(self.spreads)
        least = LEAST_SPREAD * (width.unsqueeze(2) if width.ndim else width)
        has_texture = (self.spreads > least).to(self.spreads)
        gains, shift = self.widest * has_texture, self.kind.max_shift * has_texture.amax(dim=2)
        self.lowest, self.highest = (-gains, -shift), (gains, shift)
        if self.style is not None:
            means, spreads = self.style
            tiny = torch.finfo(spreads.dtype).tiny
            # Toward the style, from a gain of one and a shift of zero.
            wanted = (spreads.clamp_min(tiny) / self.spreads.clamp_min(tiny)).log().clamp(-self.widest, self.widest)
            share = (means - self.means).sum(dim=2) / self.spreads.sum(dim=2).clamp_min(tiny)
            ends = (wanted * has_texture, share.clamp(-self.kind.max_shift, self.kind.max_shift) * (shift > 0))
            self.lowest = (ends[0].clamp_max(0), ends[1].clamp_max(0))
            self.highest = (ends[0].clamp_min(0), ends[1].clamp_min(0))

    def _bands(self, image: torch.Tensor, sigmas: Sequence[Sequence[float]]) -> list[torch.Tensor]:
        """Differences of Gaussians of the window's content, (batch, channel, spatial...) each."""
        content = fine = clipped(image, self.low, self.high)
        bands = []
        for sigma in sigmas:
            coarse = gaussian_smooth(content, sigma)
            bands.append(fine - coarse)
            fine = coarse
        return bands

    def _statistics(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Bands without their local mean, and means and spreads at the controls, of the voxels that may change."""
        weight = (~self.untouched(image)).to(image)
        transposed = [matrix.T for matrix in self.matrices]
        total = evaluate_separable(weight, transposed)
        # A control that hardly reaches a voxel has no statistics.
        some = total > 1e-3
        total = torch.where(some, total, 1.0)
        details, means, spreads = [], [], []
        for band in self._bands(image, self.sigmas):
            mean = torch.where(some, evaluate_separable(band * weight, transposed) / total, 0.0)
            detail = (band - evaluate_separable(mean, self.matrices)) * weight
            variance = torch.where(some, evaluate_separable(detail.square(), transposed) / total, 0.0)
            flat = variance <= torch.finfo(variance.dtype).tiny  # where the root has no gradient
            details.append(detail)
            means.append(mean)
            spreads.append(torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt()))
        return details, torch.stack(means, dim=2), torch.stack(spreads, dim=2)

    def _style(self, style: torch.Tensor, spacing: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of each band of the style, (1 or batch, channel, band, 1...)."""
        image = self.scene.image
        if style.ndim != image.ndim or style.shape[1] != image.shape[1] or style.shape[0] not in (1, image.shape[0]):
            raise ValueError(
                f"style must be (1 or {image.shape[0]}, {image.shape[1]}, spatial...) with {image.ndim - 2} axes, got "
                f"shape {tuple(style.shape)}."
            )
        known = spacing_of(style, required=False)
        own = spacing if known is None or not bool(torch.isfinite(known).all()) else known[0].tolist()
        style = as_plain(style).to(image)
        inside = ((style > self.low) & (style < self.high)).to(image).flatten(2)
        count = inside.sum(dim=2)
        if not bool((count > 0).all()):
            raise ValueError("style must have voxels in the window in every channel, got none in one of them.")
        means, spreads = [], []
        for band in self._bands(style, [[scale / along for along in own] for scale in self.kind.scales]):
            values = band.flatten(2).expand(*inside.shape)
            mean = (values * inside).sum(dim=2) / count
            means.append(mean)
            spreads.append((((values - mean[..., None]).square() * inside).sum(dim=2) / count).sqrt())
        shape = (-1, image.shape[1], len(means), *[1] * (image.ndim - 2))
        return torch.stack(means, dim=2).view(shape), torch.stack(spreads, dim=2).view(shape)

    @property
    def radii(self) -> Parameters:
        """The larger of the two ways that each parameter can go, 0 where there is no texture."""
        return tuple(torch.maximum(-low, high) for low, high in zip(self.lowest, self.highest, strict=True))

    def zeros(self) -> Parameters:
        """Gains of one and no shift."""
        return torch.zeros_like(self.spreads), torch.zeros_like(self.spreads[:, :, 0])

    def project(self, parameters: Parameters) -> Parameters:
        """Each parameter into its interval."""
        ends = zip(parameters, self.lowest, self.highest, strict=True)
        return tuple(torch.maximum(torch.minimum(given, high), low) for given, low, high in ends)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform between the ends."""
        draws = self.zeros()
        for draw in draws:
            for sample, generator in zip(draw, generators, strict=True):
                sample.uniform_(generator=generator)
        ends = zip(draws, self.lowest, self.highest, strict=True)
        return self.project(tuple(low + draw * (high - low) for draw, low, high in ends))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """One of the two ends for each parameter, as near to it as the farthest of ``parameters``."""
        controls = []
        signs = self.zeros()
        for sign in signs:
            for sample, generator in zip(sign, generators, strict=True):
                sample.uniform_(-1.0, 1.0, generator=generator)
        ends = zip(signs, parameters, self.lowest, self.highest, self.radii, strict=True)
        for sign, given, low, high, radius in ends:
            share = torch.where(radius > 0, given.detach().abs() / radius, 0.0).flatten(1).amax(dim=1)
            controls.append(torch.where(sign < 0, low, high) * share.view(-1, *[1] * (given.ndim - 1)))
        return self.project(tuple(controls))

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What other statistics add to each voxel before the cap, (batch, channel, spatial...)."""
        gains, shift = parameters
        if image is self.scene.image and not image.requires_grad:
            details, spreads = self.details, self.spreads
        else:
            details, _, spreads = self._statistics(image)
        change = evaluate_separable(shift * spreads.sum(dim=2), self.matrices)
        for number, detail in enumerate(details):
            change = change + evaluate_separable(gains[:, :, number], self.matrices).expm1() * detail
        return change

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image with other statistics, within the cap and the window."""
        (change,) = self.noise.project((self.change(image, parameters),))
        return self.inside_window(image, image + change)

    def limits(self, clean: torch.Tensor) -> Limits:
        """The window and the cap."""
        low, high = super().limits(clean)
        # A header holds a slope of a tenth as 0.1000000015; see AdditiveNoise.
        radius = self.noise.radius * (1 + torch.finfo(torch.float32).eps)
        return torch.maximum(low, clean - radius), torch.minimum(high, clean + radius)  # type: ignore[arg-type]

    def frozen_fraction(self, gradients: Parameters) -> torch.Tensor:
        """Share of zero gradients among the parameters that have a texture to change."""
        pairs = list(zip(gradients, self.radii, strict=True))
        zeros = sum(count_true((gradient == 0) & (radius > 0)) for gradient, radius in pairs)
        return torch.as_tensor(zeros) / sum(count_true(radius > 0) for _, radius in pairs).clamp_min(1)  # type: ignore[union-attr]

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The change of a voxel against its cap; the largest gain and shift of the parameters, which must explain the
        image; and, without a limit since bands overlap, how far the finished image's spread of a band over all voxels
        is from the clean one's."""
        with torch.no_grad():
            expected = self.finished(image, parameters)
            gains, shift = (one.detach().double().flatten(1).abs().amax(dim=1) for one in parameters)
            found = self.noise.measure(image, adversarial, (adversarial.to(image) - image,), rounding)
            found |= {
                "largest_gain": Measurement(100 * gains.expm1(), "percent", 100 * self.kind.max_gain),
                "largest_shift": Measurement(shift, "of the spread", self.kind.max_shift),
                "spread_of_a_band": Measurement(self._change_of_spread(image, adversarial), "percent"),
                "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, 2 * rounding),
            }
            if self.style is not None:
                beyond = [
                    (given.detach() - allowed).double().flatten(1).abs().amax(dim=1)
                    for given, allowed in zip(parameters, self.project(parameters), strict=True)
                ]
                found["beyond_the_style"] = Measurement(
                    torch.stack(beyond).amax(dim=0), "of the spread", 0.0, tolerance=RELATIVE_TOLERANCE
                )
        return found

    def _change_of_spread(self, image: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
        """Largest change of a band's spread over the voxels that may change, in percent, (batch,)."""
        weight = (~self.untouched(image)).expand_as(image).double().flatten(1)
        count = weight.sum(dim=1).clamp_min(1)
        changes = []
        both = (self._bands(one.to(image), self.sigmas) for one in (image, adversarial))
        for bands in zip(*both, strict=True):
            before, after = (
                (band.double().flatten(1).square() * weight).sum(dim=1).div(count).sqrt() for band in bands
            )
            changes.append(torch.where(before > 0, after / before.clamp_min(1e-300) - 1, 0.0).abs())
        return 100 * torch.stack(changes).amax(dim=0)
