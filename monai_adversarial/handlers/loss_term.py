# SPDX-License-Identifier: Apache-2.0
"""Losses that compare the network's answers to the clean and to the adversarial image."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.base import AdversarialTrainingHandler
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.inferers.outputs import map_outputs
from monai_adversarial.losses.voxelwise import VoxelwiseLoss
from monai_adversarial.models.raw_answer import as_logits
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["AdversarialLossTerm"]


class AdversarialLossTerm(AdversarialTrainingHandler):
    """Adds ``weight * loss_function(clean logits, adversarial logits, label)`` to the trainer's loss on clean batches.

    The trainer's batch, prediction and metrics stay clean. Logits of a geometrically attacked image are brought back to
    the clean anatomy before they are compared; a loss with a ``mask`` argument is told which voxels came from inside,
    one with an ``activation`` of None that of the model. Of a network that ends in softmax or sigmoid the loss gets the
    logits that belong to its probabilities.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import AdversarialLossTerm
    >>> from monai_adversarial.losses import TRADESLoss
    >>> trainer = example_trainer([AdversarialLossTerm(PGD(8, "HU", steps=2), TRADESLoss(beta=6.0))])
    >>> trainer.run()
    >>> trainer.state.output["loss"].item() > trainer.state.output["clean_loss"].item()
    True

    Args:
        attack: the attack, or several of which each iteration draws one.
        loss_function: called as above: ``TRADESLoss``, ``MARTLoss``, ``ConsistencyLoss``. With
            ``task_weight=0`` and a ``reference`` other than the label, batches need no label: it gets None then, as
            does the trainer's own loss function, which must stand that.
        model: the model under attack, or facts of it; None for the trainer's network behind its inferer. See
            :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        weight: weight of the term.
        task_weight: weight of the trainer's own loss; None for 1, or 0 where ``loss_function.replaces_task_loss``.
        reference: see ``Attack.perturb``; None for what the loss compares with: ``"probabilities"`` for ``TRADESLoss``
            and ``ConsistencyLoss``, else ``"label"``.
        options: ``probability``, ``first_epoch``, ``budget``, ``steps``, ``region_key``, ``seed`` of
            :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`.

    Raises:
        TypeError, ValueError: for arguments or an engine that do not fit.
    """

    def __init__(
        self,
        attack: Attack | list[Attack] | tuple[Attack, ...] | None,
        loss_function: Callable[..., torch.Tensor],
        model: Told = None,
        *,
        weight: float = 1.0,
        task_weight: float | None = None,
        reference: str | None = None,
        **options: Any,
    ) -> None:
        if not callable(loss_function) or isinstance(loss_function, type):
            raise TypeError(f"loss_function must be a loss object, got {_name(loss_function)}.")
        if reference is None:
            reference = getattr(loss_function, "attack_reference", "label")
        super().__init__(attack, model, reference=reference, **options)
        self.loss_function = loss_function
        self.weight = check_positive("weight", weight)
        if task_weight is None:
            task_weight = 0.0 if getattr(loss_function, "replaces_task_loss", False) else 1.0
        self.task_weight = check_positive("task_weight", task_weight, allow_zero=True)
        function = loss_function.forward if isinstance(loss_function, nn.Module) else loss_function
        signature = inspect.signature(function)
        try:
            signature.bind_partial(None, None, None)
        except TypeError:
            raise TypeError(
                "loss_function must take (clean logits, adversarial logits, label), as TRADESLoss does, got "
                f"{type(loss_function).__name__}{signature}."
            ) from None
        self._takes_mask = "mask" in signature.parameters

    def describe(self) -> str:
        """What it will do."""
        term = f"{self.weight:g} {type(self.loss_function).__name__}(clean, adversarial)"
        return f"{super().describe()}, minimizes {self.task_weight:g} loss(clean) + {term}"

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Attack, and keep the result for the loss."""
        self.batch = self.perturbed = None
        attack = self.attack_of(engine)
        if attack is not None:
            needs_label = self.reference == "label" or self.task_weight > 0
            self.batch = Batch.read(prepared, label_required=needs_label)
            self.perturbed = self.perturb(engine, attack, batchdata, self.batch)
        return prepared

    def started(self, engine: SupervisedTrainer) -> None:
        """Refuse a loss that reads the network's answer in another way than the attack does."""
        super().started(engine)
        self.tell_activation()

    def tell_activation(self) -> None:
        """The loss must read the network's answer as the attack does.

        Raises:
            ValueError: where both were told, and differ.
        """
        assert self.model is not None
        known = self.model.activation or self.model.found_activation
        if known is None or not isinstance(self.loss_function, VoxelwiseLoss):
            return
        if self.loss_function.activation is None:
            self.loss_function.activation = known
        elif self.loss_function.activation != known:
            raise ValueError(
                f"the loss has activation={self.loss_function.activation!r}, but the model has {known!r}: leave the "
                "loss's out."
            )

    def logits_of(self, outputs: Any) -> Any:
        """The network's outputs as logits, also those of one that ends in an activation."""
        assert self.model is not None
        return map_outputs(partial(as_logits, self.model), map_outputs(as_plain, outputs))

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Add the term."""
        if self.batch is None or self.perturbed is None:
            return
        self.tell_activation()
        task = as_plain(engine.state.output[CommonKeys.LOSS])
        prediction = engine.state.output[CommonKeys.PRED]
        if isinstance(prediction, torch.Tensor) and prediction.ndim != self.batch.image.ndim:
            raise ValueError(
                f"the network's output has {prediction.ndim} dimensions for an image of {self.batch.image.ndim}: "
                "unbind the levels of deep supervision into a list, for example outputs.unbind(1)."
            )
        term = self.term(engine, prediction, self.adversarial_outputs(engine))
        loss = self.weight * term if self.task_weight == 0 else self.task_weight * task + self.weight * term
        self.replace_loss(engine, loss, clean_loss=task, adversarial_loss=term)

    def adversarial_outputs(self, engine: SupervisedTrainer) -> Any:
        """What the network says to the adversarial image, in the clean image's geometry."""
        assert self.batch is not None and self.perturbed is not None
        outputs = self.logits_of(self.forward(engine, self.batch, self.perturbed.adversarial))
        if not self.perturbed.bound.geometric:
            return outputs
        size = self.batch.image.shape[2:]

        def back(logits: torch.Tensor) -> torch.Tensor:
            if logits.shape[2:] != size:
                raise ValueError(
                    f"a geometric attack needs logits on the image's grid {tuple(size)} to bring them back, got "
                    f"{tuple(logits.shape[2:])} (deep supervision): use an intensity attack or AdversarialTraining."
                )
            logits = logits if logits.dtype == torch.float64 else logits.float()
            return self.perturbed.pull_back(logits)  # type: ignore[union-attr]

        return map_outputs(back, outputs)

    def term(self, engine: SupervisedTrainer, clean: Any, adversarial: Any) -> torch.Tensor:
        """The loss function's value."""
        assert self.batch is not None and self.perturbed is not None
        options: dict[str, Any] = {"mask": self.perturbed.pulled_from_inside()} if self._takes_mask else {}
        label = self.batch.label
        label = as_plain(label) if isinstance(label, torch.Tensor) else label
        return self.loss_function(self.logits_of(clean), adversarial, label, **options).mean()


def _name(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
