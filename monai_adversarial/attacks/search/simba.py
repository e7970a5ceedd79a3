# SPDX-License-Identifier: Apache-2.0
"""Simple black-box attack: one direction of a basis after the other, to one side or the other."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.additive import BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_choice, check_fraction, check_positive

__all__ = ["SimBA"]

BASES = ("dct", "voxel")


class SimBA(Search):
    """Adds directions of an orthogonal basis one at a time, and keeps each where the objective grew.

    A direction that did not help is tried with the other sign; a step is one query of each sample. Directions are drawn
    without replacement, and again when all were tried. The basis is that of the discrete cosine transform (SimBA-DCT),
    low frequencies alone, or single voxels.

    Source: Guo, Gardner, You, Wilson, Weinberger, "Simple black-box adversarial attacks", ICML 2019 (algorithm 1, and
    section 4.1 for the frequencies). Three dimensions, and the budget's ball around the sum of the steps, are ours.

    Survey entry: X19 (adapted).

    Args:
        basis: ``"dct"`` or ``"voxel"``.
        relative_step: size of a step as a fraction of the budget's radius: of its largest voxel in the L-infinity ball,
            of its length in the others.
        frequencies: share of the frequencies along each axis that are used, from the lowest; the paper's 1/8 for
            ImageNet. At least two along each axis are.

    Raises:
        ValueError: for an argument out of range; when it begins on anything but ``AdditiveNoise``.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, SimBA
        >>> from monai_adversarial.data.example import example_case
        >>> result = Attack(AdditiveNoise(16, units="HU"), search=SimBA(), steps=10)(*example_case())
        >>> result.forwards, result.backwards
        (12, 0)
    """

    uses_gradients = False

    def __init__(self, basis: str = "dct", relative_step: float = 1.0, frequencies: float = 0.125) -> None:
        self.basis = check_choice("basis", basis, BASES)
        self.relative_step = check_positive("relative_step", relative_step)
        self.frequencies = check_fraction("frequencies", frequencies)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        if not isinstance(bound, BoundAdditiveNoise):
            raise ValueError(
                "SimBA adds directions to the voxels: use it with AdditiveNoise, got "
                f"{type(bound).__name__.removeprefix('Bound')}."
            )
        return _SimBARun(self, bound, steps)


class _SimBARun(SearchRun):
    bound: BoundAdditiveNoise

    def __init__(self, search: SimBA, bound: BoundAdditiveNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        image = bound.scene.image
        sizes = bound.scene.spatial_shape
        if search.basis == "dct":
            used = tuple(min(size, max(2, math.ceil(search.frequencies * size))) for size in sizes)
            self.waves = [_cosines(size, count).to(image) for size, count in zip(sizes, used, strict=True)]
        else:
            used = sizes
        self.counts = (int(image.shape[1]), *used)

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        state = self.state
        before = state.get("best")
        best = self.best(parameters, values)
        if step == self.steps - 1:
            return best
        if before is None:  # what was asked about is where the search begins
            rows = torch.zeros_like(values, dtype=torch.long)
            state["tried"], state["other_side"] = rows, torch.zeros_like(rows, dtype=torch.bool)
            self._shuffle()
            side = torch.ones_like(values)
        else:
            # Once more to the other side, unless it helped or that was the other side.
            again = ~(values > before) & ~state["other_side"]
            state["tried"] = state["tried"] + ~again
            state["other_side"] = again
            side = 1.0 - 2.0 * again.to(values)
            if bool(step % (2 * math.prod(self.counts)) == 0):
                self._shuffle()
        (noise,) = best
        place = (state["tried"] % math.prod(self.counts))[:, None]
        direction = self._direction(self.points["order"][0].gather(1, place)[:, 0])
        length = self.search.relative_step * self.bound.radii[0]
        return self.bound.project((noise + per_sample(side, noise) * length * direction,))

    def _shuffle(self) -> None:
        """A new order of the directions, of each sample's own generator."""
        count = math.prod(self.counts)
        device = self.bound.scene.image.device
        orders = [torch.randperm(count, generator=generator, device=device) for generator in self.generators]
        self.points["order"] = (torch.stack(orders),)

    def _direction(self, number: torch.Tensor) -> torch.Tensor:
        """A direction of each sample, (batch, channel, spatial...): of largest entry 1 in the L-infinity ball, of
        length 1 in the others."""
        image = self.bound.scene.image
        places = []
        for count in reversed(self.counts):
            places.append(number % count)
            number = torch.div(number, count, rounding_mode="floor")
        channel, *along = reversed(places)
        batch, rank = image.shape[0], len(along)
        made = torch.nn.functional.one_hot(channel, image.shape[1]).to(image).view(batch, -1, *[1] * rank)
        for axis, at in enumerate(along):
            if self.search.basis == "dct":
                line = self.waves[axis].index_select(0, at)
            else:
                line = torch.nn.functional.one_hot(at, image.shape[2 + axis]).to(image)
            made = made * line.view(batch, 1, *[1] * axis, -1, *[1] * (rank - axis - 1))
        size = made.flatten(1).abs().amax(dim=1) if self.bound.norm == "linf" else made.flatten(1).norm(dim=1)
        return made / per_sample(size, made)


def _cosines(size: int, count: int) -> torch.Tensor:
    """The lowest waves of the discrete cosine transform along an axis, (count, size), float64."""
    place = (2 * torch.arange(size, dtype=torch.float64) + 1) * math.pi / (2 * size)
    return torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * place)
