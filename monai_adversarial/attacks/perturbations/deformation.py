# SPDX-License-Identifier: Apache-2.0
"""Smooth elastic deformation bounded in mm, as a plain displacement or as a diffeomorphism."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from monai_adversarial.attacks.perturbations.base import (
    Measurement,
    Parameters,
    Perturbation,
    limit_length,
    per_sample,
)
from monai_adversarial.attacks.perturbations.geometric import (
    NORMS,
    BoundGeometric,
    match_size,
    per_axis,
    shared_spacing,
)
from monai_adversarial.attacks.perturbations.warp import inverted, warp_linear
from monai_adversarial.utils.jacobian import jacobian_determinant, lowest_corner_determinant
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.smooth_basis import bspline_matrix, evaluate_separable, linear_matrix
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["BoundElasticDeformation", "ElasticDeformation"]

# Integration nodes per distance of controls: a cubic B-spline is nearly linear over an eighth of it.
NODES_PER_CONTROL = 8
# Share of the allowed logarithm of the Jacobian determinant that is used; the rest is room for the integration's error.
CERTIFICATE_MARGIN = 0.9
# Corrections of a velocity whose measured Jacobian determinant breaks the bound, by these factors at least and at most.
CORRECTIONS, SMALLEST_CORRECTION, LARGEST_CORRECTION = 3, 0.98, 0.5


class ElasticDeformation(Perturbation):
    """Smooth deformation from a cubic B-spline grid of controls in mm.

    Diffeomorphic: the controls are a stationary velocity, integrated to a deformation by scaling and squaring (Arsigny
    et al. 2006; as an attack Chen et al. 2022, AdvMorph). No voxel moves further than ``max_displacement``, because
    B-spline, integration and interpolation only ever average. No volume shrinks below ``min_jacobian``, neither around
    a voxel nor at a corner of a cell between voxels. The logarithm of the Jacobian determinant is the integral of the
    velocity's divergence along the path. The velocity is scaled so that the divergence, with or without any of its
    axes (at the border the field stops to vary along one), stays above ``log(min_jacobian)``. Where the determinant
    that the voxels show is still lower, because they sample a strong shear too coarsely, the velocity is scaled
    further. The bound is our reconstruction.

    Free: the controls are the displacement itself, which may fold.

    >>> from monai_adversarial.attacks import Attack, ElasticDeformation
    >>> from monai_adversarial.data.example import example_case
    >>> free = ElasticDeformation(6.0, control_spacing=48, diffeomorphic=False, norm="per_axis")
    >>> result = Attack(free, steps=2)(*example_case(16))
    >>> float(result.budgets["displacement_axis_0"].values) <= 6
    True

    Args:
        max_displacement: largest displacement in mm; 0 is the identity. With ``norm="per_axis"`` one number or one for
            each axis of the image.
        norm: ``"euclidean"``: the length of the displacement of every voxel is at most ``max_displacement``;
            ``"per_axis"``: its part along each axis is, so that in three dimensions a voxel can move 1.73 times as far.
        control_spacing: distance of the controls in mm.
        diffeomorphic: integrate a velocity instead of a plain displacement.
        min_jacobian: lower bound of the Jacobian determinant of a diffeomorphic deformation, between 0 and 1.
        integration_steps: number of squarings; by default enough for steps below half a voxel.

    Raises:
        ValueError: for negative or non-finite values, ``min_jacobian`` outside (0, 1), an unknown norm, or one number
            per axis with a norm that is not per axis.
    """

    budget_attributes = ("max_displacement",)

    def __init__(
        self,
        max_displacement: float | Sequence[float] = 5.0,
        control_spacing: float = 32.0,
        diffeomorphic: bool = True,
        min_jacobian: float = 0.1,
        integration_steps: int | None = None,
        norm: str = "euclidean",
    ) -> None:
        self.norm = check_choice("norm", norm, NORMS)
        if self.norm != "per_axis" and not isinstance(max_displacement, (int, float)):
            raise ValueError(
                f"max_displacement must be one number in mm with norm={self.norm!r}, got {max_displacement!r}: one for "
                "each axis goes with norm='per_axis'."
            )
        count = 1 if isinstance(max_displacement, (int, float)) else len(max_displacement)
        per_axis("max_displacement", max_displacement, count)
        self.max_displacement = max_displacement
        self.control_spacing = check_positive("control_spacing", control_spacing)
        self.diffeomorphic = bool(diffeomorphic)
        if not 0.0 < min_jacobian < 1.0:
            raise ValueError(f"min_jacobian must be between 0 and 1, got {min_jacobian!r}.")
        self.min_jacobian = float(min_jacobian)
        self.integration_steps = (
            None if integration_steps is None else check_count("integration_steps", integration_steps)
        )

    def bind(self, scene: Scene) -> BoundElasticDeformation:
        """Tie the deformation to a batch.

        Raises:
            ValueError: for a missing spacing, samples of different spacing, or a region too small for one control.
        """
        return BoundElasticDeformation(self, scene)


class BoundElasticDeformation(BoundGeometric):
    """Elastic deformation of one batch; the parameter holds the controls in mm, (batch, dimension, controls along each
    axis).

    With a region, only controls that move nothing outside of it are used.

    >>> from monai_adversarial.attacks import ElasticAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = ElasticAttack(6.0, steps=1)(model, image, label)
    >>> mm = result.bound.displacement_mm(result.parameters)
    >>> mm.shape, bool(mm.norm(dim=1).max() <= 6), result.bound.pull_back(result.image, result.parameters).shape
    (torch.Size([1, 3, 16, 16, 16]), True, torch.Size([1, 1, 16, 16, 16]))
    """

    def __init__(self, perturbation: ElasticDeformation, scene: Scene) -> None:
        super().__init__(scene)
        image, shape = scene.image, scene.spatial_shape
        dimensions = len(shape)
        control_spacing = perturbation.control_spacing
        self.norm = perturbation.norm
        self.diffeomorphic, self.min_jacobian = perturbation.diffeomorphic, perturbation.min_jacobian
        spacing = shared_spacing(scene, "max_displacement")
        self._spacing = torch.tensor([spacing], dtype=image.dtype, device=image.device)
        self.limits = per_axis("max_displacement", perturbation.max_displacement, dimensions)
        self.limit = torch.tensor(self.limits, dtype=image.dtype, device=image.device).view(1, -1, *[1] * dimensions)

        # Nodes of the integration grid span the volume from its first voxel to its last.
        extents = [(length - 1) * s for length, s in zip(shape, spacing, strict=True)]
        nodes = list(shape)
        if self.diffeomorphic:
            wanted = [math.ceil(extent * NODES_PER_CONTROL / control_spacing) + 1 for extent in extents]
            nodes = [min(length, n) for length, n in zip(shape, wanted, strict=True)]

        def matrices(derivative: bool = False) -> list[torch.Tensor]:
            made = zip(shape, spacing, nodes, strict=True)
            return [bspline_matrix(n, s, control_spacing, points, derivative) for n, s, points in made]

        def per_dimension(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=image.dtype, device=image.device).view(1, -1, *[1] * dimensions)

        values = matrices()
        upsampling = [linear_matrix(length, n) for length, n in zip(shape, nodes, strict=True)]
        self.parameter_shape = (dimensions, *(m.shape[1] for m in values))
        self.matrices = [m.to(image) for m in values]
        self.derivatives = [m.to(image) for m in matrices(derivative=True)]
        self.upsampling = None if nodes == list(shape) else [m.to(image) for m in upsampling]
        node_spacing = [extent / max(n - 1, 1) for extent, n in zip(extents, nodes, strict=True)]
        # An axis of one voxel has no extent: nothing moves along it.
        self.nodes_per_mm = per_dimension([1 / d if d > 0 else 0.0 for d in node_spacing])
        self.voxels_per_node = per_dimension(
            [(length - 1) / max(n - 1, 1) for length, n in zip(shape, nodes, strict=True)]
        )

        self.lowest_divergence = CERTIFICATE_MARGIN * math.log(self.min_jacobian)
        # Neighboring controls differ by 2 limits at most, which may already be too little to reach the bound.
        steepest = sum(2 * limit / control_spacing for limit in self.limits)
        self.certified = not self.diffeomorphic or steepest <= -self.lowest_divergence
        #: largest control at which neighbors cannot differ by too much
        self.sure_limit = -self.lowest_divergence * control_spacing / (2 * dimensions)
        # Euler steps below a quarter of a voxel and an eighth of the shrinking: (1 - x / n)^n is then within the margin
        # of exp(-x).
        longest = max(limit / s for limit, s in zip(self.limits, spacing, strict=True))
        pieces = max(16.0, 4 * longest, 8 * min(steepest, -self.lowest_divergence))
        self.integration_steps = perturbation.integration_steps or math.ceil(math.log2(pieces))
        self.allowed = None if scene.region is None else self._inside(scene.region, upsampling, values)

    def _inside(self, region: torch.Tensor, upsampling: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        """Controls, (batch, 1, controls along each axis), that reach no voxel outside the region."""
        reach = [((u @ v.ne(0).double()) > 0).to(self.scene.image) for u, v in zip(upsampling, values, strict=True)]
        outside = evaluate_separable((~region).to(self.scene.image), [r.T for r in reach])
        allowed = outside < 0.5
        empty = [i for i, some in enumerate(allowed.flatten(1).any(dim=1).tolist()) if not some]
        if empty:
            raise ValueError(
                f"region of sample {empty[0]} is too small for control_spacing: a control reaches two spacings to each "
                "side; use a smaller control_spacing or a larger region."
            )
        return allowed.to(self.scene.image.dtype)

    @property
    def spacing(self) -> torch.Tensor:
        """Voxel spacing in mm, (1, dimension)."""
        return self._spacing

    @property
    def radii(self) -> Parameters:
        """The largest displacement in mm: its length, or along each axis."""
        return (self.limit[:, :1] if self.norm == "euclidean" else self.limit,)

    @property
    def norms(self) -> tuple[str, ...]:
        """Steps along the gradient of each control where its length is bounded, sign steps otherwise."""
        return ("vector" if self.norm == "euclidean" else "linf",)

    def zeros(self) -> Parameters:
        """No displacement."""
        return (self.scene.image.new_zeros(self.scene.batch, *self.parameter_shape),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform controls."""
        (draw,) = self.zeros()
        for sample, generator in zip(draw, generators, strict=True):
            sample.uniform_(-1.0, 1.0, generator=generator)
        return self.project((draw * self.limit,))

    @torch.no_grad()
    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """Random controls with the same largest displacement (its length, or along each axis), as far as the budget
        allows."""

        def size(candidate: Parameters) -> torch.Tensor:
            if self.norm == "euclidean":
                return per_sample(self.longest_displacement(candidate), candidate[0])
            return self.largest_displacement(candidate).view(-1, len(self.limits), *[1] * len(self.limits))

        return match_size(self.random(generators), size((parameters[0].detach(),)), size, self.project)

    def project(self, parameters: Parameters) -> Parameters:
        """Bound each control, then scale a velocity whose divergence would break the bound of the Jacobian
        determinant."""
        if self.norm == "euclidean":
            controls = limit_length(parameters[0], self.limits[0])
        else:
            controls = torch.maximum(torch.minimum(parameters[0], self.limit), -self.limit)
        if self.allowed is not None:
            controls = controls * self.allowed
        if not self.certified:
            shrinking = self.shrinking(controls).flatten(1).amin(dim=1)
            scale = (self.lowest_divergence / shrinking.clamp_max(-torch.finfo(controls.dtype).tiny)).clamp_max(1.0)
            controls = self._hold_jacobian(controls * per_sample(scale, controls))
        return (controls,)

    @torch.no_grad()
    def _hold_jacobian(self, controls: torch.Tensor) -> torch.Tensor:
        """Shrink a velocity until the determinant that is measured on the voxels holds the bound: the divergence says
        nothing about shear, which a coarse grid can turn into a fold."""
        for correction in range(CORRECTIONS + 1):
            lowest = self._lowest_determinant(controls)
            holds = lowest >= self.min_jacobian
            if controls.device.type == "cpu" and bool(holds.all()):  # elsewhere to ask would wait for the device
                break
            if correction < CORRECTIONS:
                # The logarithm is about proportional to the velocity.
                tiny = torch.finfo(lowest.dtype).tiny
                wanted = SMALLEST_CORRECTION * math.log(self.min_jacobian) / lowest.clamp_min(tiny).log()
                scale = torch.where(lowest > 0, wanted, LARGEST_CORRECTION).clamp(
                    LARGEST_CORRECTION, SMALLEST_CORRECTION
                )
            else:
                scale = (self.sure_limit / controls.abs().flatten(1).amax(dim=1)).clamp_max(1.0)
            controls = torch.where(per_sample(holds, controls), controls, controls * per_sample(scale, controls))
        return controls

    def _lowest_determinant(self, controls: torch.Tensor) -> torch.Tensor:
        """Lowest Jacobian determinant around a voxel or in a cell between voxels, (batch,)."""
        moved = self.displacement((controls,))
        around = jacobian_determinant(moved).flatten(1).amin(dim=1)
        return torch.minimum(around, lowest_corner_determinant(moved))

    def shrinking(self, controls: torch.Tensor) -> torch.Tensor:
        """Sum over the axes of the negative part of the velocity's derivative along them, per unit time, at the
        integration's nodes."""
        total: torch.Tensor | None = None
        for axis in range(controls.shape[1]):
            along = [
                d if i == axis else m for i, (m, d) in enumerate(zip(self.matrices, self.derivatives, strict=True))
            ]
            negative = evaluate_separable(controls[:, axis], along).clamp_max(0)
            total = negative if total is None else total + negative
        assert total is not None
        return total

    def displacement(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in voxels, (batch, dimension, spatial...).

        Args:
            parameters: the controls.
            inverse: the displacement that undoes it: of the reversed velocity for a diffeomorphism, else by fixed-point
                iteration, which only converges where the displacement does not fold.
        """
        controls = -parameters[0] if inverse and self.diffeomorphic else parameters[0]
        moved = evaluate_separable(controls, self.matrices) * self.nodes_per_mm
        if not self.diffeomorphic:
            return inverted(moved) if inverse else moved
        moved = moved / 2**self.integration_steps
        for _ in range(self.integration_steps):
            moved = moved + warp_linear(moved, moved)
        moved = moved * self.voxels_per_node
        return moved if self.upsampling is None else evaluate_separable(moved, self.upsampling)

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Largest displacement in the budget's norm and Jacobian determinant of the full-resolution deformation, and
        whether it explains the finished image."""
        euclidean = self.norm == "euclidean"
        measured = self.measured_motion(image, adversarial, parameters, self.limits[0] if euclidean else None, rounding)
        if not euclidean:
            for axis, along in enumerate(self.largest_displacement(parameters).unbind(dim=1)):
                measured[f"displacement_axis_{axis}"] = Measurement(along, "mm", self.limits[axis])
        if self.diffeomorphic:
            measured["jacobian_minimum"] = replace(measured["jacobian_minimum"], limit=self.min_jacobian)
        return measured
