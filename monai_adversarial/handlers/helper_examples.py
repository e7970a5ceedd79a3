# SPDX-License-Identifier: Apache-2.0
"""Helper-based adversarial training as a handler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.handlers.engine_model import Told, inference_of
from monai_adversarial.handlers.loss_term import AdversarialLossTerm
from monai_adversarial.handlers.reference_network import ReferenceNetwork
from monai_adversarial.losses.hat import HATLoss
from monai_adversarial.networks.dual_normalization import collapse_dual_normalization
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["HelperAdversarialTraining"]


class HelperAdversarialTraining(AdversarialLossTerm):
    """Helper-based adversarial training (HAT): robustness with less loss of accuracy on clean images.

    Each iteration minimizes ``task_weight * loss(clean) + beta * KL(f(x) || f(x')) + gamma * CE(f(x + h * (x' - x)),
    argmax f_standard(x'))``. The helper example lies further along the attack's direction than x' and gets the label
    that a network trained without attacks sees in x'. So the decision boundary does not move further away from
    the clean images than robustness needs. It may lie outside the intensity window, as in the paper. The trainer's
    batch and prediction stay clean; the iteration costs two more forward passes of the network with gradient.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import HelperAdversarialTraining
    >>> helper = HelperAdversarialTraining(PGD(8, "HU", steps=2), standard_network=ExampleNetwork())
    >>> trainer = example_trainer([helper])
    >>> trainer.run()
    >>> sorted(name for name in trainer.state.output if name.endswith("_loss"))
    ['adversarial_loss', 'clean_loss']

    Args:
        attack: the attack on intensities, or several of which each iteration draws one.
        standard_network: f_standard, on the network's device; it stays as it is. None for a copy of the trained
            network's architecture with ``standard_weights``.
        model: the model under attack, or facts of it; None for the trainer's network behind its inferer. See
            :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        standard_weights: checkpoint of f_standard; None where ``standard_network`` has its weights.
        helper_scale: h > 0.
        beta: weight of the regularizer of TRADES.
        gamma: weight of the helper term.
        task_weight: weight of the trainer's own loss.
        balanced: every class of a sample has the same weight in both terms, so that small organs count.
        options: ``probability``, ``first_epoch``, ``budget``, ``steps``, ``region_key``, ``seed``, and ``reference``
            (here ``"probabilities"``, as in TRADES) of
            :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`.

    Raises:
        TypeError, ValueError: for arguments or an engine that do not fit, and in the first iteration for a geometric
            attack.
        FileNotFoundError, RuntimeError: for ``standard_weights`` that cannot be loaded.

    Source: Rade and Moosavi-Dezfooli 2022, "Reducing excessive margin to achieve a better accuracy vs. robustness
    trade-off", where the task loss is cross-entropy.

    Survey entry: D06 (adapted).
    """

    def __init__(
        self,
        attack: Attack | list[Attack] | tuple[Attack, ...],
        standard_network: nn.Module | None = None,
        model: Told = None,
        *,
        standard_weights: str | os.PathLike[str] | None = None,
        helper_scale: float = 3.5,
        beta: float = 6.0,
        gamma: float = 1.0,
        task_weight: float = 1.0,
        balanced: bool = False,
        **options: Any,
    ) -> None:
        loss = HATLoss(beta, gamma, task_weight=0.0, balanced=balanced)
        options.setdefault("reference", "probabilities")
        super().__init__(attack, loss, model, task_weight=task_weight, **options)
        self.helper_scale = check_positive("helper_scale", helper_scale)
        self.standard: ReferenceNetwork | None = None
        self._standard_weights = standard_weights
        if standard_network is not None:
            self.standard = ReferenceNetwork(standard_network, standard_weights, "standard_network")
        elif standard_weights is None:
            raise ValueError(
                "HelperAdversarialTraining needs standard_network, a network trained without attacks, or "
                "standard_weights, its checkpoint, got None for both."
            )
        elif not Path(standard_weights).is_file():
            raise FileNotFoundError(f"standard_weights must be a checkpoint, but there is no file {standard_weights}.")

    def describe(self) -> str:
        """What it will do."""
        return f"{super().describe()} with helpers at {self.helper_scale:g} times the perturbation"

    def started(self, engine: SupervisedTrainer) -> None:
        """Make the standard network where only its weights are given."""
        if self.standard is None:
            copied = collapse_dual_normalization(self.network_of(engine))
            self.standard = ReferenceNetwork(copied, self._standard_weights, "standard_network")
        super().started(engine)

    def _check_device(self, engine: SupervisedTrainer) -> None:
        super()._check_device(engine)
        if self.standard is not None:
            self.standard.check(engine, self.network_of(engine))

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Attack, and keep the result for the loss."""
        prepared = super().prepare(engine, batchdata, prepared)
        if self.perturbed is not None and self.perturbed.bound.geometric:
            raise ValueError(
                "HelperAdversarialTraining needs an attack on intensities, got a geometric one: between images of "
                "moved anatomy there is no helper example."
            )
        return prepared

    def term(self, engine: SupervisedTrainer, clean: Any, adversarial: Any) -> torch.Tensor:
        """The regularizer and the helper term."""
        assert self.batch is not None and self.perturbed is not None and self.standard is not None
        image, attacked = as_plain(self.batch.image), as_plain(self.perturbed.adversarial)
        helper = self.logits_of(self.forward(engine, self.batch, image + self.helper_scale * (attacked - image)))
        model = self.model_for(self.batch)
        standard = self.standard.logits(attacked, inference_of(model, engine.inferer), model)
        label = self.batch.label if self.loss_function.balanced else None  # type: ignore[attr-defined]
        return self.loss_function(
            self.logits_of(clean), adversarial, label, helper_logits=helper, standard_logits=standard
        )
