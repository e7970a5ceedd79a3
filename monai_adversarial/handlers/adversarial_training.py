# SPDX-License-Identifier: Apache-2.0
"""Adversarial training as a handler."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.base import AdversarialTrainingHandler
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.networks.dual_normalization import has_dual_normalization
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_fraction

__all__ = ["AdversarialTraining"]


class AdversarialTraining(AdversarialTrainingHandler):
    """Makes the training of a ``SupervisedTrainer`` adversarial; loss, inferer, AMP and schedulers stay its own.

    Each iteration minimizes ``(1 - w) * loss(clean) + w * loss(adversarial)`` with the trainer's loss function and
    ``w = adversarial_weight``. With ``w = 1`` (Madry et al. 2018) the adversarial batch takes the place of the clean
    one: ``state.batch`` is clean, ``state.output["image"]`` adversarial. Otherwise the clean batch stays and the second
    term joins on ``LOSS_COMPLETED``. Geometric attacks move the label too. A network with dual normalization
    (``convert_dual_normalization``) runs each term through its own branch. The attack sees the network in evaluation
    mode and leaves weights, gradients and statistics as they were; numbers for logging are
    ``state.output["adversarial_loss"]`` and, for ``w < 1``, ``["clean_loss"]``.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import AdversarialTraining
    >>> trainer = example_trainer([AdversarialTraining(PGD(16, "HU", steps=2), adversarial_weight=0.5)])
    >>> trainer.run()
    >>> float(trainer.state.output["adversarial_loss"]) > float(trainer.state.output["clean_loss"])
    True

    Args:
        attack: the attack, or several of which each iteration draws one.
        model: the model under attack, or facts of it; None for the trainer's network behind its inferer. See
            :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        adversarial_weight: w, above 0 and at most 1 (0.5 is the mixture of Goodfellow et al. 2015).
        warm_start: begin each attack at the parameters of the batch before, row by row, where their shapes fit, instead
            of at random: fewer steps reach as far once the perturbations of different images resemble each other.
        options: ``probability``, ``first_epoch``, ``budget``, ``steps``, ``region_key``, ``seed`` of
            :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`. With ``probability=0.5``,
            ``budget=UniformSchedule(0.25, 1, seed=1)`` and ``steps=UniformSchedule(1, 9, seed=2)`` it is the
            multi-perturbation training of Xu et al. 2021.

    Raises:
        TypeError, ValueError: for arguments, an engine or a network that does not fit, when it is attached or when the
            trainer starts.

    Source: Madry et al. 2018 for w = 1, Goodfellow et al. 2015 for the mixture.

    Survey entry: D01 (adapted), D02 (adapted), D03 (adapted).
    """

    def __init__(
        self,
        attack: Attack | list[Attack] | tuple[Attack, ...],
        model: Told = None,
        *,
        adversarial_weight: float = 1.0,
        warm_start: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(attack, model, **options)
        self.adversarial_weight = check_fraction("adversarial_weight", adversarial_weight)
        if self.adversarial_weight == 0:
            raise ValueError("adversarial_weight must be above 0: with 0 the training would be clean.")

        self.warm_start = bool(warm_start)
        if self.warm_start and len(self.attacks) > 1:
            raise ValueError(f"warm_start needs one attack to go on with, got {len(self.attacks)}.")
        self._last_parameters: dict[str, Parameters] = {}

    def describe(self) -> str:
        """What it will do."""
        weight = self.adversarial_weight
        loss = "loss(adversarial)" if weight == 1 else f"{1 - weight:g} loss(clean) + {weight:g} loss(adversarial)"
        return f"{super().describe()}, minimizes {loss}"

    def started(self, engine: SupervisedTrainer) -> None:
        """Refuse a network whose clean branch would never be trained."""
        super().started(engine)
        if self.adversarial_weight == 1 and has_dual_normalization(self.network_of(engine)):
            raise ValueError(
                "the network has dual normalization, but adversarial_weight=1 trains on no clean batch: pass "
                "adversarial_weight below 1, for example 0.5."
            )

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Attack; hand the adversarial batch over, or keep it for the second term."""
        self.batch = self.perturbed = None
        attack = self.attack_of(engine)
        if attack is None:
            return prepared
        self.batch = Batch.read(prepared)
        options: dict[str, Any] = {}
        # One perturbation has parameters of one shape on images of one shape.
        kind = str(tuple(self.batch.image.shape))
        if self.warm_start and kind in self._last_parameters:
            options["start"] = tuple(part.to(self.batch.image.device) for part in self._last_parameters[kind])
        self.perturbed = self.perturb(engine, attack, batchdata, self.batch, **options)
        if self.warm_start:
            self._last_parameters[kind] = self.perturbed.parameters
        if self.adversarial_weight == 1:
            return (self.perturbed.adversarial, self.perturbed.label, *prepared[2:])
        return prepared

    def expects_term(self) -> bool:
        """A replaced batch needs no term."""
        return self.adversarial_weight < 1 and super().expects_term()

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Mix the losses."""
        if self.batch is None or self.perturbed is None:
            return
        loss = engine.state.output[CommonKeys.LOSS]
        if self.adversarial_weight == 1:
            self.replace_loss(engine, loss, adversarial_loss=loss)
            return
        weight, label = self.adversarial_weight, self.perturbed.label
        outputs = self.forward(engine, self.batch, self.perturbed.adversarial)
        label = as_plain(label) if isinstance(label, torch.Tensor) else label
        adversarial = engine.loss_function(outputs, label).mean()
        mixed = (1 - weight) * as_plain(loss) + weight * adversarial
        self.replace_loss(engine, mixed, clean_loss=as_plain(loss), adversarial_loss=adversarial)

    def state_dict(self) -> dict[str, Any]:
        """Where the next attacks begin, for ``warm_start``."""
        return {"last": {kind: list(parameters) for kind, parameters in self._last_parameters.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there."""
        self._last_parameters = {kind: tuple(parameters) for kind, parameters in state.get("last", {}).items()}
