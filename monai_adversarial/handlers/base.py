# SPDX-License-Identifier: Apache-2.0
"""What the handlers of adversarial training share: where they sit in the trainer, what they check, what they draw."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbed import REFERENCES, Perturbed
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.engines.batch import Batch, batch_region, check_sees_as_network, check_trains
from monai_adversarial.engines.unmet import Unmet
from monai_adversarial.handlers.engine_model import (
    Told,
    check_told,
    inference_of,
    learned_logits,
    model_of,
    told_argument,
)
from monai_adversarial.handlers.reference_network import frozen_outputs
from monai_adversarial.handlers.schedules import Schedule, chance
from monai_adversarial.handlers.training_checks import (
    check_finite_weights,
    is_nan_loss,
    warn_of_nan_loss,
    warn_of_unequal_ranks,
)
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.networks.dual_normalization import dual_normalizations, has_dual_normalization, normalization
from monai_adversarial.utils.allocator import keep_freed_memory
from monai_adversarial.utils.modules import bare_network, unwrap
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_count, check_fraction

__all__ = ["AdversarialTrainingHandler", "TrainingHandler", "check_attack"]


def check_attack(attack: Any, name: str = "attack") -> Attack:
    """The attack itself, if a training can use it.

    Raises:
        TypeError: for something else than an attack.
        ValueError: for one that would help the network.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"{name} must be a monai_adversarial.attacks.Attack, got {type(attack).__name__}.")
    check_trains(attack, name)
    return attack


class InstalledPrepareBatch(PrepareBatch):
    """The trainer's ``prepare_batch`` while a handler is attached."""

    def __init__(self, handler: TrainingHandler, engine: SupervisedTrainer, inner: Callable[..., Any]) -> None:
        self.handler, self.engine, self.inner = handler, engine, inner

    def __call__(
        self, batchdata: Any, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> Any:
        """Prepare the batch and hand it to the handler."""
        prepared = self.inner(batchdata, device, non_blocking, **kwargs)
        self.handler.prepared_batches += 1
        self.handler._unmet.met()
        return self.handler.prepare(self.engine, batchdata, prepared)


def _same_device(one: torch.device, other: torch.device) -> bool:
    indices = {one.index, other.index} - {None}
    return one.type == other.type and len(indices) < 2


class TrainingHandler(ABC):
    """A handler that changes what a ``SupervisedTrainer`` trains on.

    ``attach`` puts it around the trainer's ``prepare_batch`` (the batch is collated, on the device, and the gradients
    of the last step are about to be cleared) and on ``LOSS_COMPLETED`` (where terms join the loss, under the trainer's
    autocast). ``detach`` takes it out again.

    Args:
        model: the model under attack. None: the trainer's network behind its inferer, which a handler list does not
            know yet. A mapping of arguments of ``AttackedModel`` (in a config ``model: {intensity: {a_min: -160, a_max:
            240}}``) adds facts to it. An ``AttackedModel`` is taken as it is, with the trainer's inferer if it has
            none; a network takes the place of the trainer's.

    Attributes:
        model: the whole model; None until the trainer starts.

    Raises:
        TypeError, ValueError: for a model that cannot be, or that does not see the image as the trained network does.
    """

    def __init__(self, model: Told = None) -> None:
        self.told = check_told(model)
        network = told_argument(self.told, "network")
        if network is not None and not isinstance(network, nn.Module):
            raise TypeError(f"the network of model must be a torch.nn.Module, got {type(network).__name__}.")
        check_sees_as_network(told_argument(self.told, "image_units"), told_argument(self.told, "intensity"))
        self.model: AttackedModel | None = None
        self.prepared_batches = 0
        self._unmet = Unmet(type(self).__name__)
        self._attached = self._said_nan = False
        self._memory: weakref.finalize[..., Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Join a trainer.

        Raises:
            TypeError: for an engine that does not train.
            ValueError: for a trainer whose batch another handler changes already, and a network on another device.
        """
        name = type(self).__name__
        if not isinstance(engine, SupervisedTrainer):
            raise TypeError(f"{name} must be attached to a monai SupervisedTrainer, got {type(engine).__name__}.")
        if self._attached:
            raise ValueError(f"this {name} is attached to a trainer already: make one for each trainer.")
        present = engine.prepare_batch
        if isinstance(present, (InstalledPrepareBatch, PrepareBatchAdversarial)):
            other = present.handler if isinstance(present, InstalledPrepareBatch) else present
            raise ValueError(
                f"{type(other).__name__} already changes this trainer's batch and {name} would change it again: attach "
                "one of them (a Chain or AdversarialTraining with several attacks combines attacks)."
            )
        self._check_device(engine)
        self._attached = True
        engine.prepare_batch = InstalledPrepareBatch(self, engine, present)
        self._removable = [
            engine.add_event_handler(Events.STARTED, self._keep_memory),
            engine.add_event_handler(Events.COMPLETED, self._give_memory_back),
            engine.add_event_handler(Events.TERMINATE, self._give_memory_back),
            engine.add_event_handler(Events.STARTED, self.started),
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.loss_completed),
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed),
        ]
        engine.logger.info(f"{name}: {self.describe()}")

    def detach(self, engine: SupervisedTrainer) -> None:
        """Leave the trainer as it was before ``attach``."""
        if isinstance(engine.prepare_batch, InstalledPrepareBatch) and engine.prepare_batch.handler is self:
            engine.prepare_batch = engine.prepare_batch.inner
            for removable in self._removable:
                removable.remove()
            self._give_memory_back()
            self._attached = False

    def _keep_memory(self, engine: SupervisedTrainer) -> None:
        """Attack and training step use the same memory in turn: neither hands it back to the system in between."""
        self._give_memory_back()
        memory = ExitStack()
        memory.enter_context(keep_freed_memory(engine.state.device))
        # Not on EXCEPTION_RAISED: a handler there would have to raise, before those that save a checkpoint.
        self._memory = weakref.finalize(engine, memory.close)

    def _give_memory_back(self) -> None:
        if self._memory is not None:
            self._memory()

    def started(self, engine: SupervisedTrainer) -> None:
        """Check what is known only when the trainer runs."""
        name = type(self).__name__
        present = engine.prepare_batch
        if not isinstance(present, InstalledPrepareBatch) or present.handler is not self:
            raise ValueError(
                f"the trainer's prepare_batch was replaced by {type(present).__name__} after {name} was attached: "
                "it would train on clean batches. Set prepare_batch first."
            )
        self._check_device(engine)
        check_finite_weights(engine.network, name)
        warn_of_unequal_ranks(engine.network, engine.state.epoch_length, name)
        self.prepared_batches = 0
        self.model = model_of(engine, self.told)
        check_sees_as_network(self.model.image_units, self.model.intensity)
        engine.logger.info(f"{name}: {', '.join(self.model.facts) or repr(self.model)}")
        if not self.attacks_what_is_trained(engine):
            engine.logger.warning(
                f"{name}: the network of model= is not the one that the trainer trains: the attack is a transfer "
                "attack."
            )

    def attacks_what_is_trained(self, engine: SupervisedTrainer) -> bool:
        """Whether the model's network is the trainer's, also behind wrappers."""
        assert self.model is not None
        return bare_network(self.model.network) is bare_network(engine.network)

    def iteration_completed(self, engine: SupervisedTrainer) -> None:
        """Stop a training whose iterations pass the handler by: it would be a clean one.

        Raises:
            RuntimeError: where the iteration prepared no batch.
        """
        self.check_prepared(engine)
        self.prepared_batches = 0
        if not self._said_nan and is_nan_loss(engine.state.output):
            self._said_nan = True
            warn_of_nan_loss(engine.state.iteration, type(self).__name__)

    def check_prepared(self, engine: SupervisedTrainer) -> None:
        """Raise RuntimeError where the present iteration has prepared no batch."""
        if not self.prepared_batches:
            raise RuntimeError(
                f"the trainer's iteration_update did not call engine.prepare_batch in iteration "
                f"{engine.state.iteration}, so {type(self).__name__} could not change the batch: call it as "
                "SupervisedTrainer does."
            )

    def model_for(self, batch: Batch) -> AttackedModel:
        """The model under attack with the further inputs of a batch."""
        assert self.model is not None
        return self.model.with_arguments(batch.args, batch.kwargs)

    def _check_device(self, engine: SupervisedTrainer) -> None:
        network, device = self.network_of(engine), engine.state.device
        weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        if weight is not None and device is not None and not _same_device(weight.device, torch.device(device)):
            raise ValueError(
                f"the network of {type(self).__name__} is on {weight.device} but the trainer works on {device}: "
                "move it."
            )

    def network_of(self, engine: SupervisedTrainer) -> Any:
        """The attacked network without ``DistributedDataParallel``; None before the trainer knows it."""
        given = told_argument(self.told, "network")
        return unwrap(given if given is not None else getattr(engine, "network", None))

    @abstractmethod
    def describe(self) -> str:
        """One line that says what the handler will do."""

    @abstractmethod
    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Change the prepared batch."""

    def loss_completed(self, engine: SupervisedTrainer) -> None:  # noqa: B027  (a handler may have no term)
        """Add terms to ``engine.state.output["loss"]``."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on as if nothing had happened."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  (or no state)
        """Take up what ``state_dict`` gave."""


class AdversarialTrainingHandler(TrainingHandler):
    """A handler that attacks the batch.

    Args:
        attack: the attack, or several of which each iteration draws one with equal chances.
        model: see :class:`TrainingHandler`.
        probability: share of the iterations that attack; the others train on the clean batch.
        first_epoch: epochs that train on clean batches before the first attack.
        budget: schedule of the factor by which the attack's budget is multiplied (its step with it); None for 1. Where
            it is 0 the batch stays clean.
        steps: schedule of the number of steps, rounded; None for the attack's own.
        reference: what the attack wants to leave: see ``Attack.perturb``.
        region_key: batch key of a mask of the voxels that may change.
        seed: of the draws of attacks and iterations.
    """

    #: None is no attack that a handler of this kind can work with
    attack_required = True
    #: a term joins the loss of every batch, attacked or not
    always_joins = False

    def __init__(
        self,
        attack: Attack | list[Attack] | tuple[Attack, ...] | None,
        model: Told = None,
        *,
        probability: float = 1.0,
        first_epoch: int = 0,
        budget: Schedule | None = None,
        steps: Schedule | None = None,
        reference: str = "label",
        region_key: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        attacks = tuple(attack) if isinstance(attack, (list, tuple)) else (attack,)
        if attack is None and not self.attack_required:
            attacks = ()
        elif not attacks:
            raise ValueError("attack must be an attack or several, got none.")
        self.attacks = tuple(check_attack(one) for one in attacks)
        self.probability = check_fraction("probability", probability)
        self.first_epoch = check_count("first_epoch", first_epoch, minimum=0)
        for name, schedule in (("budget", budget), ("steps", steps)):
            if schedule is not None and not callable(schedule):
                raise TypeError(f"{name} must be a schedule (epoch, iteration) -> value or None, got {schedule!r}.")
        self.budget, self.steps = budget, steps
        self.reference = check_choice("reference", reference, REFERENCES)
        self.region_key = region_key
        self.seed = check_count("seed", seed, minimum=0)
        # KL of an answer from itself has no gradient: a step from there goes where rounding errors point.
        weak = [attack for attack in self.attacks if not attack.random_start]
        if self.reference == "probabilities" and weak:
            raise ValueError(
                "reference='probabilities' needs attacks with random_start=True: at the clean image the divergence "
                f"from the clean answer has no gradient, got {type(weak[0]).__name__} without."
            )
        if self.probability == 0:
            raise ValueError("probability must be above 0: with 0 no iteration would be attacked.")
        self.batch: Batch | None = None
        self.perturbed: Perturbed | None = None
        self._joined = False
        self._iterations = self._attacked = 0

    def attach(self, engine: Engine) -> None:
        """Join a trainer; see :class:`TrainingHandler`."""
        super().attach(engine)
        self._removable += [
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._log_clean_iteration),
            engine.add_event_handler(Events.COMPLETED, self._say_what_was_attacked),
        ]

    @staticmethod
    def _log_clean_iteration(engine: SupervisedTrainer) -> None:
        """Handlers that log the adversarial loss find it in every iteration."""
        output = engine.state.output
        output.setdefault("adversarial_loss", torch.full_like(as_plain(output[CommonKeys.LOSS]).detach(), torch.nan))

    def expects_term(self) -> bool:
        """Whether the iteration's loss lacks something until ``loss_completed``."""
        return self.batch is not None and (self.always_joins or self.perturbed is not None)

    def iteration_completed(self, engine: SupervisedTrainer) -> None:
        """Stop a training whose iterations pass the handler by; one that never asked for the term was clean, too.

        Raises:
            RuntimeError: where the iteration prepared no batch, or fired no LOSS_COMPLETED.
        """
        super().iteration_completed(engine)
        self._iterations += 1
        self._attacked += self.perturbed is not None
        joined, self._joined = self._joined, False
        if self.expects_term() and not joined:
            raise RuntimeError(
                f"the trainer's iteration_update fired no LOSS_COMPLETED event, so {type(self).__name__} could not "
                "change the loss: fire IterationEvents.LOSS_COMPLETED as SupervisedTrainer does."
            )

    def _say_what_was_attacked(self, engine: SupervisedTrainer) -> None:
        """A training of which no iteration was attacked is no adversarial one, whatever its handlers are called."""
        if self.attacks and self._iterations and not self._attacked:
            engine.logger.warning(
                f"{type(self).__name__}: none of the {self._iterations} iterations was attacked, the training was "
                f"clean (probability {self.probability:g}, first_epoch {self.first_epoch}, budget {self.budget!r})."
            )

    def started(self, engine: SupervisedTrainer) -> None:
        """Refuse what ``DistributedDataParallel`` would only answer with an error about unused parameters."""
        super().started(engine)
        self._iterations = self._attacked = 0
        network = engine.network
        trained = {id(weight) for group in engine.optimizer.param_groups for weight in group["params"]}
        for layer in dual_normalizations(network):
            if any(weight.requires_grad and id(weight) not in trained for weight in layer.parameters()):
                raise ValueError(
                    "the optimizer does not know all weights of the network's dual normalization: build it after "
                    "convert_dual_normalization."
                )
        if isinstance(network, nn.parallel.DistributedDataParallel) and has_dual_normalization(network):
            if self.probability < 1 or self.first_epoch or self.budget is not None or network.find_unused_parameters:
                raise ValueError(
                    "dual normalization in DistributedDataParallel needs both branches in every iteration: "
                    "probability=1, first_epoch=0, budget=None and find_unused_parameters=False."
                )

    def describe(self) -> str:
        """The attacks, how often, and how strong."""
        often = "every iteration" if self.probability == 1 else f"{self.probability:.0%} of the iterations"
        parts = [f"attacks {often} with {' or '.join(map(repr, self.attacks))}"]
        if self.first_epoch:
            parts.append(f"after {self.first_epoch} clean epochs")
        if self.budget is not None:
            parts.append(f"budget times {self.budget!r}")
        if self.steps is not None:
            parts.append(f"steps {self.steps!r}")
        return ", ".join(parts)

    def attack_of(self, engine: SupervisedTrainer) -> Attack | None:
        """The attack of this iteration; None where the batch stays clean."""
        iteration, epoch = engine.state.iteration, engine.state.epoch
        if not self.attacks or epoch <= self.first_epoch or chance(self.seed, iteration, 1) >= self.probability:
            return None
        attack = self.attacks[int(chance(self.seed, iteration, 2) * len(self.attacks))]
        length = engine.state.epoch_length
        passed = (iteration - 1) / length if length else float(epoch - 1)
        budget = 1.0 if self.budget is None else float(self.budget(passed, iteration))
        if budget == 0:
            return None
        steps = attack.steps if self.steps is None else max(round(self.steps(passed, iteration)), 1)
        return attack if budget == 1 and steps == attack.steps else attack.scaled(budget, steps)

    def perturb(
        self, engine: SupervisedTrainer, attack: Attack, batchdata: Any, batch: Batch, **options: Any
    ) -> Perturbed:
        """Attack a batch with the network as the adversarial branch of its normalization sees it."""
        model = self.model_for(batch)
        network = unwrap(model.network)
        options.setdefault("reference", self.reference)
        if options["reference"] != "label" and "probabilities" not in options and has_dual_normalization(network):
            # What is to be left is the answer to the clean image, which the clean branch gives.
            options["probabilities"] = _clean_answer(model, batch.image, options["reference"])
        options.setdefault("region", batch_region(batchdata, self.region_key, batch.image))
        with normalization(network, "adversarial"):
            return attack.perturb(model, batch.image, batch.label, stream=engine.state.iteration, **options)

    @staticmethod
    def forward(engine: SupervisedTrainer, batch: Batch, image: torch.Tensor, domain: str = "adversarial") -> Any:
        """The trainer's own forward pass on another image; past ``DistributedDataParallel``, whose gradients are
        averaged all the same, because a second pass through it would overwrite the buffers of the first."""
        network = unwrap(engine.network)
        with normalization(network, domain):
            return engine.inferer(as_plain(image), network, *batch.args, **batch.kwargs)

    def replace_loss(self, engine: SupervisedTrainer, loss: torch.Tensor, **parts: torch.Tensor) -> None:
        """Hand the trainer another loss; ``parts`` become numbers in its output, for logging."""
        self._joined = True
        engine.state.output[CommonKeys.LOSS] = loss
        for name, part in parts.items():
            engine.state.output[name] = part.detach()


def _clean_answer(model: AttackedModel, image: torch.Tensor, reference: str) -> torch.Tensor:
    """Probabilities (or the one-hot prediction) of the clean branch, in evaluation mode."""
    network = unwrap(model.network)
    with normalization(network, "clean"):
        logits = learned_logits(model, frozen_outputs(network, image, inference_of(model))).float()
    sigmoid = model.activation_of(logits.shape[1]) == "sigmoid"
    if reference == "probabilities":
        return logits.sigmoid() if sigmoid else logits.softmax(dim=1)
    if sigmoid:
        return (logits > 0).to(logits.dtype)
    return torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
