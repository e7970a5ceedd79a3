# SPDX-License-Identifier: Apache-2.0
"""One perturbation for all images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import Objective, get_objective
from monai_adversarial.attacks.perturbations.tiled import TiledNoise
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import FixedPoint, SteepestAscent
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.calls import ShownAsCall
from monai_adversarial.utils.validation import check_choice, check_count, check_fraction, check_positive

__all__ = ["UniversalNoise", "UniversalPerturbation"]

METHODS = ("sgd", "uap")
Case = tuple[Any, Any]


@dataclass(frozen=True)
class UniversalNoise:
    """A block of noise that was made from some images, for any others.

    >>> from monai_adversarial.attacks import UniversalPerturbation
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> universal = UniversalPerturbation(15, "HU", size=(8, 8, 8), epochs=2).fit(model, [(image, label)])
    >>> universal.noise.shape, bool(universal.noise.abs().max() <= 15), len(universal.fooling_rates)
    (torch.Size([1, 8, 8, 8]), True, 1)

    Args:
        noise: (channel, size...), in image units.
        perturbation: its ball and size.
        objective: what it was made for.
        success_threshold: see :class:`~monai_adversarial.attacks.Attack`.
        fooling_rates: share of the images it was made from that it fooled, after each epoch; of ``"sgd"`` at the end.
    """

    noise: torch.Tensor
    perturbation: TiledNoise
    objective: Objective
    success_threshold: float
    fooling_rates: tuple[float, ...]

    def __call__(
        self,
        model: AttackedModel | Callable[..., Any],
        image: torch.Tensor,
        label: torch.Tensor | None = None,
        **call: Any,
    ) -> AttackResult:
        """Add the noise to a batch, verify the budget and score it: three forward passes, no gradient.

        Args:
            model, image, label: see :class:`~monai_adversarial.attacks.Attack`.
            call: further arguments of the call, for example ``region``.
        """
        attack = Attack(
            self.perturbation,
            self.objective,
            FixedPoint(),
            steps=1,
            random_start=False,
            success_threshold=self.success_threshold,
        )
        return attack(model, image, label, start=_repeated(self.noise, image), **call)


def _repeated(noise: torch.Tensor, image: Any) -> tuple[torch.Tensor]:
    return (noise.unsqueeze(0).expand(as_tensor("image", image).shape[0], *noise.shape).contiguous(),)


class UniversalPerturbation(ShownAsCall):
    """Finds one perturbation for all images: of one grid, or a block that repeats over images of any size.

    ``"sgd"`` takes one sign step per case, with steps that fall linearly from half the radius to 0 over all epochs.
    ``"uap"`` goes from case to case, and where the noise does not fool the network yet, it moves in small steps until
    it does (or ``case_steps`` are spent), always inside the ball. It ends after the epoch in which the share of fooled
    cases reaches ``fooling_rate``, and returns the best epoch's noise.

    Args:
        epsilon: radius of the L-infinity ball, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        size: voxels of the block along each axis; None for one as large as the images, which must then all have one
            grid.
        method: ``"sgd"`` or ``"uap"``.
        epochs: how often each case is seen, at most.
        fooling_rate: share of fooled cases at which ``"uap"`` ends.
        case_steps: most steps at one case, of ``"uap"``.
        case_step: size of such a step as a fraction of the radius.
        objective: see :class:`~monai_adversarial.attacks.Attack`.
        success_threshold: a case is fooled where the attack would be a success; see
            :class:`~monai_adversarial.attacks.Attack`.
        seed: of the order of the cases.

    Raises:
        TypeError, ValueError: for arguments out of range, no cases, and cases of several grids without ``size``.

    Example:
        >>> from monai_adversarial.attacks import UniversalPerturbation
        >>> from monai_adversarial.data.example import example_case
        >>> model = example_case()[0]
        >>> cases = [example_case(seed=seed)[1:] for seed in range(3)]
        >>> universal = UniversalPerturbation(15, "HU", size=(16, 16, 16), epochs=3).fit(model, cases)
        >>> held_out = universal(model, *example_case(seed=9)[1:])
        >>> bool(held_out.adversarial_dice < held_out.clean_dice)
        True

    Survey entry: A07 (adapted).
    Source: Moosavi-Dezfooli, Fawzi, Fawzi and Frossard, Universal Adversarial Perturbations, CVPR 2017, for ``"uap"``;
    the smallest step that fools one case is found by small steps along the gradient instead of DeepFool. Shafahi and
    others, Universal Adversarial Training, AAAI 2020, for ``"sgd"``. The block that repeats is ours.
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        size: Sequence[int] | None = None,
        method: str = "sgd",
        epochs: int = 5,
        fooling_rate: float = 0.8,
        case_steps: int = 10,
        case_step: float = 0.1,
        objective: str | Objective = "dice_ce",
        success_threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.perturbation = TiledNoise(epsilon, units, size)
        self.method = check_choice("method", method, METHODS)
        self.epochs, self.case_steps = check_count("epochs", epochs), check_count("case_steps", case_steps)
        self.fooling_rate = check_fraction("fooling_rate", fooling_rate)
        self.case_step = check_positive("case_step", case_step)
        self.objective = get_objective(objective)
        self.success_threshold = check_fraction("success_threshold", success_threshold)
        self.seed = check_count("seed", seed, minimum=0)

    def fit(self, model: AttackedModel | Callable[..., Any], cases: Sequence[Case]) -> UniversalNoise:
        """Make the noise.

        Args:
            model: what is attacked.
            cases: pairs of an image batch and its label (None: the network's own prediction), as an attack takes them:
                a list, or anything with a length and an index, for example a ``Dataset``.

        Raises:
            ValueError: for no cases, and for images that the block does not fit.
        """
        if len(cases) == 0:
            raise ValueError("cases must hold at least one pair of an image and its label, got none.")
        known = AttackedModel.wrap(model)
        noise = self._start(cases)
        order = random.Random(self.seed)
        updates, rates = self.epochs * len(cases), []
        best, best_rate = noise, -1.0
        for epoch in range(self.epochs):
            for place, number in enumerate(order.sample(range(len(cases)), len(cases))):
                image, label = cases[number]
                self._check_grid(noise, image, number)
                done = (epoch * len(cases) + place) / updates
                noise = self._moved(known, noise, image, label, 0.5 * (1 - done))
            if self.method == "uap" or epoch == self.epochs - 1:
                rates.append(self._rate(known, noise, cases))
                if rates[-1] > best_rate:
                    best, best_rate = noise, rates[-1]
                if self.method == "uap" and rates[-1] >= self.fooling_rate:
                    break
        return self._made(best, tuple(rates))

    def _start(self, cases: Sequence[Case]) -> torch.Tensor:
        first = as_tensor("image", cases[0][0])
        size = self.perturbation.size or tuple(first.shape[2:])
        return torch.zeros(first.shape[1], *size, dtype=torch.float32, device=first.device)

    def _check_grid(self, noise: torch.Tensor, image: Any, number: int) -> None:
        shape = tuple(as_tensor("image", image).shape[1:])
        if self.perturbation.size is None and shape != tuple(noise.shape):
            raise ValueError(
                f"cases must have one grid without size=: the first has {tuple(noise.shape)}, but case {number} has "
                f"{shape}; give a size= that fits all."
            )

    def _moved(self, model: AttackedModel, noise: torch.Tensor, image: Any, label: Any, step: float) -> torch.Tensor:
        """The noise after one case: the mean of what its samples want, which is inside the ball as they are."""
        start = _repeated(noise, image)
        parts: dict[str, Any] = {"random_start": False, "success_threshold": self.success_threshold}
        if self.method == "sgd":
            attack = Attack(self.perturbation, self.objective, SteepestAscent(step), steps=1, **parts)
            reference = "prediction" if label is None else "label"
            found = attack.perturb(model, image, label, start=start, reference=reference)
            return found.parameters[0].mean(dim=0)
        attack = Attack(
            self.perturbation,
            self.objective,
            SteepestAscent(self.case_step),
            steps=self.case_steps,
            early_stop=True,
            **parts,
        )
        return attack(model, image, label, start=start).parameters[0].mean(dim=0)

    def _made(self, noise: torch.Tensor, rates: tuple[float, ...] = ()) -> UniversalNoise:
        return UniversalNoise(noise, self.perturbation, self.objective, self.success_threshold, rates)

    def _rate(self, model: AttackedModel, noise: torch.Tensor, cases: Sequence[Case]) -> float:
        """Share of fooled samples."""
        made = self._made(noise)
        fooled = [made(model, *cases[number]).success for number in range(len(cases))]
        return float(torch.cat(fooled).double().mean())
