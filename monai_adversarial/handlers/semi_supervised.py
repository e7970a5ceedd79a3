# SPDX-License-Identifier: Apache-2.0
"""Adversarial training with images that nobody labeled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.base import AdversarialTrainingHandler
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.handlers.schedules import chance
from monai_adversarial.handlers.teacher import AveragedTeacher
from monai_adversarial.losses.masked_cross_entropy import masked_cross_entropy
from monai_adversarial.models.raw_answer import as_logits
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["SemiSupervisedAdversarialTraining"]


class SemiSupervisedAdversarialTraining(AdversarialTrainingHandler):
    """Semi-supervised adversarial training (SSAT): the network must give the attacked unlabeled image the pseudo-label
    that a teacher gave the clean one. Classes exclude each other (softmax), or there is one foreground channel.

    ``loss(labeled batch) + weight * cross_entropy(network(attacked unlabeled image), pseudo-label)``. The teacher is
    the exponential average of the network's weights; voxels at which it is less sure than ``confidence`` do not count.
    The trainer's labeled batch stays clean unless ``attack_labeled``.

    Pass ``first_epoch`` so that the network has learned something before it teaches itself: a teacher that still says
    background everywhere says it with confidence, and the training ends there. The numbers for logging
    ``state.output["confident_share"]`` and ``["pseudo_foreground_share"]`` (of all voxels) show it: the second goes
    to 0.

    >>> from monai.data import DataLoader
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import SemiSupervisedAdversarialTraining
    >>> model, image, label = example_case(16, seed=5)
    >>> unlabeled = DataLoader([{"image": model.intensity(image[0])}])
    >>> trainer = example_trainer([SemiSupervisedAdversarialTraining(PGD(8, "HU", steps=2), unlabeled)])
    >>> trainer.run()
    >>> 0 <= float(trainer.state.output["confident_share"]) <= 1
    True

    Args:
        attack: the attack on unlabeled images, or several of which each iteration draws one.
        unlabeled: data loader of batches with ``image_key`` (a label in them is not read); it starts again when it is
            exhausted. Its order depends on ``seed`` and the number of the pass.
        model: the model under attack, or facts of it; None for the trainer's network behind its inferer. See
            :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        weight: of the unlabeled term; 3 in the paper.
        confidence: probability that a pseudo-label needs.
        decay: of the teacher's average per iteration; 1 / (1 - decay) iterations must be few against the training, or
            averaged weights do not fit the BatchNorm statistics that are averaged with them.
        balanced: give each pseudo-class of a batch the same weight in the unlabeled term; it drew organs too
            large where it was tried.
        attack_labeled: attack the labeled batch as well, with equal weights of clean and adversarial loss.
        image_key: key of the image in the unlabeled batches.
        options: further arguments of :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`.

    Raises:
        TypeError, ValueError: for arguments or an engine that do not fit.
        KeyError: for unlabeled batches without ``image_key``.

    Source: Li et al. 2021 for the loss; teacher and confidence are a reconstruction for
    segmentation.

    Survey entry: D09 (adapted).
    """

    def __init__(
        self,
        attack: Attack | list[Attack] | tuple[Attack, ...],
        unlabeled: Iterable[Any],
        model: Told = None,
        *,
        weight: float = 3.0,
        confidence: float = 0.9,
        decay: float = 0.99,
        balanced: bool = False,
        attack_labeled: bool = False,
        image_key: str = CommonKeys.IMAGE,
        **options: Any,
    ) -> None:
        super().__init__(attack, model, **options)
        if not hasattr(unlabeled, "__iter__"):
            raise TypeError(f"unlabeled must be a data loader, got {type(unlabeled).__name__}.")
        self.unlabeled = unlabeled
        self.weight = check_positive("weight", weight)
        self.confidence = check_fraction("confidence", confidence)
        self.teacher = AveragedTeacher(decay)
        self.balanced = bool(balanced)
        self.attack_labeled = bool(attack_labeled)
        self.image_key = str(image_key)
        self._batches: Iterator[Any] | None = None
        self._first: list[Any] = []
        self._pass = self._used = 0
        self._labeled: Batch | None = None

    def describe(self) -> str:
        """What it will do."""
        return (
            f"{super().describe()}, minimizes loss(labeled) + {self.weight:g} cross-entropy(attacked unlabeled, "
            f"pseudo-label above {self.confidence:g})"
        )

    def attach(self, engine: Engine) -> None:
        """Join a trainer."""
        super().attach(engine)
        self._removable.append(self.teacher.follow(engine))

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Attack an unlabeled batch against the teacher's answer."""
        self.batch = self.perturbed = self._labeled = None
        # Not when the trainer starts: a checkpoint may be loaded after that.
        self.teacher.begin(self.network_of(engine))
        attack = self.attack_of(engine)
        if attack is None:
            return prepared
        labeled = Batch.read(prepared)
        if self.attack_labeled:
            self._labeled = labeled
            self._labeled_perturbed = self.perturb(engine, attack, batchdata, self._labeled)
        extra = self._next_batch()
        image = extra[self.image_key].to(engine.state.device, non_blocking=engine.non_blocking)
        assert self.model is not None
        probabilities = self.teacher.probabilities(image, self.model)
        if probabilities.shape[1] > 1 and self.model.activation_of(probabilities.shape[1]) == "sigmoid":
            raise ValueError(
                "semi-supervised training needs classes that exclude each other, got activation='sigmoid'."
            )
        if probabilities.shape[1] == 1:
            probabilities = torch.cat([1 - probabilities, probabilities], dim=1)
        confident, pseudo = probabilities.max(dim=1, keepdim=True)
        self.mask = (confident >= self.confidence).to(image.dtype)
        self.batch = Batch(image, pseudo)
        self.perturbed = self.perturb(engine, attack, extra, self.batch)
        return prepared

    def _next_batch(self) -> Any:
        for _ in range(2):
            if self._batches is None:
                self._batches = self._begin_pass()
            batch = self._following(self._batches)
            if batch is not None:
                self._used += 1
                if self.image_key not in batch:
                    raise KeyError(f"image_key {self.image_key!r} is not in the unlabeled batch: {list(batch)}.")
                return batch
            self._batches, self._pass, self._used = None, self._pass + 1, 0
        raise ValueError("unlabeled must hold at least one batch, got none.")

    def _begin_pass(self) -> Iterator[Any]:
        """One pass over the unlabeled batches, in an order that depends on the seed and the pass alone and leaves that
        of the labeled ones as it is; after a restart, from where it was."""
        sampler = getattr(self.unlabeled, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self._pass)  # type: ignore[union-attr]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(chance(self.seed, self._pass, 3) * 2**62))
            batches = iter(self.unlabeled)
            self._first = [next(batches, None)]  # a sampler draws its order here
        for _ in range(self._used):
            self._following(batches)
        return batches

    def _following(self, batches: Iterator[Any]) -> Any:
        return self._first.pop() if self._first else next(batches, None)

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Add the unlabeled term."""
        if self.batch is None or self.perturbed is None:
            return
        task = as_plain(engine.state.output[CommonKeys.LOSS])
        if self._labeled is not None:
            outputs = self.forward(engine, self._labeled, self._labeled_perturbed.adversarial)
            label = self._labeled_perturbed.label
            label = as_plain(label) if isinstance(label, torch.Tensor) else label
            task = 0.5 * task + 0.5 * engine.loss_function(outputs, label).mean()
        assert self.model is not None
        logits = as_logits(self.model, self.forward(engine, self.batch, self.perturbed.adversarial))
        mask = self.perturbed.bound.move_label(self.mask, self.perturbed.parameters)
        assert self.perturbed.label is not None
        term = masked_cross_entropy(logits, self.perturbed.label, mask, self.balanced)
        shares = {
            "confident_share": self.mask.mean(),
            "pseudo_foreground_share": (self.mask * (self.batch.label > 0)).mean(),
        }
        self.replace_loss(engine, task + self.weight * term, labeled_loss=task, adversarial_loss=term, **shares)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and the place in the unlabeled batches."""
        return {**self.teacher.state_dict(), "pass": self._pass, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same teacher and the next unlabeled batch."""
        self.teacher.load_state_dict(state)
        self._pass, self._used, self._batches = int(state["pass"]), int(state["used"]), None

    @property
    def average(self) -> nn.Module | None:
        """The teacher, an averaged network that may be deployed as well; None before the first iteration."""
        return self.teacher.network
