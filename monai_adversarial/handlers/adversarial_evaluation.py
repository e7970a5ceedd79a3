# SPDX-License-Identifier: Apache-2.0
"""Robust Dice next to clean Dice, while a MONAI evaluator runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks import Attack
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.engines.batch import batch_region
from monai_adversarial.handlers.evaluation_base import RobustEvaluation
from monai_adversarial.handlers.evaluation_engine import (
    EnginePostprocessing,
    bare_network,
    check_labels,
    check_network,
    evaluating,
)
from monai_adversarial.metrics.batch_dice import hard_prediction
from monai_adversarial.metrics.robust_dice import RobustDice, organ_channels, organ_dice
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_fraction

__all__ = ["AdversarialEvaluation"]


class AdversarialEvaluation(RobustEvaluation):
    """Attacks every batch of a ``SupervisedEvaluator`` after its clean forward pass and reports robust Dice.

    The attack sees the evaluator's batch, device, network and inferer. The adversarial image is predicted and
    postprocessed as the clean one is (in the evaluator's precision, without transforms that write files) and scored
    against its label, which a geometric attack has moved. Nothing of the evaluator changes: batch, output, network and
    clean metrics are the same as without the handler. Several of them, with different names, can be attached to one
    evaluator.

    At the end of the epoch, before any other handler of that event, ``engine.state.metrics`` holds:

    =============================  =====================================================================================
    ``{name}_mean_dice``           mean over the cases of the mean Dice over the organs, under attack
    ``{name}_dice_{organ}``        mean over the cases of one organ's Dice, under attack
    ``{name}_success_rate``        share of the cases with a clean Dice above ``acceptable_dice`` whose Dice falls below
                                   ``success_threshold`` times the clean one
    ``{name}_clean_mean_dice``     the same mean for the clean images of the same cases
    ``{name}_gap``                 clean minus robust mean Dice
    =============================  =====================================================================================

    An organ that is absent from both prediction and label is skipped; predicted but absent from the label counts 0
    (MONAI's ``MeanDice`` skips it). ``engine.state.metric_details`` holds the values of every case for MONAI's
    ``MetricsSaver``.

    As handler, or as key metric, by which MONAI's ``CheckpointSaver(save_key_metric=True)`` chooses the checkpoint::

        attack = PGD(8, units="HU", intensity={"a_min": -160, "a_max": 240})
        SupervisedEvaluator(..., val_handlers=[AdversarialEvaluation(attack, "pgd", key_metric=True), saver])
        SupervisedEvaluator(..., key_val_metric={"pgd_mean_dice": AdversarialEvaluation(attack, "pgd")})

    With several processes all ranks have to attach it. Configs that shorten their list of handlers on other ranks leave
    ``key_val_metric`` and ``additional_metrics`` alone: put it there.

    Args:
        attack: the attack, not a targeted one.
        name: first part of the metrics' names, an identifier.
        network: the network that the attack differentiates; None for the evaluator's own. Another one (a surrogate)
            makes this a transfer attack: the evaluator's network is what is scored.
        inferer: the inferer that the attack differentiates; None for the evaluator's own.
        class_names: names of the network's channels, with softmax the background first, or a mapping of channel to
            name; None for ``class_1``, ``class_2``, ...
        classes: the channels or names to score; None for all organs.
        region_key: batch key of a mask of the voxels that may change.
        interval: attack in the first and then in every n-th run of the evaluator. In the runs between there are no
            robust metrics, so that a key metric needs 1.
        max_batches: attack the first batches of an epoch only (per process); None for all.
        postprocessing: dictionary transform of ``{image_key, label_key, prediction_key}`` that makes class indices,
            one-hot or masks; None for the evaluator's own, or an argmax (softmax) or threshold (sigmoid) where it has
            none.
        image_key: key of the image in ``engine.state.output``.
        label_key: key of the label in ``engine.state.output``.
        prediction_key: key of the prediction in ``engine.state.output``.
        success_threshold: fraction of the clean Dice; None for the attack's own.
        acceptable_dice: cases with a clean Dice of at most this do not count in the success rate.
        key_metric: make ``{name}_mean_dice`` the key metric of an evaluator that has none.

    Raises:
        TypeError: for an attack that is not an ``Attack``.
        ValueError: for an argument out of range and a targeted attack.
    """

    def __init__(
        self,
        attack: Attack,
        name: str = "adversarial",
        network: Callable[..., Any] | None = None,
        inferer: Callable[..., Any] | None = None,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        classes: Sequence[int | str] | None = None,
        region_key: str | None = None,
        interval: int = 1,
        max_batches: int | None = None,
        postprocessing: Callable[..., Any] | None = None,
        image_key: str = "image",
        label_key: str = "label",
        prediction_key: str = "pred",
        success_threshold: float | None = None,
        acceptable_dice: float = 0.0,
        key_metric: bool = False,
    ) -> None:
        super().__init__(name, key_metric)
        if not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack, got {type(attack).__name__}.")
        if attack.targeted:
            raise ValueError("attack must not be targeted: robust Dice is measured against the true label.")
        if network is not None and not callable(network):
            raise TypeError(f"network must be a torch.nn.Module or a callable, got {type(network).__name__}.")
        self.attack, self.network, self.inferer = attack, network, inferer
        self.class_names = class_names
        self.classes = None if classes is None else tuple(classes)
        self.region_key = region_key
        self.interval = check_count("interval", interval)
        self.max_batches = None if max_batches is None else check_count("max_batches", max_batches)
        self.postprocessing = postprocessing
        self.image_key, self.label_key, self.prediction_key = image_key, label_key, prediction_key
        self.success_threshold = check_fraction(
            "success_threshold", attack.success_threshold if success_threshold is None else success_threshold
        )
        self.acceptable_dice = check_fraction("acceptable_dice", acceptable_dice)
        self._finish: EnginePostprocessing | None = None
        self._organs: dict[int, str] = {}
        self._runs = 0
        self._active = False
        self._reset()

    def attach(self, engine: SupervisedEvaluator, name: str | None = None) -> None:
        """See :meth:`RobustEvaluation.attach`."""
        super().attach(engine, name)
        engine.add_event_handler(Events.STARTED, self._check_evaluator)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._evaluate)
        if hasattr(engine, "network"):
            self._check_evaluator(engine)

    def _check(self, engine: SupervisedEvaluator) -> None:
        if self.key_metric and self.interval > 1:
            raise ValueError(
                f"interval must be 1 for a key metric, got {self.interval}: runs without attack would have nothing to "
                "compare (run the evaluator itself less often)."
            )
        if isinstance(engine.prepare_batch, PrepareBatchAdversarial):
            raise ValueError(
                "the evaluator's prepare_batch already attacks the batch, so that nothing clean is left to evaluate: "
                "remove one of the two."
            )
        if isinstance(engine.prepare_batch, PrepareBatchExtraInput):
            raise ValueError(
                "the evaluator's prepare_batch hands extra inputs to the network, but attacks know networks of one "
                "image only: pass a network that holds the other inputs itself."
            )
        check_labels(engine, self.label_key)
        if self.network is not None:
            check_network(self.network, engine.state.device)

    def _check_evaluator(self, engine: SupervisedEvaluator) -> None:
        """What an evaluator does not have yet while it attaches the handlers that it was made with."""
        if engine.mode is not eval_mode:
            raise ValueError(
                "the evaluator must have mode='eval', got mode='train': another forward pass would change the "
                "network's statistics."
            )
        check_network(engine.network, engine.state.device)

    def _reset(self) -> None:
        self._clean: list[torch.Tensor] = []
        self._robust: list[torch.Tensor] = []
        self._batches = 0
        self._scores: RobustDice | None = None

    def _begin(self, engine: SupervisedEvaluator) -> None:
        self._reset()
        self._active = self._runs % self.interval == 0
        self._runs += 1

    def _evaluate(self, engine: SupervisedEvaluator) -> None:
        if not self._active:
            return
        image, label = engine.state.output[self.image_key], engine.state.output.get(self.label_key)
        if not isinstance(label, torch.Tensor):
            raise ValueError(f"the batch has no label {self.label_key!r}: robust Dice needs labels.")
        self._batches += 1
        if self.max_batches is not None and self._batches > self.max_batches:
            # Rows all the same: the values of each case stay next to its file name.
            unknown = torch.full((image.shape[0], len(self._organs)), torch.nan, device=image.device)
            self._clean.append(unknown)
            self._robust.append(unknown)
            return
        result = self.attack(
            bare_network(engine.network if self.network is None else self.network),
            image,
            label,
            inferer=engine.inferer if self.inferer is None else self.inferer,
            region=batch_region(engine.state.batch, self.region_key, image),
        )
        with torch.no_grad():
            prediction = self._predict(engine, result.adversarial)
            self._clean.append(self._dice(engine, image, label, engine.state.output[self.prediction_key]))
            self._robust.append(self._dice(engine, result.adversarial, result.label, prediction))

    def _predict(self, engine: SupervisedEvaluator, image: torch.Tensor) -> Any:
        """As the evaluator does, but without DistributedDataParallel, which synchronizes ranks in every forward."""
        network = engine.network
        network = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
        autocast = torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()
        with evaluating(network), autocast:
            if not engine.compile:
                return engine.inferer(image, network)
            prediction = engine.inferer(as_plain(image), network)
            return convert_to_dst_type(prediction, dst=image, dtype=prediction.dtype)[0]

    def _dice(self, engine: SupervisedEvaluator, image: torch.Tensor, label: torch.Tensor, raw: Any) -> torch.Tensor:
        """(case, organ)."""
        logits = self._logits(raw)
        classes = int(logits.shape[1])
        activation = self.attack.activation_of(classes)
        if not self._organs:
            self._organs = organ_channels(classes, activation, self.class_names, self.classes)
        if self._finish is None:
            self._finish = EnginePostprocessing(engine, self.postprocessing)
        if self._finish.transform is None:
            finished: Any = {
                self.prediction_key: hard_prediction(as_plain(logits), activation),
                self.label_key: as_plain(label),
            }
        else:
            # Copies: a postprocessing may work in place.
            output = {self.image_key: image.clone(), self.label_key: label.clone()}
            output[self.prediction_key] = raw.clone() if isinstance(raw, torch.Tensor) else raw
            finished = self._finish(engine.state.batch, output)
        predictions, references = (
            finished[key] if isinstance(finished, Mapping) else [case[key] for case in finished]
            for key in (self.prediction_key, self.label_key)
        )
        rows = [
            organ_dice(
                _tensor(prediction), _tensor(reference).to(prediction.device), list(self._organs), classes, activation
            )
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return torch.stack(rows)

    def _logits(self, raw: Any) -> torch.Tensor:
        choose = self.attack.output
        if choose is not None:
            raw = choose(raw) if callable(choose) else raw[choose]
        elif isinstance(raw, (list, tuple)) and len(raw) == 1:
            raw = raw[0]
        if not isinstance(raw, torch.Tensor):
            raise TypeError(
                f"the network must return one tensor of logits, got {type(raw).__name__}: pass output= to the attack."
            )
        return raw

    def scores(self) -> RobustDice | None:
        """See :meth:`RobustEvaluation.scores`."""
        if self._scores is None and self._active:
            if not self._robust:
                raise RuntimeError(
                    "no batch was evaluated under attack: the evaluator's iteration_update must fire "
                    "IterationEvents.FORWARD_COMPLETED as MONAI's own iteration does."
                )
            clean, robust = (torch.cat(rows).cpu().double() for rows in (self._clean, self._robust))
            organs = tuple(self._organs.values())
            self._scores = RobustDice(organs, clean, robust, self.success_threshold, self.acceptable_dice).gathered()
        return self._scores


def _tensor(values: Any) -> torch.Tensor:
    return as_plain(torch.as_tensor(values))
