# SPDX-License-Identifier: Apache-2.0
"""Adversarial training at the price of one attack step, and the check that it did not collapse."""

from __future__ import annotations

import copy
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer

from monai_adversarial.attacks import PGD, Attack
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.adversarial_training import AdversarialTraining
from monai_adversarial.handlers.base import check_attack
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.networks.dual_normalization import normalization
from monai_adversarial.utils.modules import frozen, modules_of, unwrap
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["FastAdversarialTraining"]


class FastAdversarialTraining(AdversarialTraining):
    """Fast adversarial training (Wong et al. 2020): one step of ``1.25 epsilon`` from a random start.

    Single-step training can overfit to its own attack all of a sudden (catastrophic overfitting): robustness against
    many steps falls to nothing within an epoch. After every ``check_interval`` epochs the epoch's last batch is
    attacked with ``check_attack``; where its mean foreground Dice fell by more than ``tolerance`` since the last check,
    the weights of that check come back and the training stops. A batch on which nothing can be checked (padding only,
    for example) is passed over with a warning.

    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import FastAdversarialTraining
    >>> fast = FastAdversarialTraining(8, "HU")
    >>> example_trainer([fast]).run()
    >>> fast.overfitted, 0 <= fast.robust_dice <= 1
    (False, True)

    Args:
        epsilon: radius of the L-infinity budget, in ``units``.
        units: ``"HU"``, ``"network"`` or ``"fraction"`` of the intensity window.
        model: see :class:`AdversarialTraining`.
        step_ratio: size of the step over epsilon.
        check_attack: what the check attacks with; None for PGD with 10 steps and the same budget.
        check_interval: epochs between checks; 0 for no check.
        tolerance: loss of Dice, as an absolute difference, that counts as collapse.
        objective: of both attacks; see :class:`~monai_adversarial.attacks.Attack`.
        options: further arguments of :class:`AdversarialTraining`.

    Attributes:
        overfitted: the check stopped the training.
        robust_dice: Dice of the last check; None before the first.

    Raises:
        TypeError, ValueError: for arguments or an engine that do not fit.

    Source: Wong et al. 2020, "Fast is better than free"; Dice instead of accuracy in the check is a reconstruction.

    Survey entry: D07 (adapted).
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        model: Told = None,
        *,
        step_ratio: float = 1.25,
        check_attack: Attack | None = None,
        check_interval: int = 1,
        tolerance: float = 0.2,
        objective: Any = "dice_ce",
        **options: Any,
    ) -> None:
        check_positive("epsilon", epsilon)
        check_positive("step_ratio", step_ratio)
        attack = PGD(epsilon, units, steps=1, step_size=step_ratio * epsilon, objective=objective)
        super().__init__(attack, model, **options)
        self.check_interval = check_count("check_interval", check_interval, minimum=0)
        self.tolerance = check_fraction("tolerance", tolerance)
        self.check_attack = (
            PGD(epsilon, units, steps=10, objective=objective) if check_attack is None else _checked(check_attack)
        )
        self.overfitted = False
        self.robust_dice: float | None = None
        self._weights: dict[str, Any] | None = None
        self._last: Batch | None = None

    def describe(self) -> str:
        """What it will do."""
        if not self.check_interval:
            return f"{super().describe()}, without a check for catastrophic overfitting"
        return (
            f"{super().describe()}, stops when the Dice under {self.check_attack.steps} steps falls by more than "
            f"{self.tolerance:g} in {self.check_interval} epoch(s)"
        )

    def attach(self, engine: Engine) -> None:
        """Join a trainer; see :class:`AdversarialTraining`."""
        super().attach(engine)
        if self.check_interval:
            event = Events.EPOCH_COMPLETED(every=self.check_interval)
            self._removable.append(engine.add_event_handler(event, self.check))

    def started(self, engine: SupervisedTrainer) -> None:
        """Do not go on with a training that the check has ended."""
        super().started(engine)
        if self.overfitted:
            engine.logger.warning(
                "FastAdversarialTraining: this training was stopped by its check: nothing is trained."
            )
            engine.terminate()

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Attack, and remember the clean batch for the check."""
        if self.check_interval:
            self._last = Batch.read(prepared)
        return super().prepare(engine, batchdata, prepared)

    def check(self, engine: SupervisedTrainer) -> None:
        """Attack the last batch with many steps; go back and stop where the network no longer resists."""
        if self._last is None or engine.state.epoch <= self.first_epoch:
            return
        robust = self._robust_dice_of(engine, self._last)
        if robust is None:
            return
        engine.state.metrics["robust_train_dice"] = robust
        if self.robust_dice is not None and robust < self.robust_dice - self.tolerance and self._weights is not None:
            unwrap(engine.network).load_state_dict(self._weights)
            self.overfitted = True
            engine.logger.warning(
                f"FastAdversarialTraining: catastrophic overfitting in epoch {engine.state.epoch} (Dice under "
                f"{self.check_attack.steps} steps {self.robust_dice:.3f} -> {robust:.3f}): the weights of the check "
                "before are restored and the training stops."
            )
            engine.terminate()
            return
        self.robust_dice = robust
        self._weights = copy.deepcopy(unwrap(engine.network).state_dict())

    def _robust_dice_of(self, engine: SupervisedTrainer, batch: Batch) -> float | None:
        """Mean Dice of a batch under the check's attack, of all processes; None where no sample has one."""
        model, why = self.model_for(batch), "it has no foreground"
        mean = torch.zeros((), device=batch.image.device)
        counts = torch.zeros_like(mean)
        try:
            with frozen(modules_of(model.network)), normalization(model.network, "adversarial"):
                dice = as_plain(self.check_attack(model, batch.image, batch.label).adversarial_score).to(mean)
            if not bool(dice.isnan().all()):
                mean, counts = dice.nanmean(), counts + 1
        except (ValueError, RuntimeError) as error:  # of one batch: the training has seen others
            why = str(error)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # All ranks must decide the same.
            torch.distributed.all_reduce(mean)
            torch.distributed.all_reduce(counts)
        if not float(counts):
            engine.logger.warning(
                f"FastAdversarialTraining: epoch {engine.state.epoch} was not checked for catastrophic overfitting: "
                f"its last batch cannot be attacked ({why})"
            )
            return None
        return float(mean / counts)

    def state_dict(self) -> dict[str, Any]:
        """The last check."""
        return {
            **super().state_dict(),
            "robust_dice": self.robust_dice,
            "overfitted": self.overfitted,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the last check."""
        super().load_state_dict(state)
        self.robust_dice, self.overfitted = state["robust_dice"], state["overfitted"]
        self._weights = state["weights"]


def _checked(attack: Any) -> Attack:
    return check_attack(attack, "check_attack")
