# SPDX-License-Identifier: Apache-2.0
"""HopSkipJump: the smallest noise that succeeds, from decisions alone."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch

from monai_adversarial.attacks.perturbations.additive import BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.smooth_basis import evaluate_separable, linear_matrix
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["HopSkipJumpSearch"]

# Noise to try and whether each sample's succeeded: the conversation of the search with its loop.
Trials = Generator[torch.Tensor, torch.Tensor, None]


class HopSkipJumpSearch(Search):
    """Makes noise that succeeds smaller, and sees of each image only whether the attack succeeds there.

    It begins at noise that succeeds (``start=`` of the attack, or a random draw from the whole ball), walks along the
    line to the clean image up to the boundary. It estimates the boundary's direction from decisions around it, jumps
    along it, and walks back to the boundary. The smallest noise that succeeded is the outcome; its size is what
    ``result.budgets`` measure. All samples use the same number of queries for each part, so that none depends on
    others.

    The decision is that of a whole case: success as the attack's ``success_threshold`` says.

    Source: Chen, Jordan, Wainwright, "HopSkipJumpAttack: A query-efficient decision-based attack", IEEE S&P 2020
    (algorithms 1 and 2, L2 and L-infinity). Ours: the radius of the estimate as a share of the distance, because a case
    changes its decision with many voxels; directions on a coarse grid; as many halvings and bisections for all samples.

    Survey entry: X19 (adapted).

    Args:
        estimates: queries of the first estimate of a direction, the paper's B; ``sqrt(t)`` times as many in round t.
        radius: distance of the points of an estimate from the boundary, as a share of that from the clean image.
        grid: nodes along each axis on which directions are drawn; None for a number per voxel as in the paper.
        bisections: queries of each walk to the boundary.
        halvings: queries of each jump, which is halved until it succeeds.
        starts: random draws to begin at, of which each sample takes the first that succeeds; 0 where ``start=`` does.

    Raises:
        ValueError: for an argument out of range; when it begins on anything but ``AdditiveNoise``.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, HopSkipJumpSearch
        >>> from monai_adversarial.data.example import example_case
        >>> search = HopSkipJumpSearch(estimates=10)
        >>> result = Attack(AdditiveNoise(100, "rms", "HU"), search=search, steps=40)(*example_case())
        >>> bool(result.success), result.forwards
        (True, 42)
    """

    uses_gradients = False
    uses_decisions = True

    def __init__(
        self,
        estimates: int = 50,
        radius: float = 0.1,
        grid: int | None = 8,
        bisections: int = 8,
        halvings: int = 5,
        starts: int = 20,
    ) -> None:
        self.estimates = check_count("estimates", estimates)
        self.radius = check_positive("radius", radius)
        self.grid = None if grid is None else check_count("grid", grid)
        self.bisections = check_count("bisections", bisections)
        self.halvings = check_count("halvings", halvings)
        self.starts = check_count("starts", starts, minimum=0)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        if not isinstance(bound, BoundAdditiveNoise):
            raise ValueError(
                "HopSkipJumpSearch makes noise smaller: use it with AdditiveNoise, got "
                f"{type(bound).__name__.removeprefix('Bound')}."
            )
        return _HopSkipJumpRun(self, bound, steps)


class _HopSkipJumpRun(SearchRun):
    bound: BoundAdditiveNoise

    def __init__(self, search: HopSkipJumpSearch, bound: BoundAdditiveNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        self._trials: Trials | None = None

    def select(self, indices: torch.Tensor, bound: BoundPerturbation) -> None:
        """Not possible: the attack refuses to end samples early."""
        raise NotImplementedError("HopSkipJumpSearch goes on with all samples to the end.")

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        (noise,) = parameters
        succeeded = values > 0
        self._keep_smallest(noise, succeeded)
        if self._trials is None:
            self._trials = self._search(noise, succeeded)
            tried = next(self._trials)
        else:
            tried = self._trials.send(succeeded)
        if step == self.steps - 1:
            return self.points["smallest"]
        return self.bound.project((tried,))

    def _keep_smallest(self, noise: torch.Tensor, succeeded: torch.Tensor) -> None:
        size = torch.where(succeeded, self._size(noise), torch.inf)
        if "smallest" not in self.points:
            self.points["smallest"], self.state["smallest"] = (noise,), size
            return
        smaller = size < self.state["smallest"]
        self.state["smallest"] = torch.where(smaller, size, self.state["smallest"])
        self.points["smallest"] = (torch.where(per_sample(smaller, noise), noise, self.points["smallest"][0]),)

    def _size(self, noise: torch.Tensor) -> torch.Tensor:
        flat = noise.flatten(1)
        return flat.abs().amax(dim=1) if self.bound.norm == "linf" else flat.norm(dim=1)

    def _search(self, noise: torch.Tensor, succeeded: torch.Tensor) -> Trials:
        """The whole search, a query at each ``yield``."""
        start, found = noise, succeeded
        for _ in range(self.search.starts):
            draw = self.bound.random(self.generators)[0]
            now = yield draw
            start = torch.where(per_sample(now & ~found, draw), draw, start)
            found = found | now
        edge = yield from self._to_boundary(start)
        for turn in range(1, self.steps + 1):  # the loop ends with the attack's steps
            distance = self._size(edge)
            direction = yield from self._direction(edge, distance, turn)
            jumped = yield from self._jump(edge, direction, distance / math.sqrt(turn))
            edge = yield from self._to_boundary(jumped)

    def _to_boundary(self, noise: torch.Tensor) -> Generator[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The smallest noise on the way to the clean image that still succeeds, to a power of two."""
        low, high = torch.zeros_like(self._size(noise)), torch.ones_like(self._size(noise))
        for _ in range(self.search.bisections):
            middle = (low + high) / 2
            succeeded = yield self._part(noise, middle)
            low, high = torch.where(succeeded, low, middle), torch.where(succeeded, middle, high)
        return self._part(noise, high)

    def _part(self, noise: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """A share of the noise: of each voxel, or of the largest one, to which the others are clipped (L-infinity)."""
        if self.bound.norm != "linf":
            return noise * per_sample(share, noise)
        most = per_sample(share * self._size(noise), noise)
        return noise.clamp(-most, most)

    def _direction(
        self, edge: torch.Tensor, distance: torch.Tensor, turn: int
    ) -> Generator[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the boundary is left behind: noise around it, weighted by whether it succeeds."""
        weighted, plain = torch.zeros_like(edge), torch.zeros_like(edge)
        total = torch.zeros_like(distance)
        count = round(self.search.estimates * math.sqrt(turn))
        for _ in range(count):
            drawn = self._drawn()
            sized = drawn * per_sample(self.search.radius * distance / self._size(drawn).clamp_min(1e-30), drawn)
            succeeded = yield edge + sized
            side = 2.0 * succeeded.to(edge) - 1.0
            weighted, plain, total = weighted + per_sample(side, drawn) * drawn, plain + drawn, total + side
        # Without their mean, unless all of them are on one side.
        mean = total / count
        mean = torch.where(mean.abs() < 1, mean, 0.0)
        direction = weighted - per_sample(mean, plain) * plain
        if self.bound.norm == "linf":
            return direction.sign()
        return direction / per_sample(direction.flatten(1).norm(dim=1).clamp_min(1e-30), direction)

    def _drawn(self) -> torch.Tensor:
        """Gaussian noise of each sample's own generator, on the coarse grid if there is one."""
        image, grid = self.bound.scene.image, self.search.grid
        shape = image.shape[2:] if grid is None else tuple(min(grid, size) for size in image.shape[2:])
        drawn = image.new_empty((*image.shape[:2], *shape))
        for row, generator in zip(drawn, self.generators, strict=True):
            row.normal_(generator=generator)
        if grid is None:
            return drawn
        along = [linear_matrix(size, nodes).to(image) for size, nodes in zip(image.shape[2:], shape, strict=True)]
        return evaluate_separable(drawn, along)

    def _jump(
        self, edge: torch.Tensor, direction: torch.Tensor, length: torch.Tensor
    ) -> Generator[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The longest of some halved jumps that succeeds; the boundary itself where none does."""
        landed, found = edge, torch.zeros_like(length, dtype=torch.bool)
        for halving in range(self.search.halvings):
            (tried,) = self.bound.project((edge + direction * per_sample(length / 2**halving, edge),))
            succeeded = yield tried
            landed = torch.where(per_sample(succeeded & ~found, tried), tried, landed)
            found = found | succeeded
        return landed
