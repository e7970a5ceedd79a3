# SPDX-License-Identifier: Apache-2.0
"""Adversarial training with a margin for each case, which grows as far as the network can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils import convert_to_dst_type
from torch import distributed

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbations import AdditiveNoise, BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbed import Perturbed
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.adversarial_training import AdversarialTraining
from monai_adversarial.handlers.base import check_attack
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.networks.dual_normalization import normalization
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["MarginAdversarialTraining"]


class MarginAdversarialTraining(AdversarialTraining):
    """Increasing-margin adversarial training (IMA; for segmentation GAMAT): each training case has its own epsilon.

    A case is attacked within its present margin. Where the network still segments the adversarial image with a mean
    foreground Dice of at least ``correct_dice``, the margin grows by ``growth``, up to the attack's epsilon. Where it
    does not, ``bisections`` forward passes (one for the whole batch each) look on the segment between the clean and the
    adversarial image for the last point that is still right; that point is trained on and its distance is the new
    margin, 0 where not even the clean image is right. The loss is ``(1 - w) * loss(clean) + w * loss(adversarial)`` as
    in :class:`AdversarialTraining`. The check sees the network as the attack does, in evaluation mode. For logging,
    ``state.output["margin"]`` is the batch's mean margin and ``state.metrics["mean_margin"]`` that of all cases.

    Crops of one case share its margin; several in one batch take the smallest. With several processes the margins are
    exchanged at the end of each epoch.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import MarginAdversarialTraining
    >>> trainer = example_trainer([MarginAdversarialTraining(PGD(16, "HU", steps=2), case_key="case", growth=4)])
    >>> trainer.run()
    >>> 0 <= float(trainer.state.output["margin"]) <= 16
    True

    Args:
        attack: an attack of additive noise; its epsilon is the largest margin.
        model: the model under attack, or facts of it; None for the trainer's network behind its inferer. See
            :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        case_key: batch key of a name or number of each case; None for the ``filename_or_obj`` of the image's metadata.
        growth: of a margin when its case is right, in the units of the attack's epsilon; a new case begins with it.
            None for epsilon divided by the trainer's ``max_epochs``.
        correct_dice: mean foreground Dice from which on a segmentation is right, above 0 and at most 1. A case without
            foreground is right where none is found.
        bisections: forward passes that look for the boundary, to ``margin / 2**bisections``.
        adversarial_weight: w, from 0 to 1.
        options: ``probability``, ``first_epoch``, ``steps``, ``reference``, ``region_key``, ``seed`` of
            :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`.

    Attributes:
        margins: case -> margin in the units of the attack's epsilon.

    Raises:
        TypeError, ValueError: for arguments, an engine or a network that does not fit; also where the batch does not
            tell its cases apart.
        KeyError: for a batch without ``case_key``.

    Source: Ma and Liang 2021/2023, "Increasing Margin Adversarial training" and its GAMAT for segmentation; growth,
    the Dice that counts as right, and training on the last right point are a reconstruction.

    Survey entry: X15 (reconstruction).
    """

    def __init__(
        self,
        attack: Attack,
        model: Told = None,
        *,
        case_key: str | None = None,
        growth: float | None = None,
        correct_dice: float = 0.5,
        bisections: int = 5,
        adversarial_weight: float = 0.5,
        **options: Any,
    ) -> None:
        noise = check_attack(attack).perturbation
        if not isinstance(noise, AdditiveNoise):
            raise TypeError(
                "MarginAdversarialTraining needs an attack of additive noise, whose margin one number measures, got "
                f"{type(noise).__name__}."
            )
        if options.get("budget") is not None:
            raise ValueError("budget cannot be scheduled: MarginAdversarialTraining adapts it for each case.")
        super().__init__(attack, model, adversarial_weight=adversarial_weight, **options)
        self.largest = check_positive("epsilon of the attack", noise.epsilon)
        self.units = noise.units
        self.case_key = case_key
        self.growth = None if growth is None else check_positive("growth", growth)
        self._growth = self.growth or self.largest
        self.correct_dice = check_positive("correct_dice", check_fraction("correct_dice", correct_dice))
        self.bisections = check_count("bisections", bisections)
        self.margins: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._batch_margin: float | None = None

    def describe(self) -> str:
        """What it will do."""
        growth = "epsilon / max_epochs" if self.growth is None else f"{self.growth:g}"
        return (
            f"{super().describe()}, with a margin per case up to {self.largest:g} {self.units} that grows by {growth} "
            f"where the Dice is at least {self.correct_dice:g}"
        )

    def attach(self, engine: Engine) -> None:
        """Join a trainer; see :class:`AdversarialTraining`."""
        super().attach(engine)
        self._removable.append(engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed))

    def started(self, engine: SupervisedTrainer) -> None:
        """Learn how long the training is."""
        super().started(engine)
        if self.growth is None and not engine.state.max_epochs:
            raise ValueError("growth is missing: the trainer has no max_epochs to take it from.")
        self._growth = self.growth or self.largest / engine.state.max_epochs

    def cases_of(self, batchdata: Any, batch: Batch) -> list[str]:
        """A name for each sample's case."""
        count = int(batch.image.shape[0])
        if self.case_key is None:
            source = "the image has no filename_or_obj for each sample in its metadata"
            names = getattr(batch.image, "meta", {}).get("filename_or_obj")
        else:
            if not isinstance(batchdata, Mapping) or self.case_key not in batchdata:
                held = list(batchdata) if isinstance(batchdata, Mapping) else type(batchdata).__name__
                raise KeyError(f"case_key {self.case_key!r} is not in the batch, which holds {held}.")
            source = f"batch[{self.case_key!r}] does not hold one name or number for each sample"
            names = batchdata[self.case_key]
        if isinstance(names, torch.Tensor):
            names = as_plain(names).flatten().tolist()
        elif isinstance(names, str) or not isinstance(names, Sequence):
            names = [names]
        if len(names) != count or any(name is None or name == "" for name in names):
            raise ValueError(
                f"the cases of the batch cannot be told apart: {source}; pass case_key=, the key of a name or number "
                "that each case has of its own."
            )
        return [str(name) for name in names]

    def perturb(
        self, engine: SupervisedTrainer, attack: Attack, batchdata: Any, batch: Batch, **options: Any
    ) -> Perturbed:
        """Attack each sample within its case's margin, go back to the boundary where it succeeded, and update the
        margins."""
        cases = self.cases_of(batchdata, batch)
        first = min(self._growth, self.largest)
        margins = [self.margins.get(case, first) for case in cases]
        budget = torch.tensor(margins, dtype=torch.float64).div_(self.largest).to(batch.image)
        perturbed = super().perturb(engine, attack, batchdata, batch, budget=as_plain(budget), **options)
        shares, right = self._search(engine, attack, batch, perturbed)
        bound = perturbed.bound
        assert isinstance(bound, BoundAdditiveNoise)
        (noise,) = perturbed.parameters
        noise = noise * per_sample(shares, noise)
        # The one transfer to the host: which samples are right, and how far the others are from the boundary.
        reached, held = torch.stack([bound.size((noise,)).double(), right.double()]).tolist()
        self._update(cases, margins, reached, held)
        whole = self.model_for(batch).whole_image(bound.apply(bound.scene.image, (noise,)), detached(batch.image))
        adversarial = convert_to_dst_type(whole, dst=batch.image)[0]
        return replace(perturbed, adversarial=adversarial, parameters=(noise,))

    @torch.no_grad()
    def _search(
        self, engine: SupervisedTrainer, attack: Attack, batch: Batch, perturbed: Perturbed
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest share of each sample's noise that leaves it right, and whether all of it does, both (batch,)."""
        (noise,), bound = perturbed.parameters, perturbed.bound
        model = self.model_for(batch)
        scope = attack.scope(model, batch.image)
        draw = random_draw(engine.state.iteration, attack.steps)
        with normalization(model.network, "adversarial"), scope as (predictor, clean), draw, torch.no_grad():
            label = as_plain(batch.label).to(clean.device)

            def is_right(shares: torch.Tensor) -> torch.Tensor:
                logits = predictor(bound.apply(clean, (noise * per_sample(shares, noise),)))
                reference = Reference.read(model, label, int(logits.shape[1]))
                dice = reference.score(hard_prediction(logits, reference.activation))
                return ~(dice < self.correct_dice)  # NaN: nothing to find and nothing found

            high = torch.ones_like(noise.flatten(1)[:, 0])
            right = is_right(high)
            low = right.to(high.dtype)  # 1 and 1 where all of the noise leaves the sample right: that stays
            if not bool(right.all()):
                for _ in range(self.bisections):
                    middle = (low + high) / 2
                    fine = is_right(middle)
                    low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
        return low, right

    def _update(self, cases: list[str], margins: list[float], reached: list[float], held: list[float]) -> None:
        """The new margins; the smallest where a case is in the batch several times."""
        new: dict[str, float] = {}
        for case, margin, share, right in zip(cases, margins, reached, held, strict=True):
            wanted = min(margin + self._growth, self.largest) if right else min(share * self.largest, margin)
            new[case] = min(wanted, new.get(case, wanted))
        self.margins.update(new)
        self._changed.update(new)
        self._batch_margin = sum(new[case] for case in cases) / len(cases)

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Mix the losses."""
        super().loss_completed(engine)
        if self.perturbed is not None:
            engine.state.output["margin"] = self._batch_margin

    def epoch_completed(self, engine: Engine) -> None:
        """Exchange the margins with the other processes."""
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self._changed)
            merged: dict[str, float] = {}
            for part in parts:
                for case, margin in part.items():
                    merged[case] = min(margin, merged.get(case, margin))
            self.margins.update(merged)
        self._changed = {}
        if self.margins:
            engine.state.metrics["mean_margin"] = sum(self.margins.values()) / len(self.margins)

    def state_dict(self) -> dict[str, Any]:
        """The margins; with several processes those of all of them at the end of an epoch."""
        return {**super().state_dict(), "margins": dict(self.margins)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved margins; those above the attack's epsilon are cut to it."""
        super().load_state_dict(state)
        self.margins = {str(case): min(float(margin), self.largest) for case, margin in state["margins"].items()}
