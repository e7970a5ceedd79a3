# SPDX-License-Identifier: Apache-2.0
"""Rotation, translation, scaling and shear about the center of the volume, in mm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation, limit_length
from monai_adversarial.attacks.perturbations.geometric import (
    NORMS,
    BoundGeometric,
    intensity_changes,
    match_size,
    per_axis,
    unexplained_change,
)
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.smooth_basis import evaluate_separable
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["AffineTransform", "BoundAffineTransform"]

Amount = float | Sequence[float]


class AffineTransform(Perturbation):
    """Affine motion about the center of the volume in mm, so that a rotation is rigid in anisotropic voxels too.

    The moved image shows at ``p`` what the clean one shows at ``rotation @ shear @ scale @ (p - center) + center +
    translation``.

    >>> from monai_adversarial.attacks import AffineTransform, Attack, RandomSearch
    >>> from monai_adversarial.data.example import example_case
    >>> turn = AffineTransform(max_rotation=15, max_translation=0, max_scale=0)
    >>> result = Attack(turn, search=RandomSearch(), steps=3)(*example_case(16))
    >>> found = result.budgets["rotation_0"]
    >>> found.units, found.limit, bool(found.values <= 15)
    ('degrees', 15.0, True)

    Args:
        max_rotation: largest angle about each axis in degrees, up to 180 (one angle in two dimensions, none in one).
        max_translation: largest translation in mm, as ``translation_norm`` measures it.
        max_scale: largest change of scale along each axis as a fraction, below 1: factors from ``1 - max_scale`` to ``1
            + max_scale``.
        max_shear: largest shear, mm per mm, of each axis by each later one.
        translation_norm: ``"per_axis"``: the translation along each axis is bounded, so that in three dimensions it can
            be 1.73 times as long; ``"euclidean"``: its length is, and ``max_translation`` is one number.

    Each amount is one number or one for each angle, axis or pair of axes; 0 leaves that kind of motion out. Rotation,
    scale and shear move voxels far from the center further than the translation: ``displacement_euclidean`` in what
    ``verify`` measures is the longest way of all.

    Raises:
        ValueError: for negative or too large values, or an unknown norm.
    """

    budget_attributes = ("amounts",)

    def __init__(
        self,
        max_rotation: Amount = 10.0,
        max_translation: Amount = 10.0,
        max_scale: Amount = 0.1,
        max_shear: Amount = 0.0,
        translation_norm: str = "per_axis",
    ) -> None:
        self.translation_norm = check_choice("translation_norm", translation_norm, NORMS)
        if translation_norm == "euclidean" and not isinstance(max_translation, (int, float)):
            raise ValueError(
                f"max_translation must be one number in mm with translation_norm='euclidean', got {max_translation!r}."
            )
        self.amounts = {
            "rotation": max_rotation,
            "translation": max_translation,
            "scale": max_scale,
            "shear": max_shear,
        }
        for kind, below in (("rotation", 180.0), ("translation", None), ("scale", 1.0), ("shear", None)):
            amount = self.amounts[kind]
            for one in [amount] if isinstance(amount, (int, float)) else amount:
                number = check_positive(f"max_{kind}", one, allow_zero=True)
                if below is not None and (number > below or number == below == 1.0):
                    raise ValueError(
                        f"max_{kind} must be {'below' if below == 1.0 else 'at most'} {below:g}, got {one!r}."
                    )

    def bind(self, scene: Scene) -> BoundAffineTransform:
        """Tie the motion to a batch.

        Raises:
            ValueError: for a missing spacing or a scene with a region, since an affine transform moves every voxel.
        """
        return BoundAffineTransform(self, scene)


class BoundAffineTransform(BoundGeometric):
    """Affine motion of one batch.

    The parameter is (batch, number) with the angles in degrees, the translation in mm, the scale as a fraction and the
    shears, in this order.

    >>> from monai_adversarial.attacks import AffineAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = AffineAttack(steps=1)(*example_case(16))
    >>> matrix, translation = result.bound.matrix(result.parameters)
    >>> result.parameters[0].shape, matrix.shape, translation.shape
    (torch.Size([1, 12]), torch.Size([1, 3, 3]), torch.Size([1, 3]))
    """

    def __init__(self, perturbation: AffineTransform, scene: Scene) -> None:
        super().__init__(scene)
        if scene.region is not None:
            raise ValueError(
                "region must be None for an AffineTransform, which moves every voxel: use ElasticDeformation."
            )
        image = scene.image
        dimensions = len(scene.spatial_shape)
        self.translation_norm = perturbation.translation_norm
        self._spacing = scene.require_spacing("max_translation").to(image)
        pairs = dimensions * (dimensions - 1) // 2
        self.counts = {"rotation": pairs, "translation": dimensions, "scale": dimensions, "shear": pairs}
        self.limits = {
            kind: () if count == 0 else per_axis(f"max_{kind}", perturbation.amounts[kind], count)
            for kind, count in self.counts.items()
        }
        limits = [limit for kind in self.counts for limit in self.limits[kind]]
        self.limit = torch.tensor([limits], dtype=image.dtype, device=image.device)
        # In voxels from the center the displacement is linear along each axis: a tensor product of 1 and the position.
        self.matrices = [
            torch.stack([torch.ones(n, dtype=torch.float64), torch.arange(n) - (n - 1) / 2], dim=1).to(image)
            for n in scene.spatial_shape
        ]

    @property
    def spacing(self) -> torch.Tensor:
        """Voxel spacing in mm, (batch, dimension)."""
        return self._spacing

    @property
    def radii(self) -> Parameters:
        """The budget of each number, (1, number)."""
        return (self.limit,)

    def zeros(self) -> Parameters:
        """No motion."""
        return (self.limit.new_zeros(self.scene.batch, self.limit.shape[1]),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform in the budget."""
        (draw,) = self.zeros()
        for sample, generator in zip(draw, generators, strict=True):
            sample.uniform_(-1.0, 1.0, generator=generator)
        return self.project((draw * self.limit,))

    @torch.no_grad()
    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """A random motion with the same largest displacement, as far as the budget allows."""

        def size(candidate: Parameters) -> torch.Tensor:
            return self.corner_displacement(candidate)[:, None]

        return match_size(self.random(generators), size((parameters[0].detach(),)), size, self.project)

    def project(self, parameters: Parameters) -> Parameters:
        """Clamp each number, or the length of the translation."""
        clamped = torch.maximum(torch.minimum(parameters[0], self.limit), -self.limit)
        if self.translation_norm == "per_axis":
            return (clamped,)
        parts = self._parts((clamped,))
        given = self._parts(parameters)["translation"]
        parts["translation"] = limit_length(given, self.limits["translation"][0])
        return (torch.cat(list(parts.values()), dim=1),)

    def _parts(self, parameters: Parameters) -> dict[str, torch.Tensor]:
        parts = parameters[0].split(list(self.counts.values()), dim=1)
        return dict(zip(self.counts, parts, strict=True))

    def matrix(self, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the moved image looks, in mm from the center: matrix (batch, n, n) and translation (batch, n)."""
        parts = self._parts(parameters)
        dimensions = len(self.scene.spatial_shape)
        identity = torch.eye(dimensions, dtype=self.limit.dtype, device=self.limit.device)
        matrix = identity.expand(self.scene.batch, -1, -1)
        angles = torch.deg2rad(parts["rotation"])
        # With three axes the angle number i turns about axis i, which means within the plane of the other two.
        planes = [(1, 2), (2, 0), (0, 1)] if dimensions == 3 else list(itertools.combinations(range(dimensions), 2))
        pairs = list(itertools.combinations(range(dimensions), 2))
        with torch.autocast(device_type=matrix.device.type, enabled=False):
            for angle, (a, b) in zip(angles.unbind(1), planes, strict=True):
                across, within = torch.zeros_like(identity), torch.zeros_like(identity)
                across[b, a], across[a, b] = 1.0, -1.0
                within[a, a] = within[b, b] = 1.0
                angle = angle[:, None, None]
                matrix = matrix @ (identity + across * angle.sin() + within * (angle.cos() - 1))
            shear = identity.expand(self.scene.batch, -1, -1)
            for amount, (a, b) in zip(parts["shear"].unbind(1), pairs, strict=True):
                unit = torch.zeros_like(identity)
                unit[a, b] = 1.0
                shear = shear + unit * amount[:, None, None]
            matrix = matrix @ shear * (1 + parts["scale"])[:, None, :]
        return matrix, parts["translation"]

    def _linear(self, parameters: Parameters, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Displacement in mm as a linear function of the position in mm from the center."""
        matrix, translation = self.matrix(parameters)
        if inverse:
            matrix = torch.linalg.inv(matrix)
            translation = -(matrix * translation[:, None, :]).sum(dim=2)
        return matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device), translation

    def displacement(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in voxels, (batch, dimension, spatial...)."""
        matrix, translation = self._linear(parameters, inverse)
        dimensions = matrix.shape[1]
        matrix = matrix * self.spacing[:, None, :] / self.spacing[:, :, None]
        terms = {(0,) * dimensions: translation / self.spacing}
        for axis in range(dimensions):
            terms[tuple(int(i == axis) for i in range(dimensions))] = matrix[:, :, axis]
        nothing = torch.zeros_like(translation)
        powers = itertools.product((0, 1), repeat=dimensions)
        coefficients = torch.stack([terms.get(power, nothing) for power in powers], dim=2)
        return evaluate_separable(coefficients.view(-1, dimensions, *[2] * dimensions), self.matrices)

    def corner_displacement(self, parameters: Parameters) -> torch.Tensor:
        """Length of the largest displacement in mm, (batch,); a corner of the volume has it."""
        matrix, translation = self._linear(parameters, inverse=False)
        half = (torch.tensor(self.scene.spatial_shape).to(matrix) - 1) / 2 * self.spacing
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=matrix.shape[1]))).to(matrix)
        corners = signs[None] * half[:, None, :]
        moved = (matrix[:, None] * corners[:, :, None, :]).sum(dim=3) + translation[:, None, :]
        return moved.norm(dim=2).amax(dim=1)

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Each number of the motion against its budget, the largest displacement, and whether the motion explains the
        finished image."""
        units = {"rotation": "degrees", "translation": "mm", "scale": "fraction", "shear": "ratio"}
        found = {}
        for kind, amounts in self._parts(parameters).items():
            if kind == "translation" and self.translation_norm == "euclidean":
                length = amounts.detach().norm(dim=1)
                found["translation_euclidean"] = Measurement(length, units[kind], self.limits[kind][0])
                continue
            name = "translation_axis" if kind == "translation" else kind
            for number, limit in enumerate(self.limits[kind]):
                found[f"{name}_{number}"] = Measurement(amounts[:, number].detach().abs(), units[kind], limit)
        with torch.no_grad():
            found["displacement_euclidean"] = Measurement(self.corner_displacement(parameters), "mm")
            determinant = torch.linalg.det(self.matrix(parameters)[0])
            found["jacobian_minimum"] = Measurement(determinant, "ratio")
            expected = self.finished(image, parameters)
        found["unexplained_change"] = unexplained_change(self.scene, image, adversarial, expected, rounding)
        return {**found, **intensity_changes(self.scene, image, adversarial)}
