# SPDX-License-Identifier: Apache-2.0
"""Box-constrained L-BFGS, per sample."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.attacks.search.trade_off import TradeOffRun
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["LBFGSSearch"]

#: least share of the decrease that the slope promises
ARMIJO = 1e-4
#: root mean square of a run's first step, in spans
FIRST = 1 / 255


class LBFGSSearch(MinimalSearch):
    """The first attack on neural networks: ``|noise|^2 + c * loss`` in the box of values, minimized by a limited-memory
    quasi-Newton method, with ``c`` searched by halving.

    A step is one point: where it does not lower the sum enough, the next one tries half the way. Voxels at the edge of
    the box that are pushed against it are left out of the quadratic model.

    >>> from monai_adversarial.attacks import LBFGSSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("l2", units="HU"), search=LBFGSSearch(weights=3), steps=18)
    >>> bool(attack(*example_case(16)).success)
    True

    Args:
        weight: the first ``c``.
        weights: how many of them are tried; they share the steps.
        memory: pairs of changes of point and gradient that the model remembers.

    Source: Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.1; the paper's search for ``c``
    is that of Carlini and Wagner here, and its L-BFGS-B a projected L-BFGS of ours that works on batches.
    """

    norms = ("l2",)

    def __init__(self, weight: float = 1e-2, weights: int = 9, memory: int = 5) -> None:
        self.weight = check_positive("weight", weight)
        self.weights = check_count("weights", weights)
        self.memory = check_count("memory", memory)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _LBFGSRun(self, bound, steps)


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(dim=1)


class _LBFGSRun(TradeOffRun):
    def __init__(self, search: LBFGSSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps, search.weight, search.weights)
        self.memory = search.memory
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.begun = False

    def restart(self, noise: torch.Tensor) -> None:
        self.pairs, self.begun = [], False

    def descend(self, noise: torch.Tensor, slope: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        state, points = self.state, self.points
        if not self.begun:
            self.begun = True
            points["at"], points["slope"], state["total"] = (noise,), (slope,), total
            accepted = torch.ones_like(total, dtype=torch.bool)
        else:
            (at,), (old,) = points["at"], points["slope"]
            accepted = total <= state["total"] + ARMIJO * _inner(old, noise - at)
            chosen = per_sample(accepted, noise)
            moved, turned = torch.where(chosen, noise - at, 0.0), torch.where(chosen, slope - old, 0.0)
            curved = _inner(moved, turned)
            useful = curved > 1e-10 * _inner(turned, turned)
            # A sample without a useful pair gets one that changes nothing.
            rho = torch.where(useful, 1.0 / torch.where(useful, curved, 1.0), 0.0)
            self.pairs = [*self.pairs, (moved, turned, rho)][-self.memory :]
            points["at"] = (torch.where(chosen, noise, at),)
            points["slope"] = (torch.where(chosen, slope, old),)
            state["total"] = torch.where(accepted, total, state["total"])
            # Without curvature nothing says how long a step is: it doubles as long as steps are accepted.
            known = torch.stack([pair[2] for pair in self.pairs]).amax(dim=0) > 0
            longer = torch.where(known, 1.0, 2 * state["size"])
            state["size"] = torch.where(accepted, longer, state["size"] / 2)
        (at,), (slope,) = points["at"], points["slope"]
        down, up = self.room
        stuck = ((at <= down) & (slope > 0)) | ((at >= up) & (slope < 0))
        free = torch.where(stuck, 0.0, slope)
        way = torch.where(stuck, 0.0, self._newton(free))
        downhill = _inner(way, free) < 0
        way = torch.where(per_sample(downhill, way), way, -free)
        if not self.pairs:  # nothing is known of the curvature
            root = self.bound.count.to(way.dtype).sqrt()
            state["size"] = FIRST * root / way.flatten(1).norm(dim=1).clamp_min(torch.finfo(way.dtype).tiny)
        return torch.maximum(torch.minimum(at + per_sample(state["size"], way) * way, up), down)

    def _newton(self, slope: torch.Tensor) -> torch.Tensor:
        """Minus the inverse of the remembered curvature times the slope (Nocedal's two loops)."""
        direction, factors = slope, []
        for moved, turned, rho in reversed(self.pairs):
            factor = rho * _inner(moved, direction)
            factors.append(factor)
            direction = direction - per_sample(factor, slope) * turned
        scale = torch.ones_like(self.state["total"])
        for moved, turned, rho in self.pairs:
            length = _inner(turned, turned)
            scale = torch.where(rho > 0, _inner(moved, turned) / torch.where(rho > 0, length, 1.0), scale)
        direction = direction * per_sample(scale, slope)
        for (moved, turned, rho), factor in zip(self.pairs, reversed(factors), strict=True):
            direction = direction + per_sample(factor - rho * _inner(turned, direction), slope) * moved
        return -direction
