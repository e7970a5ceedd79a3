# SPDX-License-Identifier: Apache-2.0
"""A penalty on how fast the loss changes with the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys, convert_to_dst_type
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.base import TrainingHandler
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.utils.modules import unwrap
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_image, check_positive

__all__ = ["InputGradientRegularization"]

METHODS = ("finite_difference", "exact")


class InputGradientRegularization(TrainingHandler):
    """Adds ``weight * mean over samples of ||gradient of the sample's loss with respect to its image||^2``.

    The trainer's loss function must be a mean over the batch: times the number of samples it is the sum of their
    losses, whose gradient holds each sample's own. (A loss that couples the samples, like ``DiceLoss(batch=True)`` or
    any loss behind BatchNorm, is treated the same way.) The norm depends on the number of voxels and on the loss's
    reduction, so the weight has to be tuned; from 0.01 to 1000 has been used.

    Methods, for batch loss L and the gradient G of the sum of the sample losses:

    - ``"exact"``: second derivatives by a backward pass through the backward pass; every layer must have them.
    - ``"finite_difference"``: ``((L(x + step * d) - L(x)) / step)^2`` with ``d = G / r``, where r is the root mean
      square of the samples' gradient norms (for one sample, the unit vector along its gradient). It equals the exact
      penalty as ``step`` goes to 0 and costs a backward pass to the image and one more forward pass, no second
      derivatives.

    Where activations have kinks (ReLU, PReLU) the two agree in value but not in the gradient of the weights. Second
    derivatives do not see the kinks, the finite difference counts those within its step, and does so with the more
    noise the smaller the step. With smooth activations the gradients agree too.

    The extra forward pass sees the same dropout masks as the trainer's, changes no running statistics of BatchNorm or
    tracking InstanceNorm layers, and leaves the random state as it was. Under AMP or ``torch.compile`` the penalty is
    computed apart from the trainer's forward pass, in float32 and eagerly, at the price of one more forward pass:
    16-bit numbers do not resolve the step, and compiled graphs have no second derivatives.

    ``state.output["input_gradient_penalty"]`` is the penalty without its weight, ``["clean_loss"]`` the loss without
    it.

    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import InputGradientRegularization
    >>> trainer = example_trainer([InputGradientRegularization(weight=0.1, method="exact")])
    >>> trainer.run()
    >>> trainer.state.output["input_gradient_penalty"].item() > 0
    True

    Args:
        weight: of the penalty.
        method: ``"finite_difference"`` or ``"exact"``.
        step: Euclidean length of the finite difference's step, per sample (root mean square over the batch), in the
            image's units.
        model: facts of the trainer's network: of its ``image_channels`` alone the gradient is penalized. None for the
            trainer's network with all its channels.

    Raises:
        TypeError, ValueError: for arguments, an engine or a batch that does not fit.

    Source: Ross & Doshi-Velez 2018, "Improving the adversarial robustness and interpretability of deep neural networks
    by regularizing their input gradients"; one direction for the whole batch in the finite difference is a
    reconstruction.

    Survey entry: D10 (adapted).
    """

    def __init__(
        self,
        weight: float,
        method: str = "finite_difference",
        step: float = 0.01,
        model: Told = None,
    ) -> None:
        super().__init__(model)
        self.weight = check_positive("weight", weight)
        self.method = check_choice("method", method, METHODS)
        self.step = check_positive("step", step)
        self._batch: Batch | None = None
        self._leaf: torch.Tensor | None = None
        self._random_state: list[torch.Tensor] = []

    def describe(self) -> str:
        """What it will do."""
        how = self.method if self.method == "exact" else f"finite difference with step {self.step:g}"
        return f"minimizes loss + {self.weight:g} ||gradient of the loss with respect to the image||^2 ({how})"

    @staticmethod
    def _apart(engine: SupervisedTrainer, image: torch.Tensor) -> bool:
        """Whether the trainer's own graph cannot serve the penalty."""
        compiled = _eager(engine.network) is not unwrap(engine.network)
        return compiled or engine.amp or torch.is_autocast_enabled(image.device.type)

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Make the image a leaf of the trainer's graph."""
        self._batch = Batch.read(prepared)
        image = self._batch.image
        check_image(image)
        self._leaf = as_plain(image).detach().requires_grad_(True)
        # The trainer's forward pass comes next: with this state the dropout masks can be drawn again.
        self._random_state = [torch.get_rng_state()]
        if image.is_cuda:
            self._random_state.append(torch.cuda.get_rng_state(image.device))
        if self._apart(engine, image):
            return prepared
        return (convert_to_dst_type(self._leaf, dst=image)[0], *prepared[1:])

    def iteration_completed(self, engine: SupervisedTrainer) -> None:
        """Stop a training whose iterations pass the handler by: it would have no penalty.

        Raises:
            RuntimeError: where the iteration prepared no batch, or fired no LOSS_COMPLETED.
        """
        super().iteration_completed(engine)
        if self._batch is not None:
            raise RuntimeError(
                "the trainer's iteration_update fired no LOSS_COMPLETED event, so InputGradientRegularization could "
                "not change the loss: fire IterationEvents.LOSS_COMPLETED as SupervisedTrainer does."
            )

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Add the penalty."""
        self.check_prepared(engine)
        assert self._batch is not None and self._leaf is not None
        batch, leaf, samples = self._batch, self._leaf, self._batch.image.shape[0]
        self._batch = self._leaf = None
        output = engine.state.output
        output[CommonKeys.IMAGE] = output[CommonKeys.IMAGE].detach()  # what comes later must not meet a graph
        task = as_plain(output[CommonKeys.LOSS])
        if self._apart(engine, leaf):
            here = self._loss_at(engine, batch, leaf)
        else:
            # Not the trainer's number, which others may have added to.
            here = as_plain(engine.loss_function(output[CommonKeys.PRED], _plain_label(batch)).mean())
        exact = self.method == "exact"
        (gradient,) = torch.autograd.grad(here * samples, leaf, create_graph=exact, retain_graph=True)
        model = self.model_for(batch)
        gradient = model.whole_image(model.image_part(gradient), torch.zeros_like(gradient))
        if exact:
            penalty = gradient.square().sum() / samples
        else:
            size = (gradient.square().sum() / samples).sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)
            there = self._loss_at(engine, batch, leaf.detach() + self.step / size * gradient)
            penalty = ((there - here) / self.step).square()
        output[CommonKeys.LOSS] = task + self.weight * penalty
        output["clean_loss"], output["input_gradient_penalty"] = task.detach(), penalty.detach()

    def _loss_at(self, engine: SupervisedTrainer, batch: Batch, image: torch.Tensor) -> torch.Tensor:
        """The trainer's loss function at another image, as its own forward pass would have given it."""
        network = _eager(engine.network)
        cuda = [image.device] if image.is_cuda else []
        with (
            torch.random.fork_rng(devices=cuda),
            torch.autocast(image.device.type, enabled=False),
            kept_statistics(network),
        ):
            torch.set_rng_state(self._random_state[0])
            for device in cuda:
                torch.cuda.set_rng_state(self._random_state[1], device)
            outputs = engine.inferer(image, network, *batch.args, **batch.kwargs)
            return as_plain(engine.loss_function(outputs, _plain_label(batch)).mean())


def _eager(network: Any) -> Any:
    """The network past ``torch.compile`` and ``DistributedDataParallel``, whose gradients are averaged all the same."""
    network = unwrap(network)
    while hasattr(network, "_orig_mod"):
        network = unwrap(network._orig_mod)
    return network


def _plain_label(batch: Batch) -> Any:
    return as_plain(batch.label) if isinstance(batch.label, torch.Tensor) else batch.label


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Forward passes in here use the batch's statistics where training does, but do not update the running ones.

    Switches instead of copies, because an earlier forward pass may have saved the running statistics for its backward
    pass.
    """
    tracking = [
        (layer, layer.momentum)
        for layer in network.modules()
        if isinstance(layer, (_BatchNorm, _InstanceNorm)) and layer.training and layer.track_running_stats
    ]
    try:
        for layer, _ in tracking:
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = False
            else:  # hands its running statistics on whatever that switch says
                layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in tracking:
            layer.track_running_stats, layer.momentum = True, momentum
