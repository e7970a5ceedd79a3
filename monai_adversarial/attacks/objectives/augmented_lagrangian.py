# SPDX-License-Identifier: Apache-2.0
"""A constraint for each voxel, and what breaking it costs: the objective of ALMA-prox."""

from __future__ import annotations

import copy
import math

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.easiest import easiest, groups_of
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["AugmentedLagrangian", "penalty", "penalty_slope"]

LEAST, MOST = 1e-12, 1.0


def penalty(broken: torch.Tensor, rho: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """What breaking a constraint by ``broken`` costs: ``m y + m r y^2 + r^2 y^3 / 6`` above zero and
    ``m y / (1 - max(1, r) y)`` below, with slope ``m`` at zero.

    Source: Rony, Pesquet, Ben Ayed, "Proximal splitting adversarial attack for semantic segmentation", CVPR 2023, and
    Birgin, Castillo, Martinez 2005, whose penalty P2 it is.
    """
    above = multiplier * broken + multiplier * rho * broken.square() + rho.square() * broken.pow(3) / 6
    below = multiplier * broken / (1 - rho.clamp_min(1.0) * broken.clamp_max(0.0))
    return torch.where(broken >= 0, above, below)


def penalty_slope(broken: torch.Tensor, rho: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """Derivative of :func:`penalty` with respect to ``broken``."""
    above = multiplier + 2 * multiplier * rho * broken + rho.square() * broken.square() / 2
    below = multiplier / (1 - rho.clamp_min(1.0) * broken.clamp_max(0.0)).square()
    return torch.where(broken >= 0, above, below)


class AugmentedLagrangian(Objective):
    """Minus the cost of all broken constraints, one for each voxel: that its decision is wrong.

    It keeps a multiplier and a penalty factor for each voxel between steps, and a scale of the constraints for each
    sample, which falls after a success and rises after a failure. The constraint is the margin as a share of the
    distance from the highest logit to the third, the margin itself for fewer classes. The hardest voxels are left out.

    >>> from monai_adversarial.attacks import ALMAProxSearch, AugmentedLagrangian, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> noise = MinimalNoise("linf", units="HU")
    >>> attack = MinimalNormAttack(noise, AugmentedLagrangian(), ALMAProxSearch(), steps=15)
    >>> bool(attack(*example_case(16)).success)
    True

    Args:
        share: of each class's voxels that have to be wrong, over all classes with the background where ``organs`` is
            False, 0.99 in the paper; None: two thirds of each organ.
        multiplier: the first one, the paper's mu, 1.
        factor: the first penalty factor, the paper's rho, 0.01.
        growth: of the factor where a constraint did not improve, the paper's gamma, 2.
        improvement: what counts as improvement, the paper's tau, 0.95.
        patience: steps between two looks at the improvement, 10.
        smoothing: of the multipliers, the paper's alpha, 0.8.
        scales: least and largest scale of the constraints, 0.1 and 1.
        scale_step: 0.02.
        tolerance: added to the constraint, 1e-4.
        decay: leave out none of the voxels at the beginning, as many as ``share`` says at the end.

    Source: Rony et al. 2023, section 4; the defaults are those of their code.
    """

    comparable = False

    def __init__(
        self,
        share: float | None = None,
        multiplier: float = 1.0,
        factor: float = 0.01,
        growth: float = 2.0,
        improvement: float = 0.95,
        patience: int = 10,
        smoothing: float = 0.8,
        scales: tuple[float, float] = (0.1, 1.0),
        scale_step: float = 0.02,
        tolerance: float = 1e-4,
        decay: bool = True,
    ) -> None:
        self.share = None if share is None else check_fraction("share", share)
        self.multiplier = check_positive("multiplier", multiplier)
        self.factor = check_positive("factor", factor)
        self.growth = check_positive("growth", growth)
        self.improvement = check_fraction("improvement", improvement)
        self.patience = check_count("patience", patience)
        self.smoothing = check_fraction("smoothing", smoothing)
        self.scales = (check_positive("scales", scales[0]), check_positive("scales", scales[1]))
        self.scale_step = check_fraction("scale_step", scale_step)
        self.tolerance = check_positive("tolerance", tolerance, allow_zero=True)
        self.decay = bool(decay)
        self._state: dict[str, torch.Tensor] = {}

    def begin(self) -> AugmentedLagrangian:
        """A copy that knows nothing yet."""
        made = copy.copy(self)
        made._state = {}
        return made

    def select(self, rows: torch.Tensor) -> None:
        """Go on with some of the samples."""
        self._state = {name: part.index_select(0, rows) for name, part in self._state.items()}

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        """Minus the mean cost (targeted: the mean cost), so that an attack that maximizes (minimizes) it lowers the
        cost."""
        broken = self._broken(logits, target, targeted)
        groups, weight, count = target.constant(("groups_of", self.share), lambda: self._groups(target))
        share = 2 / 3 if self.share is None else self.share
        if self.decay:
            share = 1.0 - (1.0 - share) * progress.step / max(1, progress.steps - 1)
        chosen = easiest(-broken, groups, weight, count, share)
        with torch.no_grad():
            scale = self._scale(broken, progress)
            scaled = broken.detach() * scale
            self._learn(scaled, chosen, progress.step)
            slope = penalty_slope(scaled, self._state["rho"], self._state["multiplier"]) * chosen * scale
            cost = (penalty(scaled, self._state["rho"], self._state["multiplier"]) * chosen).flatten(1).sum(dim=1)
        # The cost with its gradient: multipliers and scales are constants of the step.
        linear = ((broken - broken.detach()) * slope).flatten(1).sum(dim=1) + cost
        size = broken[0].numel()
        return linear / size if targeted else -linear / size

    def _groups(self, target: Target) -> tuple[torch.Tensor, torch.Tensor, int]:
        groups, weight, count = groups_of(target)
        return (groups, weight, count) if self.share is None else (torch.zeros_like(groups), weight, 1)

    def _broken(self, logits: torch.Tensor, target: Target, targeted: bool) -> torch.Tensor:
        """How much each constraint is broken; below zero where it is kept."""
        margin = compare(logits, target).margin(-math.inf, math.inf)
        margin = margin if targeted else -margin
        if target.activation == "softmax" and logits.shape[1] > 2:
            top = logits.topk(3, dim=1).values
            margin = margin / (top[:, :1] - top[:, 2:]).clamp_min(torch.finfo(top.dtype).eps)
        return margin + self.tolerance

    def _scale(self, broken: torch.Tensor, progress: Progress) -> torch.Tensor:
        state = self._state
        if "scale" not in state:
            state["scale"] = broken.new_full((broken.shape[0],), self.scales[1])
        if progress.success is not None:
            step = self.scale_step
            changed = state["scale"] / torch.where(progress.success, 1 + step, 1 - step)
            state["scale"] = changed.clamp(*self.scales)
        return state["scale"].view(-1, *[1] * (broken.ndim - 1))

    def _learn(self, broken: torch.Tensor, chosen: torch.Tensor, step: int) -> None:
        """New multipliers and penalty factors."""
        state = self._state
        if "rho" not in state:
            state["rho"] = torch.full_like(broken, self.factor)
            state["multiplier"] = torch.full_like(broken, self.multiplier)
            state["kept"] = torch.zeros_like(broken, dtype=torch.bool)
            state["before"] = broken
            return
        state["kept"] = state["kept"] | (broken < self.tolerance * state["scale"].view(-1, *[1] * (broken.ndim - 1)))
        if (step + 1) % self.patience == 0:
            improved = broken * chosen <= self.improvement * state["before"]
            state["rho"] = torch.where(state["kept"] | improved, state["rho"], self.growth * state["rho"])
            state["before"], state["kept"] = broken, torch.zeros_like(state["kept"])
        new = penalty_slope(broken, state["rho"], state["multiplier"]) * chosen
        mixed = self.smoothing * state["multiplier"] + (1 - self.smoothing) * new
        state["multiplier"] = mixed.clamp(LEAST, MOST)
