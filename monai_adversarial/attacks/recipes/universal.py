# SPDX-License-Identifier: Apache-2.0
"""One perturbation for all images."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import Objective, get_objective
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.perturbations.tiled import TiledNoise
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import FixedPoint, SearchRun, SteepestAscent
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.calls import ShownAsCall
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import describe, fingerprint, network_hash
from monai_adversarial.utils.modules import unwrap
from monai_adversarial.utils.validation import check_choice, check_count, check_fraction, check_positive

__all__ = ["UniversalNoise", "UniversalPerturbation"]

METHODS = ("sgd", "pgd", "uap")
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


@dataclass
class _State:
    """Where a fit stands; all that a checkpoint holds.

    Args:
        noise: (channel, size...).
        best: the noise that fooled most cases, None for ``noise``.
        best_rate: share of the cases that it fooled.
        rates: after each epoch that was counted.
        epoch: epochs that are over.
        done: enough cases are fooled.
    """

    noise: torch.Tensor
    best: torch.Tensor = None  # type: ignore[assignment]
    best_rate: float = -1.0
    rates: list[float] = field(default_factory=list)
    epoch: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.best = self.noise if self.best is None else self.best

    def save(self, path: str | os.PathLike[str], made_of: str) -> None:
        """Write all of it; the file appears whole or not at all."""
        state = {one.name: getattr(self, one.name) for one in fields(self)}
        with replace_when_complete(path) as temporary:
            torch.save({**state, "made_of": made_of}, temporary)


class _SharedAscent(SteepestAscent):
    """Signs of a gradient that is added up over samples and cases; the noise moves when it is told to.

    Args:
        relative_step: see :class:`~monai_adversarial.attacks.SteepestAscent`.

    Attributes:
        moves: whether the next case completes the sum.
        pending: the sum over the cases before it.
    """

    def __init__(self, relative_step: float) -> None:
        super().__init__(relative_step)
        self.moves = False
        self.pending: torch.Tensor | None = None

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        return _SharedAscentRun(self, bound, steps)


class _SharedAscentRun(SearchRun):
    def __init__(self, search: _SharedAscent, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        (noise,), (gradient,), search = parameters, gradients, self.search
        # Each case counts the same, whatever the size of its gradient.
        size = gradient.flatten(1).abs().mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        shared = (gradient / per_sample(size, gradient)).sum(dim=0)
        total = search.pending = shared if search.pending is None else search.pending + shared
        if not search.moves:
            return parameters
        moved = noise + search.relative_step * self.bound.radii[0] * total.sign()
        return self.bound.project((moved,))


class UniversalPerturbation(ShownAsCall):
    """Finds one perturbation for all images: of one grid, or a block that repeats over images of any size.

    ``"sgd"`` takes one sign step per case, with steps that fall linearly from half the radius to 0 over all epochs.
    ``"pgd"`` takes one sign step per ``cases_per_step`` cases, along the sum of their gradients, each divided by its
    mean absolute value, with the same falling steps: fewer and steadier ones at the same number of gradients.
    ``"uap"`` goes from case to case, and where the noise does not fool the network yet, it moves in small steps until
    it does (or ``case_steps`` are spent), always inside the ball. It ends after the epoch in which the share of fooled
    cases reaches ``fooling_rate``, and returns the best epoch's noise.

    Args:
        epsilon: radius of the L-infinity ball, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        size: voxels of the block along each axis; None for one as large as the images, which must then all have one
            grid.
        method: ``"sgd"``, ``"pgd"`` or ``"uap"``.
        epochs: how often each case is seen, at most.
        cases_per_step: cases of a step of ``"pgd"``; the last step of an epoch has the rest.
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
    others, Universal Adversarial Training, AAAI 2020, for ``"sgd"``, and its mini-batches for ``"pgd"``. The block
    that repeats and the falling steps are ours.
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
        cases_per_step: int = 4,
        objective: str | Objective = "dice_ce",
        success_threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.perturbation = TiledNoise(epsilon, units, size)
        self.method = check_choice("method", method, METHODS)
        self.epochs, self.case_steps = check_count("epochs", epochs), check_count("case_steps", case_steps)
        self.fooling_rate = check_fraction("fooling_rate", fooling_rate)
        self.case_step = check_positive("case_step", case_step)
        self.cases_per_step = check_count("cases_per_step", cases_per_step)
        self.objective = get_objective(objective)
        self.success_threshold = check_fraction("success_threshold", success_threshold)
        self.seed = check_count("seed", seed, minimum=0)

    def fit(
        self,
        model: AttackedModel | Callable[..., Any],
        cases: Sequence[Case],
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> UniversalNoise:
        """Make the noise.

        Args:
            model: what is attacked.
            cases: pairs of an image batch and its label (None: the network's own prediction), as an attack takes them:
                a list, or anything with a length and an index, for example a ``Dataset``.
            checkpoint: file that is written after each epoch, and from which a fit goes on where it exists: to the same
                noise as without an interruption.

        Raises:
            ValueError: for no cases, for images that the block does not fit, and for a checkpoint of other settings,
                another network or another number of cases.
        """
        if len(cases) == 0:
            raise ValueError("cases must hold at least one pair of an image and its label, got none.")
        known = AttackedModel.wrap(model)
        made_of = "" if checkpoint is None else self._made_of(known, cases)
        state = _State(self._start(cases)) if checkpoint is None else self._resumed(checkpoint, made_of, cases)
        order = random.Random(self.seed)
        orders = [order.sample(range(len(cases)), len(cases)) for _ in range(self.epochs)]
        while state.epoch < self.epochs and not state.done:
            self._epoch(known, cases, orders[state.epoch], state)
            if checkpoint is not None:
                state.save(checkpoint, made_of)
        return self._made(state.best, tuple(state.rates))

    def _epoch(self, model: AttackedModel, cases: Sequence[Case], order: Sequence[int], state: _State) -> None:
        """See each case once, and where it is time how many are fooled."""
        seen = state.epoch * len(cases)
        shared: _SharedAscent | None = None
        for place, number in enumerate(order):
            image, label = cases[number]
            self._check_grid(state.noise, image, number)
            if self.method == "pgd" and place % self.cases_per_step == 0:
                shared = _SharedAscent(self._step(seen + place, len(cases)))
            if shared is not None:
                shared.moves = (place + 1) % self.cases_per_step == 0 or place + 1 == len(order)
            step = self._step(seen + place, len(cases))
            state.noise = self._moved(model, state.noise, image, label, shared or SteepestAscent(step))
        state.epoch += 1
        if self.method == "uap" or state.epoch == self.epochs:
            state.rates.append(self._rate(model, state.noise, cases))
            if state.rates[-1] > state.best_rate:
                state.best, state.best_rate = state.noise, state.rates[-1]
            state.done = self.method == "uap" and state.rates[-1] >= self.fooling_rate

    def _step(self, seen: int, count: int) -> float:
        """Of the gradient steps: from half the radius to nothing over all cases of all epochs."""
        return 0.5 * (1 - seen / (self.epochs * count))

    def _made_of(self, model: AttackedModel, cases: Sequence[Case]) -> str:
        """What a checkpoint belongs to: settings, network and number of cases."""
        network = unwrap(model.network)
        weights = network_hash(network) if isinstance(network, torch.nn.Module) else ""
        return fingerprint({"settings": describe(self), "cases": len(cases), "network": weights})

    def _resumed(self, path: str | os.PathLike[str], made_of: str, cases: Sequence[Case]) -> _State:
        """Where a checkpoint stopped, or the beginning where there is none."""
        start = self._start(cases)
        if not Path(path).exists():
            return _State(start)
        found = torch.load(path, map_location=start.device, weights_only=True)
        if not isinstance(found, dict) or found.pop("made_of", None) != made_of:
            raise ValueError(
                f"checkpoint must be one of these settings, this network and {len(cases)} cases, but {path} is of "
                "others: give another file, or delete it to begin again."
            )
        return _State(**found)

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

    def _moved(
        self, model: AttackedModel, noise: torch.Tensor, image: Any, label: Any, search: SteepestAscent
    ) -> torch.Tensor:
        """The noise after one case: the mean of what its samples want, which is inside the ball as they are."""
        start = _repeated(noise, image)
        parts: dict[str, Any] = {"random_start": False, "success_threshold": self.success_threshold}
        if self.method != "uap":
            attack = Attack(self.perturbation, self.objective, search, steps=1, **parts)
            reference = "prediction" if label is None else "label"
            found = attack.perturb(model, image, label, start=start, reference=reference)
            (moved,) = found.parameters
            return moved[0] if self.method == "pgd" else moved.mean(dim=0)  # of equal ones the mean is not quite one
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
