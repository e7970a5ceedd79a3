# SPDX-License-Identifier: Apache-2.0
"""Any random transform of MONAI or TorchIO as a perturbation, whose parameters are a draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from monai_adversarial.attacks.perturbations.base import (
    REPEAT_TOLERANCE,
    BoundPerturbation,
    Measurement,
    Parameters,
    Perturbation,
    per_sample,
)
from monai_adversarial.attacks.perturbations.transform_run import TransformRun, describe_transform
from monai_adversarial.utils.scene import PERCENTILES, Scene, percentiles
from monai_adversarial.utils.slabs import largest
from monai_adversarial.utils.validation import check_choice

__all__ = ["BoundRandomTransform", "RandomTransform"]

UNITS = ("HU", "network", "percentile")
# Whole numbers that float32 holds exactly; 0 is the identity.
DRAWS = 2**24 - 1


class RandomTransform(Perturbation):
    """What one draw of a random transform makes of the image.

    The parameter is the number of the draw, the seed of the transform: 0 is the clean image, and the same number gives
    the same draw of the same case in any batch. There is no gradient, so it is searched by values alone
    (``RandomSearch``), and there is no budget: a transform's own settings say how far a draw may go. What is measured
    on the finished image is the largest and the root-mean-square change.

    Supported are the random transforms of MONAI, in array or dictionary form, single or composed (``Compose``,
    ``OneOf``, ``SomeOf``, ``RandomOrder``), and those of TorchIO; all of them get one sample after the other, with its
    affine. Transforms that change the shape, such as crops, or that make several images are refused.

    Transforms that move anatomy (MONAI's ``spatial``, TorchIO's ``SpatialTransform``) move the label by the same draw,
    by nearest neighbor: the array form is run again on the label with the same seed and without its transforms of
    intensities; the dictionary form finds image and label under ``"image"`` and ``"label"``; TorchIO gets a ``Subject``
    of both. What MONAI and TorchIO do not tell (``RandLambda``, transforms of your own) is said by ``moves_anatomy``.

    >>> from monai.transforms import RandGibbsNoise
    >>> from monai_adversarial.attacks import Attack, HardDice, RandomSearch, RandomTransform
    >>> from monai_adversarial.data.example import example_case
    >>> gibbs = RandomTransform(RandGibbsNoise(alpha=(0.6, 0.8)), units="HU")
    >>> result = Attack(gibbs, HardDice(), search=RandomSearch(), steps=3)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.backwards
    (True, 0)

    Args:
        transform: what is drawn.
        units: in which the transform sees voxels. ``"HU"``: raw values; from images in network values the map is
            inverted and applied again. ``"network"``: values as the network sees them. ``"percentile"``: 0 and 1 are
            the 1st and 99th percentile of each sample and channel, for MRI of any scale. None: HU where the map is
            known or images come in HU, else network values.
        moves_anatomy: whether labels move with the image, for transforms that do not tell.
        keep_prob: keep the transforms' own ``prob``. By default each is applied in every draw, also in a composition:
            a draw that does nothing looks like robustness.

    Voxels of an image in network values that the intensity window has clipped, or that the pipeline holds, stay as they
    are where intensities change: the HU behind them are unknown. Give the model images in HU to change them as well.

    Raises:
        TypeError, ValueError: for a transform that is not supported, in one sentence.
    """

    def __init__(
        self, transform: Any, units: str | None = None, moves_anatomy: bool | None = None, keep_prob: bool = False
    ) -> None:
        self.units = None if units is None else check_choice("units", units, UNITS)
        self.moves_anatomy, self.keep_prob = moves_anatomy, bool(keep_prob)
        self.transform = TransformRun(transform, moves_anatomy, self.keep_prob).transform

    def bind(self, scene: Scene) -> BoundRandomTransform:
        """Tie the transform to a batch.

        Raises:
            ValueError: for ``units`` that need a map which is not known, and for a region with a transform that moves
                anatomy.
        """
        return BoundRandomTransform(self, scene)

    def __repr__(self) -> str:
        given = {"units": self.units, "moves_anatomy": self.moves_anatomy, "keep_prob": self.keep_prob or None}
        parts = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"{type(self).__name__}({', '.join([describe_transform(self.transform), *parts])})"


class BoundRandomTransform(BoundPerturbation):
    """A random transform on one batch; the parameter is the number of each sample's draw, (batch, 1).

    Running a transform waits for the device, once per sample: it happens on the host.

    >>> from monai.transforms import RandFlip
    >>> from monai_adversarial.attacks import WorstOf
    >>> from monai_adversarial.data.example import example_case
    >>> result = WorstOf(RandFlip(spatial_axis=0), draws=2)(*example_case(16))
    >>> result.bound.geometric, bool((result.label == result.clean_label.flip(2)).all())
    (True, True)
    """

    def __init__(self, perturbation: RandomTransform, scene: Scene) -> None:
        super().__init__(scene)
        self.run = TransformRun(perturbation.transform, perturbation.moves_anatomy, keep_prob=True)
        self.geometric = self.run.geometric
        if self.geometric and scene.region is not None:
            raise ValueError("region must be None for a transform that moves anatomy.")
        self.units = perturbation.units or ("HU" if scene.image_units == "HU" or scene.intensity else "network")
        if self.units not in ("percentile", scene.image_units) and scene.intensity is None:
            scene.in_image_units(1.0, self.units)  # says that the map is missing
        self.affines = [_affine(scene, sample) for sample in range(scene.batch)]

    @property
    def radii(self) -> Parameters:
        """The highest number of a draw."""
        return (self.scene.image.new_full((1, 1), DRAWS),)

    def zeros(self) -> Parameters:
        """The clean image."""
        return (self.scene.image.new_zeros(self.scene.batch, 1),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """New draws."""
        (draws,) = self.zeros()
        for sample, generator in zip(draws, generators, strict=True):
            sample.random_(1, DRAWS + 1, generator=generator)
        return (draws,)

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """Another draw: the control of the worst of many is any of them."""
        return self.random(generators)

    def project(self, parameters: Parameters) -> Parameters:
        """The nearest number of a draw."""
        return (parameters[0].round().clamp(0, DRAWS),)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image of each sample's draw.

        Raises:
            TypeError: where a gradient is wanted.
            ValueError: for a transform that changes the shape or makes NaN.
        """
        if torch.is_grad_enabled() and parameters[0].requires_grad:
            raise TypeError("a RandomTransform has no gradient: use a search by values alone, such as RandomSearch().")
        seen, back = self._into_units(image.detach())
        rows = [
            one if draw == 0 else self.run.image(one, draw, affine).to(image)
            for one, draw, affine in zip(seen, self._draws(parameters), self.affines, strict=True)
        ]
        changed = back(torch.stack(rows))
        if not bool(torch.isfinite(changed).all()):
            raise ValueError(
                f"transform must make finite values, but {describe_transform(self.run.transform)} made NaN or infinity."
            )
        return self._where_allowed(self._in_range(changed, image), image, parameters)

    def _draws(self, parameters: Parameters) -> list[int]:
        return [int(number) for number in self.project(parameters)[0].flatten().tolist()]

    def _into_units(self, image: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The image in the transform's units, and the way back."""
        scene, intensity = self.scene, self.scene.intensity
        if self.units == "percentile":
            low, high = (_like(edge, image) for edge in percentiles(image, PERCENTILES))
            span = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
            return (image - low) / span, lambda changed: changed * span + low
        if self.units == scene.image_units or intensity is None:
            return image, lambda changed: changed
        if self.units == "HU":
            return intensity.inverse(image), intensity
        return intensity(image), intensity.inverse

    def _in_range(self, changed: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Inside the valid range of values; anatomy that moves takes its own values along."""
        if not self.geometric:
            return self.into_range(changed, image)
        for edge, sign in zip(self.valid_range(image), (1.0, -1.0), strict=True):
            if edge is not None:
                limit = per_sample((sign * edge).flatten(1).amin(dim=1), image)
                changed = sign * torch.maximum(sign * changed, limit)
        return changed

    def _where_allowed(self, changed: torch.Tensor, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Clean voxels outside the region, and where the raw value is not known."""
        keep = per_sample(self.project(parameters)[0][:, 0] == 0, image).expand_as(image)
        scene, intensity = self.scene, self.scene.intensity
        if not self.geometric:
            if scene.region is not None:
                keep = keep | ~scene.region
            if intensity is not None and scene.image_units == "network":
                keep = keep | ~intensity.reachable(image)
            elif intensity is not None and self.units == "network":
                keep = keep | ~intensity.reachable(intensity(image))
        return torch.where(keep, image, changed)

    def move_label(self, label: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move a label or mask (batch, channel, spatial...) by the same draws, nearest neighbor."""
        if not self.geometric:
            return label
        rows = zip(label, self.scene.image, self._draws(parameters), self.affines, strict=True)
        return torch.stack(
            [one if draw == 0 else self.run.label(one, image, draw, affine) for one, image, draw, affine in rows]
        )

    def move_soft_label(self, one_hot: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """As :meth:`move_label`: nothing is interpolated."""
        return self.move_label(one_hot, parameters)

    def move_class_map(self, label: torch.Tensor, classes: int, parameters: Parameters) -> torch.Tensor:
        """One-hot of the moved class map."""
        moved = self.move_label(label[:, None], parameters)
        numbers = torch.arange(classes, device=label.device).view(1, -1, *[1] * (label.ndim - 1))
        return (moved == numbers).to(self.scene.image.dtype)

    def pull_back(self, volume: torch.Tensor, parameters: Parameters, mode: str = "linear") -> torch.Tensor:
        """The identity for transforms of intensities.

        Raises:
            NotImplementedError: for a transform that moves anatomy.
        """
        if self.geometric:
            raise NotImplementedError(
                f"{describe_transform(self.run.transform)} cannot be undone here: compare with the moved label."
            )
        return volume

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Largest and root-mean-square change, in HU where they are known and in image units otherwise, and whether the
        same draw makes the finished image again."""
        scene = self.scene
        change = adversarial.double() - image.double()
        in_hounsfield = scene.in_hounsfield(change)
        units = scene.image_units if in_hounsfield is None else "HU"
        flat = (change if in_hounsfield is None else in_hounsfield).flatten(1)
        with torch.no_grad():
            expected = self.finished(image, parameters)
        difference = largest(lambda a, e: (a.double() - e.double()).abs(), adversarial, expected)
        room = rounding + REPEAT_TOLERANCE * float(image.max() - image.min())
        return {
            "largest_change": Measurement(flat.abs().amax(dim=1), units),
            "rms_change": Measurement(flat.square().mean(dim=1).sqrt(), units),
            "unexplained_change": Measurement(difference, scene.image_units, 0.0, tolerance=room),
        }


def _like(edge: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return edge.view(*image.shape[:2], *[1] * (image.ndim - 2))


def _affine(scene: Scene, sample: int) -> np.ndarray:
    """(4, 4) affine of a sample in mm: the image's own, else its spacing, else voxels of 1 mm."""
    if scene.affine is not None:
        return scene.affine[sample].numpy()
    affine = np.eye(4)
    if scene.spacing is not None:
        spacing = scene.spacing[sample].numpy()[:3]
        lengths = np.where(np.isfinite(spacing), spacing, 1.0)
        affine[range(len(lengths)), range(len(lengths))] = lengths
    return affine
