# SPDX-License-Identifier: Apache-2.0
"""How a generator learns: its perturbation is one more point of an attack, whose gradient goes on into its weights."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.losses import PatchAdversarialLoss
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbations import BoundPerturbation, Parameters
from monai_adversarial.attacks.search import Search, SearchRun
from monai_adversarial.generators.made import Made, made_by, shown_to_network
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.perturbation_generator import PerturbationGenerator
from monai_adversarial.utils.files import replace_when_complete

# Distance from a prescribed value below which a step gets smaller: the loss is Huber's.
NEAR = 0.1

__all__ = ["Case", "GeneratorTraining", "Penalty", "Settings", "fit_generator"]

Case = tuple[Any, Any]
#: the perturbation on its batch, what the generator made, the perturbed image, the label -> (batch,)
Penalty = Callable[[BoundPerturbation, Made, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """Weights and rates of a training.

    >>> from monai_adversarial.attacks import AdditiveNoise
    >>> from monai_adversarial.generators import GeneratedAttack, Settings
    >>> settings = Settings(adversarial=5.0, rate=1e-2, milestones=(10,), drops=(0.2, 0.8))
    >>> attack = GeneratedAttack(AdditiveNoise(15, units="HU"), "dice", [1], settings, channels=(2, 4), drop=0.5)
    >>> settings.drops, settings.realism
    ((0.2, 0.8), 1.0)

    Args:
        adversarial: weight of the attack's objective.
        realism: weight of the discriminator's verdict.
        penalty: weight of what else the generator is charged for.
        rate: of Adam, for both networks.
        betas: of Adam.
        milestones: epochs after which the rate falls tenfold.
        drops: range from which a prescribed loss of Dice is drawn for each sample; None for as much as possible.
    """

    adversarial: float = 10.0
    realism: float = 1.0
    penalty: float = 1.0
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    milestones: tuple[int, ...] = (50, 80)
    drops: tuple[float, float] | None = None


@dataclass
class GeneratorTraining:
    """The state of a training.

    >>> from monai_adversarial.generators import GeneratorTraining, Settings
    >>> from monai_adversarial.networks import PerturbationGenerator, patch_discriminator
    >>> generator, discriminator = PerturbationGenerator([1], channels=(2, 4)), patch_discriminator(channels=2)
    >>> training = GeneratorTraining(generator, discriminator, Settings())
    >>> sorted(training.parts())[:2], training.history
    (['discriminator', 'generator'], [])

    Args:
        generator, discriminator: both networks.
        settings: weights and rates.
        penalty: see ``Settings.penalty``; None for nothing.
        history: means of each epoch: ``objective`` (as the attacker maximizes it), ``generator`` and ``discriminator``
            (the losses that judge realism), ``penalty``.
    """

    generator: PerturbationGenerator
    discriminator: nn.Module
    settings: Settings
    penalty: Penalty | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    label: torch.Tensor | None = None
    losses: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.settings
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers = {
            name: torch.optim.Adam(one.parameters(), settings.rate, settings.betas) for name, one in networks.items()
        }
        self.schedules = {
            name: torch.optim.lr_scheduler.MultiStepLR(one, list(settings.milestones), 0.1)
            for name, one in self.optimizers.items()
        }
        self.judge = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def parts(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        optimizers = {f"optimizer_{name}": one for name, one in self.optimizers.items()}
        return {**networks, **optimizers, **{f"schedule_{name}": one for name, one in self.schedules.items()}}

    def update(
        self, bound: BoundPerturbation, made: Made, gradients: Parameters, values: torch.Tensor, upward: torch.Tensor
    ) -> None:
        """One step of both networks.

        Args:
            bound: the perturbation on its batch.
            made: what the generator made, with its graph.
            gradients: of the objective by the parameters.
            values: of the objective, (batch,).
            upward: (batch,), from 1 where the objective shall rise to -1 where it has risen too far.
        """
        settings, scene = self.settings, bound.scene
        changed = bound.apply(scene.image, made.parameters)
        real, fake = shown_to_network(scene, scene.image), shown_to_network(scene, changed)
        told_apart = self._judge_step(real, fake.detach())
        # Differentiating this sum by the weights goes on where the attack's own gradient by the parameters ended.
        climb = torch.stack(
            [
                (part * gradient * upward.view(-1, *[1] * (part.ndim - 1))).sum()
                for part, gradient in zip(made.parameters, gradients, strict=True)
            ]
        ).sum()
        realism = self.judge(self.discriminator(fake)[-1], target_is_real=True, for_discriminator=False)
        charge = values.new_zeros(values.shape[0]) if self.penalty is None else self._charge(bound, made, changed)
        loss = -settings.adversarial * climb / values.shape[0] + settings.realism * realism
        loss = loss + settings.penalty * charge.mean()
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.generator.steps += 1
        found = {
            "objective": values.mean(),
            "generator": realism,
            "discriminator": told_apart,
            "penalty": charge.mean(),
        }
        for name, value in found.items():
            self.losses.setdefault(name, []).append(value.detach())

    def _charge(self, bound: BoundPerturbation, made: Made, changed: torch.Tensor) -> torch.Tensor:
        assert self.penalty is not None
        return self.penalty(bound, made, changed, self.label)

    def _judge_step(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """The discriminator learns to tell both apart; its loss."""
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad()
        loss = 0.5 * (
            self.judge(self.discriminator(real)[-1], target_is_real=True, for_discriminator=True)
            + self.judge(self.discriminator(fake)[-1], target_is_real=False, for_discriminator=True)
        )
        loss.backward()
        optimizer.step()
        return loss

    def finish_epoch(self) -> None:
        """Keep the means, and lower the rates where it is time."""
        self.history.append({name: float(torch.stack(values).mean()) for name, values in self.losses.items()})
        self.losses = {}
        for schedule in self.schedules.values():
            schedule.step()

    def save(self, path: Path, engine: Engine) -> None:
        """Write all of it; the file appears whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"epoch": engine.state.epoch, "iteration": engine.state.iteration, "history": self.history}
        with replace_when_complete(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path, engine: Engine) -> None:
        """Go on where a checkpoint stopped."""
        state = torch.load(path, map_location=next(self.generator.parameters()).device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.history = state["history"]
        length = state["iteration"] // max(state["epoch"], 1)
        engine.load_state_dict({"iteration": state["iteration"], "epoch_length": length, "max_epochs": state["epoch"]})


class _Learning(Search):
    """A search whose point is what the generator makes, and whose move is a step of its weights."""

    def __init__(self, training: GeneratorTraining) -> None:
        self.training = training

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        return _LearningRun(bound, steps, self.training)


class _LearningRun(SearchRun):
    def __init__(self, bound: BoundPerturbation, steps: int, training: GeneratorTraining) -> None:
        super().__init__(bound, steps)
        self.training = training
        self.drop: torch.Tensor | None = None

    def first(self, parameters: Parameters) -> Parameters:
        image, drops = self.bound.scene.image, self.training.settings.drops
        if drops is not None:
            low, high = drops
            draws = [torch.rand((), generator=one, device=image.device) for one in self.generators]
            self.drop = (low + (high - low) * torch.stack(draws)).to(image)
        network = self.training.generator
        with torch.enable_grad():
            self.made = made_by(network, self.bound, self.generators, self.drop)
        # A drop is measured from the clean image, which is asked about first.
        return self.bound.zeros() if drops is not None else self._point()

    def _point(self) -> Parameters:
        return tuple(part.detach() for part in self.made.parameters)

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        upward = torch.ones_like(values)
        if self.drop is not None and step == 0:
            self.clean = values
            return self._point()
        if self.drop is not None:
            upward = ((self.clean + self.drop.to(values) - values) / NEAR).clamp(-1, 1)
        with torch.enable_grad():
            self.training.update(self.bound, self.made, gradients, values, upward)
        return parameters


def fit_generator(
    attack: Attack,
    training: GeneratorTraining,
    model: AttackedModel | Callable[..., Any],
    cases: Sequence[Case],
    epochs: int,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
) -> list[dict[str, float]]:
    """Train a generator against a model, with an Ignite engine.

    The gradient by the parameters comes from the attack's own estimator, so that a generator is trained in windows, by
    queries or against surrogates as any attack is. Each iteration is one forward and one backward pass of the model
    for each sample; with a prescribed drop two.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.generators import FeedForward, GeneratorTraining, Settings, fit_generator
    >>> from monai_adversarial.networks import PerturbationGenerator, patch_discriminator
    >>> model, image, label = example_case(16)
    >>> generator = PerturbationGenerator([1], channels=(2, 4))
    >>> training = GeneratorTraining(generator, patch_discriminator(channels=2), Settings())
    >>> attack = Attack(AdditiveNoise(15, units="HU"), "dice", FeedForward(generator), steps=1)
    >>> history = fit_generator(attack, training, model, [(image, label)], epochs=2)
    >>> len(history), sorted(history[0])
    (2, ['discriminator', 'generator', 'objective', 'penalty'])

    Args:
        attack: perturbation, objective and gradient.
        training: networks and settings; its generator is trained in place.
        model: what is attacked; it stays as it is.
        cases: pairs of an image batch and its label (None: the network's own prediction).
        epochs: how often each case is seen in all, those before a checkpoint included.
        seed: of the order of the cases.
        checkpoint: file that is written after each epoch, and from which a training goes on where it exists.

    Returns:
        Means of each epoch; see ``GeneratorTraining.history``.

    Raises:
        ValueError: for no cases, and for a checkpoint of another number of them.
    """
    if len(cases) == 0:
        raise ValueError("cases must hold at least one pair of an image and its label, got none.")
    learning = copy.copy(attack)
    learning.search, learning.random_start = _Learning(training), True
    learning.steps = 1 if training.settings.drops is None else 2
    if attack.gradient.by_queries:
        learning.steps += 1  # the last step of a search by queries asks about the best point and moves nowhere
    known = AttackedModel.wrap(model)

    def learn(engine: Engine, case: Case) -> None:
        image, label = case
        training.label = None if label is None else torch.as_tensor(label)
        reference = "prediction" if label is None else "label"
        learning.perturb(known, image, label, reference=reference, stream=engine.state.iteration)

    engine = Engine(learn)
    path = None if checkpoint is None else Path(checkpoint)
    training.generator.train()
    if path is not None and path.is_file():
        training.load(path, engine)
    done = engine.state.epoch
    if done and engine.state.epoch_length != len(cases):
        raise ValueError(
            f"checkpoint {path} was written with {engine.state.epoch_length} cases, got {len(cases)}: train with the "
            "same ones."
        )
    shuffled = _Shuffled(cases, seed, done)
    engine.add_event_handler(Events.EPOCH_COMPLETED, training.finish_epoch)
    if path is not None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: training.save(path, engine))
    if done < epochs:
        engine.run(shuffled, max_epochs=epochs)
    training.generator.eval()
    return training.history


class _Shuffled:
    """The cases of one epoch after the other, each in an order of its own that only the seed decides."""

    def __init__(self, cases: Sequence[Case], seed: int, epoch: int) -> None:
        self.cases, self.seed, self.epoch = cases, seed, epoch

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        self.epoch += 1
        order = random.Random(f"{self.seed} {self.epoch}").sample(range(len(self.cases)), len(self.cases))
        return iter([self.cases[number] for number in order])
