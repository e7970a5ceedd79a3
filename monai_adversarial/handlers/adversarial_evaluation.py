# SPDX-License-Identifier: Apache-2.0
"""Robust Dice, or accuracy, next to the clean one, while a MONAI evaluator runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from monai.utils import CommonKeys, convert_to_dst_type

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.flags import HIDDEN, ROOM
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.engines.announcement import said_region
from monai_adversarial.engines.batch import batch_region
from monai_adversarial.engines.image_key import check_image_key
from monai_adversarial.engines.unmet import Unmet
from monai_adversarial.handlers.engine_model import (
    Told,
    check_told,
    model_of,
    told_argument,
)
from monai_adversarial.handlers.evaluation_base import RobustEvaluation
from monai_adversarial.handlers.evaluation_engine import (
    EnginePostprocessing,
    RememberedBatch,
    check_labels,
    check_network,
    evaluating,
    forgets_batches,
    has_own_iteration,
    remembers_batches,
)
from monai_adversarial.handlers.repeated_cases import case_marks, say_repeated
from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.metrics.clean_score import low_clean_caution, low_organ_caution
from monai_adversarial.metrics.dice import hard_prediction, organ_dice
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.metrics.robust_dice import RobustDice
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.kept_state import KeptState
from monai_adversarial.models.raw_answer import as_logits, attacked_tensor
from monai_adversarial.utils.modules import bare_network, describe_callable
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_fraction, check_instance

__all__ = ["AdversarialEvaluation"]


class AdversarialEvaluation(RobustEvaluation):
    """Attacks every batch of a ``SupervisedEvaluator`` after its clean forward pass and reports robust Dice.

    The attack sees the evaluator's batch, device, network, inferer, and what its ``prepare_batch`` hands to the network
    besides. The adversarial image is predicted and postprocessed as the clean one is (in the evaluator's precision,
    without transforms that write files) and scored against its label, which a geometric attack has moved. Nothing of
    the evaluator changes: batch, output, network and clean metrics are the same as without the handler. Several of
    them, with different names, can be attached to one evaluator. An evaluator with an iteration of its own must fire
    ``FORWARD_COMPLETED`` for each batch, and predict what its inferer, called with the prepared batch, predicts: else
    the run ends with an error.

    At the end of the epoch, before any other handler of that event, ``engine.state.metrics`` holds:

    =============================  =====================================================================================
    ``{name}_mean_dice``           mean over the cases of the mean Dice over the organs, under attack
    ``{name}_dice_{organ}``        mean over the cases of one organ's Dice, under attack
    ``{name}_clean_dice_{organ}``  the same for the clean images: an organ that was lost before has nothing to lose
    ``{name}_success_rate``        share of the cases with a clean Dice above ``acceptable_dice`` whose Dice falls below
                                   ``success_threshold`` times the clean one
    ``{name}_clean_mean_dice``     the same mean for the clean images of the same cases
    ``{name}_gap``                 clean minus robust mean Dice
    =============================  =====================================================================================

    An organ that is absent from both prediction and label is skipped; predicted but absent from the label counts 0
    (MONAI's ``MeanDice`` skips it), and a warning names the organs for which no label of the run has a voxel.
    ``engine.state.metric_details`` holds the values of every case for MONAI's
    ``MetricsSaver``.

    Of a classifier the metrics are ``{name}_accuracy``, ``{name}_accuracy_{class}`` (the share of the images of a class
    that are still right; with sigmoid, of all images), ``{name}_success_rate``, ``{name}_clean_accuracy`` and
    ``{name}_gap``. Decisions are the class with the highest logit, with sigmoid a probability above a half; the
    postprocessing is not used for them.

    As handler, or as key metric, by which MONAI's ``CheckpointSaver(save_key_metric=True)`` chooses the checkpoint::

        evaluation = AdversarialEvaluation(PGD(8, units="HU"), "pgd", {"intensity": {"a_min": -160, "a_max": 240}})
        SupervisedEvaluator(..., key_val_metric={"pgd_mean_dice": evaluation})
        SupervisedEvaluator(..., val_handlers=[evaluation, saver])  # made with key_metric=True

    With several processes all ranks have to attach it. Configs that shorten their list of handlers on other ranks leave
    ``key_val_metric`` and ``additional_metrics`` alone: put it there.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example_engines import example_evaluator
    >>> from monai_adversarial.handlers import AdversarialEvaluation
    >>> told = {"class_names": ["background", "gallbladder", "liver", "lesion"]}
    >>> evaluator = example_evaluator([AdversarialEvaluation(PGD(16, "HU", steps=3), "pgd", told)])
    >>> evaluator.run()
    >>> metrics = evaluator.state.metrics
    >>> metrics["pgd_mean_dice"] < metrics["pgd_clean_mean_dice"], "pgd_dice_liver" in metrics
    (True, True)

    Args:
        attack: the attack, not a targeted one.
        name: first part of the metrics' names, an identifier.
        model: the model under attack. None: the evaluator's network behind its inferer. A mapping of arguments of
            ``AttackedModel`` adds facts to it: ``intensity``, ``class_names``, ``scored_classes``, ``ignore_index``,
            ``activation``, ``output``..., and ``image_key``, where the image is in the items of the data set. An
            ``AttackedModel`` is taken as it is, with the evaluator's inferer if it has none; a network takes the place
            of the evaluator's. Another network (a surrogate) or inferer makes this a transfer attack, which is said:
            the evaluator's own are what is scored.
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
        key_metric: make ``{name}_mean_dice`` the key metric of an evaluator that has none. For a classifier, tell
            ``model={"task": "classification"}``: the name is ``{name}_accuracy``.
        metrics: further metrics of each attacked case, such as ``{"volume": VolumeChange(class_names)}``. They see the
            network's own answers, before any postprocessing. Reported are ``{name}_{metric}_{number}``, details of the
            cases ``{name}_{metric}``.

    Attributes:
        model: the whole model; None until the evaluator runs.

    Raises:
        TypeError: for an attack that is not an ``Attack``, and a model that cannot be.
        ValueError: for an argument out of range and a targeted attack.
        RuntimeError: at the end of an epoch, where not every batch was evaluated under attack.
    """

    def __init__(
        self,
        attack: Attack,
        name: str = "adversarial",
        model: Told = None,
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
        metrics: Mapping[str, CaseMetric] | None = None,
    ) -> None:
        super().__init__(name, key_metric)
        if not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack, got {type(attack).__name__}.")
        if attack.targeted:
            raise ValueError("attack must not be targeted: robust Dice is measured against the true label.")
        self.attack, self.told = attack, check_told(model)
        self.model: AttackedModel | None = None
        self.region_key = region_key
        self.interval = check_count("interval", interval)
        self.max_batches = None if max_batches is None else check_count("max_batches", max_batches)
        self.postprocessing = postprocessing
        self.image_key, self.label_key, self.prediction_key = image_key, label_key, prediction_key
        self.success_threshold = check_fraction(
            "success_threshold", attack.success_threshold if success_threshold is None else success_threshold
        )
        self.acceptable_dice = check_fraction("acceptable_dice", acceptable_dice)
        self.metrics = {} if metrics is None else dict(metrics)
        for key, metric in self.metrics.items():
            check_instance(f"metrics[{key!r}]", metric, CaseMetric, "OrganDrop(class_names)")
        self._finish: EnginePostprocessing | None = None
        self._organs: dict[int, str] = {}
        self._kept: KeptState | None = None
        self._runs = 0
        self._active = False
        self._unmet = Unmet(f"{type(self).__name__} {self.name!r}")
        self._reset()

    def attach(self, engine: SupervisedEvaluator, name: str | None = None) -> None:
        """See :meth:`RobustEvaluation.attach`."""
        super().attach(engine, name)
        engine.add_event_handler(Events.STARTED, self._check_evaluator)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._evaluate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say_unlabeled)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say_low)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say_hidden)
        engine.add_event_handler(Events.COMPLETED, forgets_batches)
        engine.add_event_handler(Events.TERMINATE, forgets_batches)
        if hasattr(engine, "network"):
            self._check_evaluator(engine)

    @property
    def _key_name(self) -> str:
        classifies = told_argument(self.told, "task") == "classification"
        return f"{self.name}_accuracy" if classifies else super()._key_name

    def _check(self, engine: SupervisedEvaluator) -> None:
        if self.key_metric and self.interval > 1:
            raise ValueError(
                f"interval must be 1 for a key metric, got {self.interval}: runs without attack would have nothing to "
                "compare (run the evaluator itself less often)."
            )
        self._check_prepare_batch(engine)
        check_labels(engine, self.label_key)
        network = told_argument(self.told, "network")
        if network is not None:
            check_network(network, engine.state.device)

    @staticmethod
    def _check_prepare_batch(engine: SupervisedEvaluator) -> None:
        if isinstance(engine.prepare_batch, PrepareBatchAdversarial):
            raise ValueError(
                "the evaluator's prepare_batch already attacks the batch, so that nothing clean is left to evaluate: "
                "remove one of the two."
            )

    def _check_evaluator(self, engine: SupervisedEvaluator) -> None:
        """What an evaluator does not have yet while it attaches the handlers that it was made with."""
        if engine.mode is not eval_mode:
            raise ValueError(
                "the evaluator must have mode='eval', got mode='train': another forward pass would change the "
                "network's statistics."
            )
        check_network(engine.network, engine.state.device)

    def _start(self, engine: SupervisedEvaluator) -> None:
        """Learn what is attacked, and say so in the first run."""
        self._check_prepare_batch(engine)
        remembers_batches(engine)
        model = model_of(engine, self.told)
        bare = bare_network(model.network)
        self.model = model if bare is model.network else model.replace(network=bare)
        self._compared = False
        if self._runs:
            return
        self._kept = KeptState(bare, engine.inferer)
        engine.logger.info(
            f"{type(self).__name__} {self.name!r}: attacks {self.model!r} with {self.attack!r}"
            f"{said_region(self.region_key)}; a success is a score "
            f"below {self.success_threshold:g} times the clean one, of cases with a clean one above "
            f"{self.acceptable_dice:g}."
        )
        for part, scored in (("network", bare_network(engine.network)), ("inferer", engine.inferer)):
            attacked = getattr(self.model, part)
            same = attacked is scored if part == "network" else type(attacked) is type(scored)
            if not same:
                engine.logger.warning(
                    f"{type(self).__name__} {self.name!r}: the {part} of model= ({describe_callable(attacked)}) is not "
                    f"the evaluator's ({describe_callable(scored)}), which is scored: this is a transfer attack."
                )

    def _reset(self) -> None:
        self._clean: list[torch.Tensor] = []
        self._robust: list[torch.Tensor] = []
        self._labeled: set[str] = set()
        self._own: list[torch.Tensor] = []
        self._marks: list[int] = []
        self._changed = False
        self._batches = self._iterations = 0
        self._scores: RobustDice | None = None
        for metric in self.metrics.values():
            metric.reset()

    def _begin(self, engine: SupervisedEvaluator) -> None:
        self._reset()
        self._active = self._runs % self.interval == 0
        self._runs += 1

    def _count(self, engine: SupervisedEvaluator) -> None:
        self._iterations += 1

    def _evaluate(self, engine: SupervisedEvaluator) -> None:
        if not self._active:
            return
        assert self.model is not None and isinstance(engine.prepare_batch, RememberedBatch)
        image, label = engine.state.output[self.image_key], engine.state.output.get(self.label_key)
        if not isinstance(label, torch.Tensor):
            raise ValueError(f"the batch has no label {self.label_key!r}: robust Dice needs labels.")
        self._batches += 1
        self._unmet.met()
        if self.max_batches is not None and self._batches > self.max_batches:
            # Rows all the same: the values of each case stay next to its file name.
            unknown = torch.full((image.shape[0], len(self._organs)), torch.nan, dtype=torch.float64)
            self._clean.append(unknown)
            self._robust.append(unknown)
            for metric in self.metrics.values():
                metric.skip(image.shape[0])
            return
        args, kwargs = engine.prepare_batch.arguments
        if has_own_iteration(engine) and not self._compared:
            self._compare(engine, image, args, kwargs)
        if not isinstance(self.told, AttackedModel):
            key = told_argument(self.told, "image_key") or CommonKeys.IMAGE
            check_image_key(engine, self.model, self.attack, engine.state.batch, image, key)
        region = batch_region(engine.state.batch, self.region_key, image)
        with self._as_before_the_run(engine):
            result = self.attack(self.model.with_arguments(args, kwargs), image, label, region=region)
        self._changed = self._changed or not torch.equal(as_plain(result.adversarial), as_plain(image))
        self._marks += case_marks(result.bound.scene.seeds, label)
        self._own.append((result.clean_score - result.adversarial_score).cpu().double())
        for metric in self.metrics.values():
            metric.add(result)
        with torch.no_grad():
            prediction = self._predict(engine, result.adversarial, args, kwargs)
            self._clean.append(self._dice(engine, image, label, engine.state.output[self.prediction_key]))
            self._robust.append(self._dice(engine, result.adversarial, result.label, prediction))

    @contextmanager
    def _as_before_the_run(self, engine: SupervisedEvaluator) -> Iterator[None]:
        """The first attack meets what the network held before it had seen any image: one that keeps something from call
        to call would not show it otherwise."""
        kept, self._kept = self._kept, None
        if kept is None or not kept.changed():
            yield
            return
        present = KeptState(bare_network(engine.network), engine.inferer)
        kept.restore()
        try:
            yield
        finally:
            present.restore()

    def _compare(self, engine: SupervisedEvaluator, image: torch.Tensor, args: Any, kwargs: Any) -> None:
        """An iteration of the evaluator's own may predict something else than what is attacked.

        Raises:
            ValueError: where it does.
        """
        assert self.model is not None
        self._compared = True
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            ours, again = (attacked_tensor(self.model, self._predict(engine, image, args, kwargs)) for _ in range(2))
        theirs = engine.state.output[self.prediction_key]
        theirs = attacked_tensor(self.model, theirs) if theirs is not None else theirs
        if isinstance(theirs, torch.Tensor) and theirs.shape == ours.shape:
            if not torch.equal(as_plain(ours), as_plain(again)):  # a random network answers as it likes
                return
            scale = float(as_plain(theirs).abs().max())
            if torch.allclose(as_plain(ours).to(theirs), as_plain(theirs), rtol=1e-2, atol=1e-2 * max(scale, 1e-6)):
                return
        raise ValueError(
            "the evaluator's own iteration does not predict what its inferer, called with the prepared batch, predicts "
            f"({tuple(ours.shape)}): what would be attacked is not what is scored. Hand all inputs of the network over "
            "in prepare_batch."
        )

    def _predict(self, engine: SupervisedEvaluator, image: torch.Tensor, args: Any, kwargs: Any) -> Any:
        """As the evaluator does, but without DistributedDataParallel, which synchronizes ranks in every forward."""
        network = engine.network
        network = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
        autocast = torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()
        with evaluating(network), autocast:
            if not engine.compile:
                return engine.inferer(image, network, *args, **kwargs)
            prediction = engine.inferer(as_plain(image), network, *args, **kwargs)
            return convert_to_dst_type(prediction, dst=image, dtype=prediction.dtype)[0]

    def _dice(self, engine: SupervisedEvaluator, image: torch.Tensor, label: torch.Tensor, raw: Any) -> torch.Tensor:
        """(case, organ)."""
        assert self.model is not None
        logits = as_logits(self.model, attacked_tensor(self.model, raw))
        classes = int(logits.shape[1])
        activation = self.model.activation_of(classes)
        if self.model.classifies:
            return self._correct(logits, label, activation)
        if not self._organs:
            self._organs = organ_channels(classes, activation, self.model.class_names, self.model.scored_classes)
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
        if not len(predictions) == len(references) == len(image):
            raise ValueError(
                f"postprocessing must return a prediction and a label for each of the {len(image)} cases of the batch, "
                f"got {len(predictions)} and {len(references)}."
            )
        rows = []
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = _tensor(prediction), _tensor(reference)
            reference = reference.to(prediction.device)
            self._labeled |= self._organs_in(reference, classes)
            found = organ_dice(prediction, reference, self._organs, classes, activation, self._valid(reference))
            rows.append(list(found.values()))
        return torch.tensor(rows, dtype=torch.float64)

    def _correct(self, logits: torch.Tensor, label: torch.Tensor, activation: str) -> torch.Tensor:
        """(image, class): whether a decision is right; with exclusive classes in the column of the true one."""
        assert self.model is not None
        classes = int(logits.shape[1])
        reference = Reference.read(self.model, as_plain(label).to(logits.device), classes)
        if not self._organs:
            self._organs = organ_channels(classes, "sigmoid", self.model.class_names, self.model.scored_classes)
        decided = hard_prediction(as_plain(logits).reshape(len(logits), classes, 1), activation)
        columns = list(self._organs)
        if activation == "softmax":
            true = reference.target(None).one_hot(torch.float64)[:, columns, 0]
            right = torch.where(true > 0, reference.score(decided).double()[:, None], torch.nan)
        else:
            each = [replace(reference, scored=(column,)).score(decided) for column in columns]
            right = torch.stack(each, dim=1).double()
        return right.cpu()

    def _organs_in(self, reference: torch.Tensor, classes: int) -> set[str]:
        """Names of the organs that one case's label holds."""
        masks = reference.shape[0] > 1 or classes == 1
        return {
            name
            for channel, name in self._organs.items()
            if bool((reference[channel] > 0 if masks else reference == channel).any())
        }

    def _say_unlabeled(self, engine: SupervisedEvaluator) -> None:
        """An organ that no label holds and the network finds counts 0, which may be the labels' fault."""
        assert self.model is not None
        if not self._robust or self.model.classifies or idist.get_world_size() > 1:
            return  # a process sees its own labels only
        scores = torch.cat([*self._clean, *self._robust])
        found = [
            name for name, of_organ in zip(self._organs.values(), scores.T, strict=True) if of_organ.isfinite().any()
        ]
        absent = [name for name in found if name not in self._labeled]
        if absent:
            engine.logger.warning(
                f"{type(self).__name__} {self.name!r}: no label of this run holds {', '.join(absent)}, but the network "
                "finds them, so that they count 0: where the data set does not label them, name the labeled classes in "
                "scored_classes of model=."
            )

    def _say_low(self, engine: SupervisedEvaluator) -> None:
        """Few successes are no robustness where the clean images are not segmented either, or nothing was attacked."""
        assert self.model is not None
        if self._clean and not self._changed:
            engine.logger.warning(
                f"{type(self).__name__} {self.name!r}: {self.attack!r} changed no voxel of any image: its budget, "
                "units or region leave nothing to change, and what it left is no robustness."
            )
        if self._clean and not self.model.classifies:
            clean = torch.cat(self._clean)
            caution = low_clean_caution(clean.nanmean(dim=1)) or low_organ_caution(list(self._organs.values()), clean)
            if caution:
                engine.logger.warning(f"{type(self).__name__} {self.name!r}: {caution}.")

    def _say_hidden(self, engine: SupervisedEvaluator) -> None:
        """What the attack does to the network's own answer must be seen in what is scored, or be said."""
        assert self.model is not None
        if not self._own or self.model.classifies:
            return
        own = float(torch.cat(self._own).nanmean())
        scored = float((torch.cat(self._clean).nanmean(dim=1) - torch.cat(self._robust).nanmean(dim=1)).nanmean())
        if own >= HIDDEN and scored <= ROOM:
            engine.logger.warning(
                f"{type(self).__name__} {self.name!r}: the network's own answer loses {own:.3f} Dice and what is "
                f"scored {scored:.3f}: the postprocessing hides the change (or takes its answer from elsewhere, such "
                "as the label), and an attack that knows it may do more."
            )

    def _valid(self, reference: torch.Tensor) -> torch.Tensor | None:
        """Voxels of one case's label that are not ignored."""
        assert self.model is not None
        ignored = self.model.ignore_index
        return None if ignored is None else (reference != ignored).all(dim=0, keepdim=True)

    def further(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """See :meth:`RobustEvaluation.further`."""
        numbers: dict[str, float] = {}
        details: dict[str, torch.Tensor] = {}
        for key, metric in self.metrics.items():
            numbers |= {f"{self.name}_{key}_{number}": value for number, value in metric.aggregate().items()}
            details[f"{self.name}_{key}"] = metric.get_buffer()
        return numbers, details

    def scores(self) -> RobustDice | None:
        """See :meth:`RobustEvaluation.scores`."""
        if self._scores is None and self._active:
            if not self._robust or self._batches != self._iterations:
                share = f"{self._batches} of {self._iterations} batches were" if self._batches else "no batch was"
                raise RuntimeError(
                    f"{share} evaluated under attack: the evaluator's iteration_update must fire "
                    "IterationEvents.FORWARD_COMPLETED once for each batch, as MONAI's own iteration does."
                )
            clean, robust = (torch.cat(rows) for rows in (self._clean, self._robust))
            assert self.model is not None
            say_repeated(f"{type(self).__name__} {self.name!r}", self._marks)
            self._scores = RobustDice(
                tuple(self._organs.values()),
                clean,
                robust,
                self.success_threshold,
                self.acceptable_dice,
                "accuracy" if self.model.classifies else "dice",
            ).gathered()
        return self._scores


def _tensor(values: Any) -> torch.Tensor:
    return as_plain(torch.as_tensor(values))
