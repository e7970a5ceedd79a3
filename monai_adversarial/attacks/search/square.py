# SPDX-License-Identifier: Apache-2.0
"""Square attack: random search by cubes of constant noise."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.additive import BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_fraction

__all__ = ["SquareSearch", "share_at"]

# Steps of 10,000 after which the share of voxels that a cube covers halves (section 5 of the paper).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
PAPER_STEPS = 10_000


def share_at(step: int, steps: int, first: float) -> float:
    """Share of the voxels that the cube of a step covers: halved after the paper's 10, 50, 200, 500, 1000, 2000, 4000,
    6000 and 8000 of 10,000 steps, in proportion for another number.

    Args:
        step: from 1 to ``steps``.
        steps: of the whole search.
        first: share at the beginning.
    """
    place = int(step / steps * PAPER_STEPS)
    return first / 2 ** sum(place > mark for mark in HALVINGS)


class SquareSearch(Search):
    """Random search of the Square attack (Andriushchenko et al. 2020, L-infinity) with cubes instead of squares.

    It begins with stripes: lines along the first spatial axis, each at one of both ends of the budget, as the paper's
    vertical stripes. Every step then sets a cube at a random place to one end of the budget, for each channel by
    itself, and keeps it where the objective grew. A cube of which nothing would change gets the other sign. Cubes lie
    within the box of the voxels that may change.

    A step is one query of each sample, the first one asks about the stripes; the last point is the best one.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, SquareSearch
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = Attack(AdditiveNoise(16, units="HU"), search=SquareSearch(share=0.3), steps=10)(model, image, label)
    >>> (result.adversarial - image).abs().unique().tolist(), result.forwards
    ([16.0], 12)

    Args:
        share: of the box's voxels that the first cubes cover, the paper's p. It is 0.05 there for ImageNet, 0.8 in
            the authors' AutoAttack (Croce and Hein 2020). This is the default here because it is stronger on small
            segmentation networks at any number of queries.

    Raises:
        ValueError: for a share outside 0 to 1; when it begins on anything but ``AdditiveNoise`` with the L-infinity
            norm.
    """

    uses_gradients = False

    def __init__(self, share: float = 0.8) -> None:
        self.share = check_fraction("share", share)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        if not isinstance(bound, BoundAdditiveNoise) or bound.norm != "linf":
            raise ValueError(
                "SquareSearch changes voxels within an L-infinity ball: use it with AdditiveNoise(norm='linf'), got "
                f"{type(bound).__name__.removeprefix('Bound')}."
            )
        return _SquareRun(self, bound, steps)


class _SquareRun(SearchRun):
    bound: BoundAdditiveNoise

    def __init__(self, search: SquareSearch, bound: BoundAdditiveNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        self.box = _box_of(bound)

    def _uniform(self, *shape: int) -> torch.Tensor:
        """Numbers from 0 to 1, (batch, *shape), of each sample's own generator."""
        image = self.bound.scene.image
        draws = torch.empty((image.shape[0], *shape), dtype=image.dtype, device=image.device)
        for row, generator in zip(draws, self.generators, strict=True):
            row.uniform_(generator=generator)
        return draws

    def _signs(self, *shape: int) -> torch.Tensor:
        return (self._uniform(*shape) < 0.5).to(self.bound.scene.image.dtype) * 2 - 1

    def first(self, parameters: Parameters) -> Parameters:
        """Stripes along the first spatial axis at the ends of the budget."""
        channels, _, *rest = self.bound.scene.image.shape[1:]
        signs = self._signs(channels, 1, *rest).expand_as(self.bound.scene.image)
        return self.bound.project((signs * self.bound.radii[0],))

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        best = self.best(parameters, values)
        if step == self.steps - 1:
            return best
        (noise,), image = best, self.bound.scene.image
        inside = self._cube(share_at(step + 1, self.steps, self.search.share))
        ends = (self._signs(image.shape[1], *[1] * (image.ndim - 2)) * self.bound.radii[0]).expand_as(image)
        # A query about the same image again would be lost.
        changes = ((noise != ends) & inside).flatten(1).any(dim=1)
        ends = torch.where(per_sample(changes, ends), ends, -ends)
        return self.bound.project((torch.where(inside, ends, noise),))

    def _cube(self, share: float) -> torch.Tensor:
        """Boolean (batch, 1, spatial...): a cube at a random place of each sample."""
        image, axes = self.bound.scene.image, len(self.bound.scene.spatial_shape)
        low, high = self.box
        lengths = high - low
        edge = (lengths.prod(dim=1, keepdim=True) * share).pow(1 / axes).round().clamp_min(1)
        edges = torch.minimum(edge, lengths)
        start = low + (self._uniform(axes) * (lengths - edges + 1)).floor().minimum(lengths - edges)
        inside = torch.ones((1,) * image.ndim, dtype=torch.bool, device=image.device)
        for axis, size in enumerate(self.bound.scene.spatial_shape):
            place = torch.arange(size, device=image.device)
            along = (place >= start[:, axis, None]) & (place < (start + edges)[:, axis, None])
            inside = inside & along.view(-1, *[1] * (axis + 1), size, *[1] * (axes - axis - 1))
        return inside

    def select(self, indices: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        super().select(indices, bound)
        self.box = tuple(edge.index_select(0, indices) for edge in self.box)  # type: ignore[assignment]


def _box_of(bound: BoundAdditiveNoise) -> tuple[torch.Tensor, torch.Tensor]:
    """First voxel and the one after the last along each axis, (batch, axes), of those that may change; the whole image
    of a sample without any."""
    image, shape = bound.scene.image, bound.scene.spatial_shape
    low = torch.zeros((image.shape[0], len(shape)), dtype=image.dtype, device=image.device)
    high = low + torch.tensor(shape, dtype=image.dtype, device=image.device)
    if bound.mask is None:
        return low, high
    mask = bound.mask.any(dim=1)
    some = mask.flatten(1).any(dim=1)
    for axis, size in enumerate(shape):
        others = [other + 1 for other in range(len(shape)) if other != axis]
        line = mask.amax(dim=others) if others else mask
        place = torch.arange(size, dtype=image.dtype, device=image.device)
        low[:, axis] = torch.where(some, torch.where(line, place, math.inf).amin(dim=1), low[:, axis])
        high[:, axis] = torch.where(some, torch.where(line, place, -math.inf).amax(dim=1) + 1, high[:, axis])
    return low, high
