# SPDX-License-Identifier: Apache-2.0
"""Gradients estimated along random directions: natural evolution strategies and random gradient-free estimates."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.gradients.base import ObjectiveFunction
from monai_adversarial.attacks.gradients.queries import QueryGradient
from monai_adversarial.attacks.perturbations.base import Parameters

__all__ = ["NaturalEvolution", "RandomGradientFree"]


class RandomGradientFree(QueryGradient):
    """Forward differences along random unit vectors, times the number of dimensions (RGF).

    Source: Nesterov, Spokoiny, "Random gradient-free minimization of convex functions", 2017 (equation 22, with
    directions from the sphere); as an attack on networks in Cheng et al., "Improving black-box adversarial attacks with
    a transfer-based prior", NeurIPS 2019.

    Survey entry: A13 (adapted).

    Args:
        samples: directions of each step, one query each.
        radius: length of the difference in each parameter, root mean square, as a share of the budget's radius.
        queries: see :class:`~monai_adversarial.attacks.gradients.queries.QueryGradient`.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, CoarseGrid, RandomGradientFree
        >>> from monai_adversarial.data.example import example_case
        >>> noise = CoarseGrid(AdditiveNoise(16, units="HU"), grids=4)
        >>> result = Attack(noise, gradient=RandomGradientFree(samples=4), steps=3)(*example_case())
        >>> result.forwards, result.backwards
        (13, 0)
    """

    def _slopes(
        self, function: ObjectiveFunction, parameters: Parameters, values: torch.Tensor, asked: int
    ) -> torch.Tensor:
        slopes = torch.zeros_like(self._flat.radii)
        length = self.radius * self._flat.size**0.5
        for _ in range(asked):
            direction = torch.nn.functional.normalize(self._draws(self._flat.size, gaussian=True), dim=1)
            value, change = self._ask(function, parameters, length * direction)
            slopes += (value - values)[:, None] * change / length**2
        return slopes * (self._flat.size / max(asked, 1))


class NaturalEvolution(QueryGradient):
    """Antithetic differences along Gaussian directions (natural evolution strategies, NES).

    Two queries for each direction, on both sides; where the number of queries is odd, the last is a difference with the
    point itself.

    Source: Ilyas, Engstrom, Athalye, Lin, "Black-box adversarial attacks with limited queries and information", ICML
    2018 (algorithm 1, its sigma here a share of the budget's radius).

    Survey entry: A13 (adapted).

    Args:
        samples: queries of each step, two for each direction.
        radius: standard deviation of the directions, the paper's sigma, as a share of the budget's radius.
        queries: see :class:`~monai_adversarial.attacks.gradients.queries.QueryGradient`.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, CoarseGrid, NaturalEvolution
        >>> from monai_adversarial.data.example import example_case
        >>> noise = CoarseGrid(AdditiveNoise(16, units="HU"), grids=4)
        >>> result = Attack(noise, gradient=NaturalEvolution(samples=4), steps=3)(*example_case())
        >>> result.forwards, result.backwards
        (13, 0)
    """

    def _slopes(
        self, function: ObjectiveFunction, parameters: Parameters, values: torch.Tensor, asked: int
    ) -> torch.Tensor:
        slopes = torch.zeros_like(self._flat.radii)
        for number in range((asked + 1) // 2):
            direction = self.radius * self._draws(self._flat.size, gaussian=True)
            above, ahead = self._ask(function, parameters, direction)
            if 2 * number + 1 < asked:
                below, behind = self._ask(function, parameters, -direction)
                slopes += ((above - below) / 2)[:, None] * (ahead - behind) / 2
            else:
                slopes += (above - values)[:, None] * ahead
        return slopes / (max((asked + 1) // 2, 1) * self.radius**2)
