# SPDX-License-Identifier: Apache-2.0
"""Adversarial training without a pass of its own: the trainer's backward pass gives the perturbation's gradient too."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys, convert_to_dst_type

from monai_adversarial.attacks.perturbations import AdditiveNoise, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.attacks.search import SteepestAscent
from monai_adversarial.engines.batch import Batch, batch_region
from monai_adversarial.handlers.base import TrainingHandler
from monai_adversarial.handlers.engine_model import Told, told_argument
from monai_adversarial.networks.dual_normalization import has_dual_normalization
from monai_adversarial.utils.intensity import MOST_OUTSIDE, IntensityMap
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import Scene, spacing_of
from monai_adversarial.utils.validation import (
    check_count,
    check_image,
    check_positive,
    check_region,
)

__all__ = ["FreeAdversarialTraining"]


class FreeAdversarialTraining(TrainingHandler):
    """Free adversarial training (Shafahi et al. 2019): each batch is trained on ``replays`` times in a row.

    Every iteration trains on the perturbed batch, and the trainer's own backward pass, which gives the gradient of the
    weights, gives that of the perturbation as well: then the perturbation takes a step up the trainer's loss. An
    iteration costs what a clean one does, plus the gradient of the image. There is no forward or backward pass of an
    attack, in whatever precision the trainer works. The perturbation starts at zero and is never reset: it goes from
    replay to replay and from batch to batch, row by row, as long as its shape fits; where it does not (another patch
    size, a larger batch) it starts at zero again.

    While attached, an epoch has ``replays`` times as many iterations, so divide ``max_epochs`` by ``replays`` for the
    cost of clean training. An explicit ``epoch_length`` other than the loader's length stays what it was.
    ``state.batch`` is clean, ``state.output["image"]`` adversarial, ``state.output["adversarial_loss"]`` the loss.

    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import FreeAdversarialTraining
    >>> trainer = example_trainer([FreeAdversarialTraining(8, "HU", replays=3)])
    >>> trainer.run()
    >>> trainer.state.iteration, "adversarial_loss" in trainer.state.output
    (3, True)

    Args:
        perturbation: how the image may change (not its geometry: the loss's gradient does not see the label move), or
            the radius in ``units`` of an L-infinity budget.
        units: of that radius: ``"HU"``, ``"network"`` or ``"fraction"`` of the intensity window.
        model: facts of the model (the map of a budget in HU, the channels that are image); None for the trainer's
            network. It has to be the trainer's own network, whose backward pass gives the gradient.
        replays: how many times a batch is used before the next one (m in the paper).
        relative_step: step as a fraction of the budget; the published code steps by the whole budget.
        region_key: batch key of a mask of the voxels that may change.

    Attributes:
        parameters: the perturbation's parameters, one row per sample; empty before the first iteration.

    Raises:
        TypeError, ValueError: for arguments, an engine, a batch or a network that does not fit.
        RuntimeError: when the trainer's loss does not depend on its image.

    Source: Shafahi et al. 2019, "Adversarial training for free!", and its published code. Other than there, the
    perturbation is projected into the budget of each new batch (valid range of values, clipped voxels, region).

    Survey entry: D07 (adapted).
    """

    def __init__(
        self,
        perturbation: Perturbation | float,
        units: str = "network",
        model: Told = None,
        *,
        replays: int = 4,
        relative_step: float = 1.0,
        region_key: str | None = None,
    ) -> None:
        super().__init__(model)
        if not isinstance(perturbation, Perturbation):
            if isinstance(perturbation, bool) or not isinstance(perturbation, (int, float)):
                raise TypeError(
                    "perturbation must be a Perturbation or the radius of an L-infinity budget, got "
                    f"{type(perturbation).__name__}."
                )
            perturbation = AdditiveNoise(check_positive("perturbation", perturbation), units=units)
        self.perturbation = perturbation
        self.replays = check_count("replays", replays)
        self.relative_step = check_positive("relative_step", relative_step)
        self.region_key = region_key
        self.parameters: Parameters = ()
        self._running: tuple[BoundPerturbation, Parameters] | None = None
        self._scale_checked = False

    def describe(self) -> str:
        """What it will do."""
        return (
            f"trains on each batch {self.replays} times in a row, perturbed with {self.perturbation!r}, which steps by "
            f"{self.relative_step:g} times its budget along the trainer's own gradient"
        )

    def attach(self, engine: Engine) -> None:
        """Join a trainer; see :class:`~monai_adversarial.handlers.base.TrainingHandler`."""
        super().attach(engine)
        assert isinstance(engine, SupervisedTrainer)
        self._removable.append(engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.backward_completed))
        replayed = _ReplayedLoader(engine.data_loader, self, engine)
        self._lengths: tuple[int, int] | None = None
        if engine.state.epoch_length is not None and engine.state.epoch_length == _length(engine.data_loader):
            self._lengths = (engine.state.epoch_length, engine.state.epoch_length * self.replays)
            engine.state.epoch_length = self._lengths[1]
        engine.data_loader = replayed  # type: ignore[assignment]

    def replays_done(self, iteration: int) -> int:
        """How often the batch of the trainer's next iteration was used before, when its loader begins there."""
        return iteration % self.replays

    def detach(self, engine: SupervisedTrainer) -> None:
        """Leave the trainer as it was before ``attach``."""
        super().detach(engine)
        if isinstance(engine.data_loader, _ReplayedLoader):
            engine.data_loader = engine.data_loader.loader  # type: ignore[unreachable]
            if self._lengths is not None and engine.state.epoch_length == self._lengths[1]:
                engine.state.epoch_length = self._lengths[0]

    def started(self, engine: SupervisedTrainer) -> None:
        """Refuse another network, and one whose adversarial branch would never be trained."""
        super().started(engine)
        self._scale_checked = False
        if told_argument(self.told, "network") is not None and not self.attacks_what_is_trained(engine):
            raise ValueError(
                "FreeAdversarialTraining takes the gradient of the trainer's own backward pass: model must not name "
                "another network than the one that is trained."
            )
        if has_dual_normalization(self.network_of(engine)):
            raise ValueError(
                "the network has dual normalization, but FreeAdversarialTraining trains on no clean batch: use "
                "AdversarialTraining with adversarial_weight below 1."
            )

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Perturb the batch by a leaf of the trainer's graph."""
        batch = Batch.read(prepared)
        check_image(batch.image)
        model = self.model_for(batch)
        whole = as_plain(batch.image).detach()
        image = model.image_part(whole)
        intensity, doubt = model.intensity_and_doubt(batch.image)
        self._check_scale(engine, image, intensity)
        region = batch_region(batchdata, self.region_key, image)
        scene = Scene(
            image=image,
            seeds=(),  # nothing is drawn
            spacing=spacing_of(batch.image),
            region=None if region is None else check_region(as_plain(region), image),
            intensity=intensity,
            image_units=model.units_for(getattr(self.perturbation, "units", None)),
            intensity_doubt=doubt,
        )
        bound = self.perturbation.bind(scene)
        if bound.geometric:
            raise ValueError(
                f"FreeAdversarialTraining needs a perturbation of intensity, got {self.perturbation!r}, which moves "
                "anatomy: the gradient of the trainer's loss does not see the label move."
            )
        zeros = bound.zeros()
        with torch.no_grad():
            start = bound.project(tuple(map(_carried, self._fitting(zeros), zeros)))
        leaves = tuple(parameter.detach().requires_grad_(True) for parameter in start)
        self._running = (bound, leaves)
        adversarial = model.whole_image(bound.apply(image, leaves), whole)
        return (convert_to_dst_type(adversarial, dst=batch.image)[0], *prepared[1:])

    def _check_scale(self, engine: SupervisedTrainer, image: torch.Tensor, intensity: IntensityMap | None) -> None:
        """A map that did not scale the image leaves its voxels where they are."""
        if self._scale_checked or intensity is None:
            return
        self._scale_checked = True
        outside = intensity.fraction_outside(image)
        if outside > MOST_OUTSIDE:
            engine.logger.warning(
                f"FreeAdversarialTraining: {outside:.0%} of the first batch's voxels lie far outside what intensity "
                "maps to: it is not the map that scaled this image, and these voxels cannot change."
            )

    def iteration_completed(self, engine: SupervisedTrainer) -> None:
        """Stop a training that passes the handler by: the perturbation would stand still.

        Raises:
            RuntimeError: where the iteration prepared no batch, or fired no BACKWARD_COMPLETED.
        """
        super().iteration_completed(engine)
        if self._running is not None:
            raise RuntimeError(
                "the trainer's iteration_update fired no BACKWARD_COMPLETED event, so FreeAdversarialTraining could "
                "not move its perturbation: fire IterationEvents.BACKWARD_COMPLETED as SupervisedTrainer does."
            )

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Log the loss."""
        engine.state.output["adversarial_loss"] = as_plain(engine.state.output[CommonKeys.LOSS]).detach()

    def backward_completed(self, engine: SupervisedTrainer) -> None:
        """One step of the perturbation along the gradient that the trainer's backward pass left in it."""
        self.check_prepared(engine)
        assert self._running is not None
        bound, leaves = self._running
        self._running = None
        # Postprocessing without decollation would meet a tensor with a graph.
        engine.state.output[CommonKeys.IMAGE] = engine.state.output[CommonKeys.IMAGE].detach()
        gradients = []
        for leaf in leaves:
            if leaf.grad is None:
                raise RuntimeError(
                    "the trainer's loss does not depend on its image, so FreeAdversarialTraining has no gradient: the "
                    "network or the inferer must not detach it."
                )
            # GradScaler lets gradients overflow now and then and skips that step of the weights; a perturbation that
            # lives on must not keep the NaN. Its scale is positive and leaves the direction as it is.
            gradients.append(torch.where(leaf.grad.isfinite(), leaf.grad, 0))
        self.watch(engine, tuple(gradients))
        with torch.no_grad():
            loss = as_plain(engine.state.output[CommonKeys.LOSS]).detach()
            run = SteepestAscent(self.relative_step).begin(bound, 1)
            moved = run.advance(tuple(leaf.detach() for leaf in leaves), tuple(gradients), loss, 0)
            old = self._fitting(moved)
            # A smaller batch moves its own rows; the others wait for the next full batch.
            self.parameters = tuple(
                new if kept is None or len(kept) <= len(new) else torch.cat([new, kept[len(new) :].to(new)])
                for new, kept in zip(moved, old, strict=True)
            )

    def watch(self, engine: SupervisedTrainer, gradients: Parameters) -> None:
        """For subclasses: the gradients by which the perturbation moves, as the trainer's scaler scaled them."""

    def _fitting(self, like: Parameters) -> tuple[torch.Tensor | None, ...]:
        """The parameters of the batch before, where one sample's shape is that of this batch; None elsewhere."""
        if len(self.parameters) != len(like):
            return (None,) * len(like)
        return tuple(
            kept if kept.shape[1:] == new.shape[1:] else None for kept, new in zip(self.parameters, like, strict=True)
        )

    def state_dict(self) -> dict[str, Any]:
        """The perturbation; the place in the replays follows from the trainer's iteration."""
        return {"parameters": list(self.parameters)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved perturbation."""
        self.parameters = tuple(state["parameters"])


def _carried(kept: torch.Tensor | None, zeros: torch.Tensor) -> torch.Tensor:
    """Rows that are known, and zeros for samples beyond them."""
    if kept is None:
        return zeros
    kept = kept.to(zeros)
    return torch.cat([kept, zeros[len(kept) :]]) if len(kept) < len(zeros) else kept[: len(zeros)]


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # an iterable data set
        return None


class _ReplayedLoader:
    """Each batch of a loader several times in a row.

    A loader that starts in the middle of a training (resumed, or after a terminated epoch) goes on with the replays
    where the trainer's iteration says.
    """

    def __init__(self, loader: Iterable[Any], handler: FreeAdversarialTraining, engine: Engine) -> None:
        self.loader, self.handler, self.engine = loader, handler, engine

    def __len__(self) -> int:
        return len(self.loader) * self.handler.replays  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        done = self.handler.replays_done(self.engine.state.iteration)
        for batch in self.loader:
            for _ in range(done, self.handler.replays):
                # A handler may add keys to or take keys from what it is given.
                yield copy.copy(batch) if isinstance(batch, (dict, list)) else batch
            done = 0

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet set, while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)
