# SPDX-License-Identifier: Apache-2.0
"""What a perturbation knows about the images it changes: voxels, spacing, units, region, seeds."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.plain import as_plain, standard_layout
from monai_adversarial.utils.stored_grid import StoredGrid
from monai_adversarial.utils.validation import check_choice, holds_booleans

__all__ = [
    "IMAGE_UNITS",
    "UNITS",
    "Scene",
    "affine_of",
    "budget_of",
    "case_seeds",
    "check_spacing",
    "percentiles",
    "spacing_of",
]

UNITS = ("HU", "network", "fraction", "percentile")
IMAGE_UNITS = ("HU", "network")
#: percentiles between which ``units="percentile"`` takes the range of an image
PERCENTILES = (1.0, 99.0)


def check_spacing(spacing: Any) -> torch.Tensor:
    """``spacing`` as a tensor, float64 on the CPU, if it holds numbers above zero, whatever image it is for.

    Args:
        spacing: one number, one per axis, or one row per sample, in mm.

    Raises:
        ValueError: for something else.
    """
    try:
        if holds_booleans(spacing):
            raise TypeError
        table = torch.as_tensor(spacing, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"spacing must be numbers in mm, got {spacing!r}.") from None
    _check_lengths(table)
    return table


def _check_lengths(table: torch.Tensor) -> None:
    if not bool((torch.isfinite(table) & (table > 0)).all()):
        raise ValueError(f"spacing must be finite and > 0 mm along every axis, got {table.tolist()}.")


def spacing_of(image: torch.Tensor, spacing: Any = None, required: bool = True) -> torch.Tensor | None:
    """Voxel spacing in mm, (batch, spatial dimensions), float64 on the CPU.

    Args:
        image: (batch, channel, spatial...); a MetaTensor gives its affine.
        spacing: overrides the affine: one number, one per axis, or one row per sample, in mm.
        required: raise where the affine gives no length; otherwise NaN stands there, and who needs mm raises
            (``Scene.require_spacing``).

    Returns:
        None where nothing is known (a plain tensor and no ``spacing``).

    Raises:
        ValueError: for a spacing that is no numbers, does not fit the image or is not positive.
    """
    batch, dimensions = image.shape[0], image.ndim - 2
    if spacing is not None:
        table = check_spacing(spacing)
        if table.ndim == 0:
            table = table.expand(dimensions)
        if table.shape[-1] != dimensions or table.ndim > 2 or (table.ndim == 2 and table.shape[0] not in (1, batch)):
            raise ValueError(
                f"spacing must give {dimensions} values in mm (one row per sample), got shape {tuple(table.shape)}."
            )
        return table.expand(batch, dimensions).clone()
    affine = getattr(image, "affine", None)
    if affine is None:
        return None
    affine = torch.as_tensor(affine, dtype=torch.float64).detach().cpu()
    table = _lengths(affine.expand(batch, *affine.shape[-2:]), dimensions, getattr(image, "meta", {}))
    if required:
        _check_affine(table, "what is in mm needs it")
    return table


def _lengths(affine: torch.Tensor, dimensions: int, meta: Any) -> torch.Tensor:
    """Length of a voxel along each axis of the image, from its affine; NaN where the affine does not say it."""
    lengths = affine[:, :-1, :-1].norm(dim=1)
    axes = lengths.shape[1]
    if axes < dimensions:  # an axis was added
        return lengths.new_full((lengths.shape[0], dimensions), torch.nan)
    if axes > dimensions and not bool((lengths == lengths[:, :1]).all()):
        # An axis was cut away without a word in the affine, unless the file itself has no more axes than the image.
        file_shape = torch.as_tensor(meta.get("spatial_shape", ()))
        if file_shape.ndim == 0 or file_shape.shape[-1] != dimensions:
            return lengths.new_full((lengths.shape[0], dimensions), torch.nan)
    lengths = lengths[:, :dimensions]
    return torch.where(torch.isfinite(lengths) & (lengths > 0), lengths, torch.nan)


def affine_of(image: torch.Tensor, spacing: Any = None) -> torch.Tensor | None:
    """Affine of each sample in mm, (batch, 4, 4), float64 on the CPU; None where the image has none that gives every
    axis a length, and where ``spacing`` overrides it."""
    affine = getattr(image, "affine", None)
    if affine is None or spacing is not None:
        return None
    affine = torch.as_tensor(affine, dtype=torch.float64).detach().cpu()
    lengths = affine[..., :-1, :-1].norm(dim=-2)
    if affine.shape[-2:] != (4, 4) or not bool(torch.isfinite(affine).all() & (lengths > 0).all()):
        return None
    return affine.expand(image.shape[0], 4, 4).clone()


def _check_affine(table: torch.Tensor, why: str) -> None:
    if not bool(torch.isfinite(table).all()):
        shown = [["unknown" if length != length else round(length, 6) for length in row] for row in table.tolist()]
        raise ValueError(
            f"spacing must be finite and > 0 mm along every axis ({why}), but the image's affine gives {shown}: its "
            "columns are zero, not finite, or of other axes than the image has; pass spacing=(mm along each axis)."
        )


def budget_of(image: torch.Tensor, budget: torch.Tensor | None) -> torch.Tensor | None:
    """Factors of the budget, (batch,), on the image's device and in its dtype; None for 1 everywhere.

    Raises:
        TypeError: for something else than a tensor of real numbers.
        ValueError: for another shape, and for factors that are negative or not finite.
    """
    if budget is None:
        return None
    if not isinstance(budget, torch.Tensor) or budget.is_complex() or budget.dtype == torch.bool:
        what = f"a tensor of {budget.dtype}" if isinstance(budget, torch.Tensor) else type(budget).__name__
        raise TypeError(f"budget must be a tensor of one factor per sample, got {what}.")
    if tuple(budget.shape) != (image.shape[0],):
        raise ValueError(
            f"budget must hold one factor for each of the {image.shape[0]} samples, got shape {tuple(budget.shape)}."
        )
    factors = as_plain(budget).detach().to(image)
    if not bool((torch.isfinite(factors) & (factors >= 0)).all()):
        raise ValueError(f"budget must be finite and >= 0 for every sample, got {factors.tolist()}.")
    return factors


def percentiles(image: torch.Tensor, at: Sequence[float]) -> list[torch.Tensor]:
    """Percentiles of each sample and channel, (batch, channel) each, as NumPy's linear definition, for any size.

    Args:
        image: (batch, channel, spatial...).
        at: percentiles, 0 to 100.
    """
    values = image.flatten(2)
    count = values.shape[2]
    found = []
    for percentile in at:
        place = percentile / 100 * (count - 1)
        below = int(place)
        low = values.kthvalue(below + 1, dim=2).values
        high = values.kthvalue(min(below + 2, count), dim=2).values
        found.append(low + (high - low) * (place - below))
    return found


def case_seeds(image: torch.Tensor, seed: int) -> tuple[int, ...]:
    """One seed per sample from ``seed`` and the voxels, so that batch size and order do not change a result."""
    values = image.detach().to(device="cpu", dtype=torch.float32).contiguous()
    return tuple(zlib.crc32(sample.numpy().data, seed & 0xFFFFFFFF) for sample in values)


@dataclass(frozen=True)
class Scene:
    """The clean batch as a perturbation sees it.

    Args:
        image: (batch, channel, spatial...), plain tensor, float32 or float64.
        seeds: one integer per sample.
        spacing: (batch, spatial dimensions) in mm on the CPU, NaN where the affine does not say it, or None.
        region: boolean (batch, 1, spatial...), voxels that may change; None for all.
        intensity: the map from HU to network values, if known.
        image_units: ``"HU"`` when ``image`` holds HU, ``"network"`` when the map was already applied.
        budget: factor by which each sample's budget is multiplied, (batch,), as ``budget_of`` gives it; None for 1.
            Perturbations that know only one budget for the batch refuse it when they are bound.
        intensity_doubt: a sentence that says why ``intensity`` is not known, for errors that need it.
        stored: the values that finished images are stored in, in image units; None for any floating point value.
        affine: (batch, 4, 4) in mm on the CPU, of images that have one and whose spacing was not given otherwise; None
            elsewhere.
    """

    image: torch.Tensor
    seeds: tuple[int, ...]
    spacing: torch.Tensor | None = None
    region: torch.Tensor | None = None
    intensity: IntensityMap | None = None
    image_units: str = "network"
    budget: torch.Tensor | None = None
    intensity_doubt: str | None = None
    stored: StoredGrid | None = None
    affine: torch.Tensor | None = None

    def __post_init__(self) -> None:
        # What is drawn, summed and computed must not depend on how the voxels lie in memory.
        object.__setattr__(self, "image", standard_layout(self.image))
        if self.region is not None:
            object.__setattr__(self, "region", standard_layout(self.region))

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.image.shape[0])

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.image.shape[2:])

    def select(self, indices: Sequence[int]) -> Scene:
        """The same scene for some of its samples."""
        where = torch.as_tensor(list(indices), device=self.image.device)
        return replace(
            self,
            image=self.image.index_select(0, where),
            seeds=tuple(self.seeds[i] for i in indices),
            spacing=None if self.spacing is None else self.spacing[list(indices)],
            region=None if self.region is None else self.region.index_select(0, where),
            intensity=None if self.intensity is None else self.intensity.select(indices),
            budget=None if self.budget is None else self.budget.index_select(0, where),
            affine=None if self.affine is None else self.affine[list(indices)],
        )

    def generators(self, stream: int = 0) -> list[torch.Generator]:
        """One generator per sample on the image's device; ``stream`` separates restarts and controls."""
        made = []
        for seed in self.seeds:
            generator = torch.Generator(device=self.image.device)
            generator.manual_seed((seed * 1_000_003 + stream * 7_919) & 0x7FFF_FFFF_FFFF_FFFF)
            made.append(generator)
        return made

    def require_spacing(self, what: str) -> torch.Tensor:
        """The spacing in mm, or ValueError that says who needs it."""
        if self.spacing is None:
            raise ValueError(
                f"spacing is missing: {what} is in mm, so pass a MetaTensor with an affine or spacing=(mm along "
                "each axis)."
            )
        _check_affine(self.spacing, f"{what} is in mm")
        if self.affine is not None and torch.equal(
            self.affine, torch.eye(4, dtype=self.affine.dtype).expand_as(self.affine)
        ):
            warnings.warn(
                f"{what} is in mm, but the image's affine is the identity, which MONAI gives to an image that came "
                "without one: a voxel counts as 1 mm along each axis; pass spacing=(mm along each axis), or keep the "
                "affine of the file.",
                stacklevel=2,
            )
        return self.spacing

    @cached_property
    def percentile_range(self) -> torch.Tensor:
        """From the 1st to the 99th percentile of each sample and channel, (batch, channel, 1...), in image units."""
        image = self.image
        if image.ndim < 3 or image.numel() == 0:
            raise ValueError(
                "units='percentile' is a share of each image's own range (1st to 99th percentile): it has no size "
                "without an image."
            )
        low, high = percentiles(image, PERCENTILES)
        return (high - low).view(*image.shape[:2], *([1] * (image.ndim - 2)))

    def in_image_units(self, amount: float, units: str) -> float | torch.Tensor:
        """Convert an intensity difference given in ``units`` to the units of ``image``.

        Args:
            amount: the difference.
            units: ``"HU"``, ``"network"`` (as the network sees it), ``"fraction"`` (of the intensity window) or
                ``"percentile"`` (of the range from the 1st to the 99th percentile of each sample and channel of the
                image, which needs no map: for MRI and RGB).

        Returns:
            One number, or (batch or 1, channel or 1, 1...) in the image's dtype where samples or channels differ.

        Raises:
            ValueError: for unknown units, or where the intensity map is needed and missing.
        """
        check_choice("units", units, UNITS)
        if units == "percentile":
            return amount * self.percentile_range
        value: float | torch.Tensor = amount
        if units == "fraction":
            if self.intensity is None or self.intensity.window is None:
                raise ValueError(
                    "units='fraction' is a fraction of the intensity window: pass intensity= with a clipped window"
                    f"{self._doubt}."
                )
            low, high = self.intensity.window
            value, units = amount * (high - low), "HU"
        if units != self.image_units:
            if self.intensity is None:
                raise ValueError(
                    f"units={units!r} for an image in {self.image_units!r} values needs the map between them: pass "
                    f"intensity={self._doubt}."
                )
            value = value * self.intensity.size if units == "HU" else value / self.intensity.size
        return IntensityMap.like(value, self.image)

    @property
    def _doubt(self) -> str:
        return f" ({self.intensity_doubt.rstrip('.')})" if self.intensity_doubt else ""

    def in_hounsfield(self, amount: torch.Tensor) -> torch.Tensor | None:
        """Convert intensity differences in image units to HU; None when the relation is not known.

        Args:
            amount: differences; (batch, channel, spatial...) where samples or channels have their own map.
        """
        if self.image_units == "HU":
            return amount
        return None if self.intensity is None else amount / IntensityMap.like(self.intensity.size, amount)

    @property
    def one_unit(self) -> bool:
        """Whether an amount in image units is the same number of HU for all samples and channels."""
        return self.image_units == "HU" or self.intensity is None or not isinstance(self.intensity.size, torch.Tensor)
