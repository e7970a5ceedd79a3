# SPDX-License-Identifier: Apache-2.0
"""An attack that has joined an engine: it reads what it attacks, says so, counts iterations, and says what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from monai_adversarial.attacks import Attack
from monai_adversarial.engines.announcement import Outcome, announce, check_budget_units
from monai_adversarial.engines.attacked_files import AttackedFiles
from monai_adversarial.engines.image_key import check_image_key
from monai_adversarial.engines.own_answer import say_own_answer
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.engine_parts import check_engine
from monai_adversarial.utils.modules import bare_network

if TYPE_CHECKING:
    from monai_adversarial.engines.batch import Batch
    from monai_adversarial.engines.prepare_batch import PrepareBatchAdversarial

__all__ = ["Installed"]

_STANDARD = (SupervisedEvaluator._iteration, SupervisedTrainer._iteration)


class Installed:
    """What a ``PrepareBatchAdversarial`` does in its engine.

    Args:
        attacker: the attack.
        engine: the engine it joins.

    Raises:
        TypeError, ValueError: for an engine that does not fit or is attacked already.
    """

    def __init__(self, attacker: PrepareBatchAdversarial, engine: Any) -> None:
        check_engine(engine)
        self.attacker, self.engine = attacker, engine
        present = engine.prepare_batch
        self._inner, self._own_prepare_batch = present, attacker.prepare_batch
        if present is not attacker:
            # Handlers of adversarial training hold what they wrapped in ``inner``.
            if hasattr(present, "attacks_of") or hasattr(present, "handler"):
                other = getattr(present, "handler", present)
                raise ValueError(
                    f"{type(other).__name__} already changes this engine's batch and {type(attacker).__name__} would "
                    "change it again: use one of them."
                )
            attacker.prepare_batch = attacker.prepare_batch or present
            engine.prepare_batch = attacker
        self.at_inferer = False
        self._inner_inferer: Any = None
        self._announced = self._was_read = False
        self._held: tuple[Any, Batch] | None = None
        self._made: list[tuple[str, Any, Any]] = []
        self._attacked = 0
        self._before = self._done = 0
        self._outcome = Outcome()
        self._files = AttackedFiles(engine) if isinstance(engine, SupervisedEvaluator) else None
        self._removable = [
            engine.add_event_handler(Events.STARTED, self._start),
            engine.add_event_handler(Events.ITERATION_STARTED, self._begin),
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._hand_over),
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._look_at_answer),
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._count),
            engine.add_event_handler(Events.COMPLETED, self._finish),
        ]
        if engine.state.iteration and self._files is not None:
            engine.logger.warning(
                f"the engine has run {engine.state.iteration} iterations before {type(attacker).__name__} joined it: "
                "their scores are those of clean images, and nothing is attacked unless it runs again."
            )
        if hasattr(engine, "inferer"):  # not yet where handlers are attached while the engine is made
            self._read()

    def remove(self) -> None:
        """Leave the engine as it was."""
        if self.engine.prepare_batch is self.attacker and self._inner is not self.attacker:
            self.engine.prepare_batch, self.attacker.prepare_batch = self._inner, self._own_prepare_batch
        if isinstance(self.engine.inferer, _AttackedInferer):
            self.engine.inferer = self._inner_inferer
        for removable in self._removable:
            removable.remove()
        self._leave_files()

    def hold(self, batchdata: Any, batch: Batch) -> None:
        """A batch that is attacked when the engine hands it to its inferer."""
        self._held = (batchdata, batch)

    def attacked(self) -> None:
        """A batch of this iteration went through the attack."""
        self._attacked += 1

    def _read(self) -> None:
        attacker, engine = self.attacker, self.engine
        check_engine(engine)
        if attacker.model is None:
            attacker.use_model(AttackedModel.from_engine(engine, **attacker.told))
            self._was_read = True
        assert attacker.model is not None
        for attack in attacker.attacks_of():
            check_budget_units(attack, attacker.model)
        process = getattr(engine._process_function, "__func__", engine._process_function)
        if process not in _STANDARD and not isinstance(engine.inferer, _AttackedInferer):
            # What the inferer gets besides the image is known there only. A loss needs the label that was prepared.
            self.at_inferer = isinstance(engine, SupervisedEvaluator)
            self._inner_inferer = engine.inferer
            engine.inferer = _AttackedInferer(engine.inferer, self)

    def _start(self, engine: Any) -> None:
        self._read()
        if engine.prepare_batch is not self.attacker:
            raise ValueError(
                f"the engine's prepare_batch was replaced by {type(engine.prepare_batch).__name__} after "
                f"{type(self.attacker).__name__} had joined: its batches would stay clean. Set prepare_batch first."
            )
        self._before, self._done, self._outcome = engine.state.iteration, 0, Outcome()
        if self._files is not None:
            self._files.begin(self.attacker.attacks_of())
        if not self._announced:
            self._announced = True
            assert self.attacker.model is not None
            announce(engine, self.attacker.attacks_of(), self.attacker.model, self.attacker.region_key)

    def _begin(self, engine: Any) -> None:
        self._attacked, self._held, self._made = 0, None, []

    def _count(self, engine: Any) -> None:
        if not self._attacked:
            raise RuntimeError(
                f"iteration {engine.state.iteration} of {type(engine).__name__} was not attacked: it handed its batch "
                "neither to prepare_batch nor to its inferer, so its scores are those of clean images."
            )
        self._done += 1
        if self.attacker.last_result is not None:
            self._outcome.add(self.attacker.last_result)
        self._held, self._made = None, []

    def check_image(self, attack: Attack, batchdata: Any, image: torch.Tensor) -> None:
        """The image of a batch is the one whose intensity map was read."""
        if self._was_read and self.attacker.model is not None:
            key = self.attacker.told.get("image_key", CommonKeys.IMAGE)
            check_image_key(self.engine, self.attacker.model, attack, batchdata, image, key)

    def _look_at_answer(self, engine: Any) -> None:
        """What the engine has predicted is what its metrics see."""
        result, output = self.attacker.last_result, engine.state.output
        if not self._attacked or result is None or result.model is None or not isinstance(output, dict):
            return
        own = bare_network(engine.network) is bare_network(result.model.network)  # else it is meant to be a transfer
        if own and CommonKeys.PRED in output:
            say_own_answer(result, output[CommonKeys.PRED])

    def _leave_files(self) -> None:
        if self._files is not None:
            self._files.end()

    def _finish(self, engine: Any) -> None:
        self._leave_files()
        ran = engine.state.iteration - self._before
        if self._done != ran:
            raise RuntimeError(f"{self._done} of {ran} iterations of {type(engine).__name__} were attacked.")
        self._outcome.announce(engine)

    def inputs(self, image: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """What the inferer of an engine with an iteration of its own is to see."""
        if self._attacked and not self.at_inferer:
            return image
        batchdata, label = None, None
        if self._held is not None and self._held[1].image.shape == image.shape:
            batchdata, label = self._held[0], self._held[1].label
        adversarial, moved = self.attacker.attacked(batchdata, (image, label, args, kwargs))
        self._made = [(CommonKeys.IMAGE, image, adversarial), (CommonKeys.LABEL, label, moved)]
        self._hand_over(self.engine)
        return adversarial

    def _hand_over(self, engine: Any) -> None:
        """Postprocessing and metrics find the attacked image where the engine has put the clean one."""
        output = engine.state.output
        for key, old, new in self._made:
            if isinstance(output, dict) and old is not None and output.get(key) is old:
                output[key] = new
            if isinstance(new, MetaTensor) and isinstance(old, MetaTensor):
                # An engine may have reset, in its own tensor, what its preprocessing had noted for the way back.
                new.applied_operations = old.applied_operations


class _AttackedInferer:
    """The inferer of an engine that may not prepare its batch."""

    def __init__(self, inner: Callable[..., Any], installed: Installed) -> None:
        self._inner, self._installed = inner, installed

    def __call__(self, inputs: Any, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._inner(self._installed.inputs(inputs, args, kwargs), network, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_installed"):  # not there yet in a copy
            raise AttributeError(name)
        return getattr(self._inner, name)
