# SPDX-License-Identifier: Apache-2.0
"""Noise that is drawn on coarse grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.smooth_basis import evaluate_separable, linear_matrix
from monai_adversarial.utils.validation import check_choice, check_count, check_instance

__all__ = ["CoarseGrid"]

MODES = ("linear", "nearest")
# The first grid spans the budget; a finer one can take the noise from one of its ends to the other.
FINER_RADIUS = 2.0


class CoarseGrid(Perturbation):
    """Another perturbation's noise, as the sum of grids of few numbers that are interpolated to the voxels.

    Attacks by queries estimate few numbers better than one per voxel. With several grids, from coarse to fine, a search
    can begin with the coarse one and add detail, as the hierarchical attack of ZOO does. The budget, its region and how
    it is measured are those of the noise.

    Source: the low-dimensional attack space of ZOO (Chen et al. 2017, section 3.3), in three dimensions.

    Survey entry: A13 (adapted).

    Args:
        noise: a perturbation of one number per voxel, such as ``AdditiveNoise``.
        grids: nodes along each axis, of one grid or of several; no more than the image has voxels there.
        mode: ``"linear"`` between the nodes, or ``"nearest"``: blocks of constant noise, which reach the end of the
            budget everywhere.

    Raises:
        TypeError: for a noise that is no perturbation.
        ValueError: for no grid, an unknown mode, and, when it is bound, for parameters that are not one number per
            voxel.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, CoarseGrid
        >>> from monai_adversarial.data.example import example_case
        >>> result = Attack(CoarseGrid(AdditiveNoise(16, units="HU"), grids=(4, 8)), steps=2)(*example_case())
        >>> [tuple(grid.shape) for grid in result.parameters]
        [(1, 1, 4, 4, 4), (1, 1, 8, 8, 8)]
    """

    budget_attributes = ("noise",)

    def __init__(self, noise: Perturbation, grids: int | Sequence[int] = (8, 16, 32), mode: str = "linear") -> None:
        self.noise = check_instance("noise", noise, Perturbation, "AdditiveNoise(8, units='HU')")
        self.grids = tuple(check_count("grids", one) for one in ((grids,) if isinstance(grids, int) else grids))
        if not self.grids:
            raise ValueError("grids must name the nodes of at least one grid, got none.")
        self.mode = check_choice("mode", mode, MODES)

    @property
    def units(self) -> str | None:
        """Of the noise's budget."""
        return getattr(self.noise, "units", None)

    def scaled(self, factor: float) -> Perturbation:
        """On the same grids, with ``factor`` times the noise's budget."""
        return CoarseGrid(self.noise.scaled(factor), self.grids, self.mode)

    def bind(self, scene: Scene) -> BoundPerturbation:
        """Tie the noise to a batch."""
        return _BoundCoarseGrid(self, scene)


class _BoundCoarseGrid(BoundPerturbation):
    """Parameters: one grid after the other, (batch, channel, nodes...), in image units."""

    per_sample_budget = True

    def __init__(self, perturbation: CoarseGrid, scene: Scene) -> None:
        super().__init__(scene)
        self.noise = perturbation.noise.bind(scene)
        zeros = self.noise.zeros()
        if len(zeros) != 1 or zeros[0].shape != scene.image.shape:
            raise ValueError(
                "CoarseGrid takes a perturbation of one number per voxel, such as AdditiveNoise, got "
                f"{type(perturbation.noise).__name__}."
            )
        shape, image = scene.spatial_shape, scene.image
        self.shapes = [tuple(min(nodes, size) for size in shape) for nodes in perturbation.grids]
        self.matrices = [
            [_matrix(size, count, perturbation.mode).to(image) for size, count in zip(shape, nodes, strict=True)]
            for nodes in self.shapes
        ]

    @property
    def geometric(self) -> bool:  # type: ignore[override]
        """As the noise."""
        return self.noise.geometric

    @property
    def radii(self) -> Parameters:
        """Of the first grid the noise's largest change of a voxel, of finer ones twice that."""
        (radius,) = self.noise.radii
        if self.noise.norms[0] != "linf":
            count = getattr(self.noise, "count", self.scene.image[0].numel())
            each = torch.as_tensor(count, device=radius.device).to(radius).sqrt()
            radius = radius / each.view(-1, *[1] * (radius.ndim - 1))
        return tuple(radius * (FINER_RADIUS if number else 1.0) for number in range(len(self.shapes)))

    def zeros(self) -> Parameters:
        """No noise."""
        image = self.scene.image
        return tuple(image.new_zeros((*image.shape[:2], *nodes)) for nodes in self.shapes)

    def noise_of(self, parameters: Parameters) -> Parameters:
        """The noise itself, within its budget."""
        total = sum(evaluate_separable(grid, along) for grid, along in zip(parameters, self.matrices, strict=True))
        assert isinstance(total, torch.Tensor)
        return self.noise.project((total,))

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The noise of the grids, as the inner perturbation applies it."""
        return self.noise.apply(image, self.noise_of(parameters))

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """As the noise is measured."""
        return self.noise.measure(image, adversarial, self.noise_of(parameters), rounding)

    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """As the noise is rounded."""
        return self.noise.quantize(image, adversarial, self.noise_of(parameters))

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """What the noise leaves alone."""
        return self.noise.untouched(image)

    @property
    def support(self) -> torch.Tensor | None:
        """As the noise."""
        return self.noise.support

    @property
    def changeable(self) -> torch.Tensor:
        """As the noise."""
        return self.noise.changeable


def _matrix(size: int, nodes: int, mode: str) -> torch.Tensor:
    """Interpolation from nodes to voxels along one axis, (size, nodes)."""
    if mode == "linear":
        return linear_matrix(size, nodes)
    nearest = torch.arange(size) * nodes // size
    return torch.nn.functional.one_hot(nearest, nodes).double()
