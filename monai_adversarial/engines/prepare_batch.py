# SPDX-License-Identifier: Apache-2.0
"""Attack the batch where the engine prepares it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.engines import PrepareBatch, default_prepare_batch
from monai.utils import CommonKeys, convert_to_dst_type

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.attacks.perturbed import Perturbed
from monai_adversarial.engines.batch import (
    Batch,
    batch_region,
    check_sees_as_network,
    check_trains,
    fitting_label,
)
from monai_adversarial.engines.installed import Installed
from monai_adversarial.engines.unmet import Unmet
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.doubts import warn_once
from monai_adversarial.networks.dual_normalization import has_dual_normalization
from monai_adversarial.utils.modules import modules_of
from monai_adversarial.utils.validation import LabelMisfit, check_choice

__all__ = ["PrepareBatchAdversarial"]

_counting = threading.Lock()


class PrepareBatchAdversarial(PrepareBatch):
    """Replaces the image of each batch by its adversarial example, and the label by the one that belongs to it.

    The attack runs on the collated batch, on the engine's device, with the current weights, in a ``SupervisedTrainer``
    or ``SupervisedEvaluator``. ``engine.state.batch`` stays clean; ``engine.state.output`` holds the adversarial image.
    Given the ``engine``, it reads from it what is attacked (``AttackedModel.from_engine``), wraps the ``prepare_batch``
    that is there, says once what it found, and raises where an iteration was not attacked. At the end of a run it says
    what is left of the scores, and warns where the engine's own Dice is far above it. One that no batch ever met is
    named when the process ends. What an evaluator's ``SaveImage`` or ``SaveImaged`` writes of attacked images has the
    attack's name behind its postfix (``scan_seg_pgd.nii.gz``). An engine with an ``_iteration`` of its own that does
    not prepare its batch is attacked where it calls its inferer. As an overlay for an existing bundle, with no numbers
    but the budget::

        adversary:
          _target_: monai_adversarial.engines.PrepareBatchAdversarial
          attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, steps: 20}
          engine: "@evaluator"
        +initialize: ["@adversary"]

    ``engine`` is ``"@validate#evaluator"`` in ``evaluate`` configs, and ``"@train#trainer"`` with ``training: true`` in
    ``train`` configs; a name that the bundle does not have raises.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example_engines import example_evaluator
    >>> from monai_adversarial.engines import PrepareBatchAdversarial
    >>> evaluator = example_evaluator()
    >>> adversary = PrepareBatchAdversarial(PGD(16, "HU", steps=3), engine=evaluator)
    >>> evaluator.run()
    attacks `ExampleNetwork` behind `SimpleInferer`, -160..340 HU -> 0..1 from `preprocessing#0` ...
    >>> result = adversary.last_result
    >>> bool(result.adversarial_dice < result.clean_dice), result.budgets["noise_linf"].limit
    (True, 16.0)

    Args:
        attack: the attack. None leaves batches clean.
        model: what is attacked: an ``AttackedModel``, or a network with its defaults; None to read it from the engine.
        prepare_batch: what prepared the batch before; None for the engine's own, or MONAI's default. Further inputs
            of the network that it returns reach the network in every pass of the attack.
        reference: ``"label"`` attacks against the batch's label where there is one that fits, and against the
            network's clean prediction otherwise, said so in ``last_result``; ``"prediction"`` never reads the label.
        region_key: batch key of a mask of the voxels that may change.
        training: run the attack as training does (``Attack.perturb``): its last point, another random start for each
            batch, no scores, and no passes beyond its steps. The same as the handler ``AdversarialTraining`` with its
            defaults, for configs that slice their handler lists on other ranks. The number of batches fixes the
            random starts: put the object into the checkpoint to resume exactly.
        engine: the engine to join at once; the same as ``attach``.
        told: further arguments of ``AttackedModel`` for what cannot be read from the engine (``class_names``,
            ``ignore_index``, ``intensity``, ...), and ``image_key``, where the image is in the items of its data set.

    Attributes:
        last_result: the :class:`AttackResult` of the batch that finished last; None before the first, after a clean
            one, and with ``training``. Loaders with several threads should not rely on it.

    Raises:
        TypeError: for an ``attack`` that is not an ``Attack``, an engine that does not segment, and a batch whose image
            is not a tensor.
        ValueError: for what is told against what the engine shows.
    """

    def __init__(
        self,
        attack: Attack | None,
        model: AttackedModel | Callable[..., Any] | None = None,
        prepare_batch: Callable[..., Any] | None = None,
        reference: str = "label",
        region_key: str | None = None,
        training: bool = False,
        *,
        engine: Any = None,
        **told: Any,
    ) -> None:
        if attack is not None and not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack or None, got {type(attack).__name__}.")
        if model is not None and told:
            raise TypeError(
                f"{next(iter(told))} belongs to the model: say it in AttackedModel(...), not beside model=."
            )
        self.attack = attack
        self.training = bool(training)
        self.told = told
        self.model: AttackedModel | None = None
        if model is not None:
            self.use_model(AttackedModel.wrap(model))
        self.prepare_batch = prepare_batch
        self.reference = check_choice("reference", reference, ("label", "prediction"))
        self.region_key = region_key
        if self.training and attack is not None:
            check_trains(attack)
        self.batches = 0
        self.last_result: AttackResult | None = None
        self.installed: Installed | None = None
        self._unmet = Unmet(type(self).__name__)
        if engine is not None:
            self.attach(engine)

    def attach(self, engine: Any) -> None:
        """Join an engine: wrap its ``prepare_batch``, read what is attacked, count.

        Args:
            engine: a ``SupervisedEvaluator`` or ``SupervisedTrainer``.

        Raises:
            TypeError, ValueError: for an engine that does not fit or is attacked already.
        """
        if self.installed is not None:
            raise ValueError(f"this {type(self).__name__} has joined an engine already: make one for each engine.")
        self.installed = Installed(self, engine)

    def detach(self, engine: Any) -> None:
        """Leave the engine as it was."""
        if self.installed is not None and self.installed.engine is engine:
            self.installed.remove()
            self.installed = None

    def use_model(self, model: AttackedModel) -> None:
        """Attack this model from now on.

        Raises:
            ValueError: for one that a training cannot use.
        """
        if self.training:
            check_sees_as_network(model.image_units, model.intensity)
        self.model = model

    def attack_of(self, number: int) -> Attack | None:
        """The attack of a batch; None to leave it clean.

        Args:
            number: of the batch, from 1.
        """
        return self.attack

    def attacks_of(self) -> tuple[Attack, ...]:
        """All attacks that batches may meet."""
        return () if self.attack is None else (self.attack,)

    def __call__(
        self,
        batchdata: Any,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Prepare the batch and attack it; what the wrapped ``prepare_batch`` returns beyond image and label is passed
        on to the network."""
        prepared = (self.prepare_batch or default_prepare_batch)(batchdata, device, non_blocking, **kwargs)
        if self.installed is not None and self.installed.at_inferer:
            self.installed.hold(batchdata, Batch.read(prepared, label_required=False))
            return prepared
        image, label = self.attacked(batchdata, prepared)
        return image if isinstance(prepared, torch.Tensor) else (image, label, *prepared[2:])

    def attacked(self, batchdata: Any, prepared: Any) -> tuple[torch.Tensor, Any]:
        """The adversarial image of a prepared batch, and the label that belongs to it.

        Args:
            batchdata: the collated batch.
            prepared: what ``prepare_batch`` made of it.
        """
        found, batch = self._attack(batchdata, prepared)
        if self.installed is not None:
            self.installed.attacked()
        if found is None:
            return batch.image, batch.label
        return found.adversarial, _moved_label(found, batch.label)

    def _attack(self, batchdata: Any, prepared: Any) -> tuple[AttackResult | Perturbed | None, Batch]:
        self._unmet.met()
        with _counting:
            self.batches += 1
            number = self.batches
        batch = Batch.read(prepared, label_required=False)
        attack = self.attack_of(number)
        if attack is None:
            self.last_result = None
            return None, batch
        if self.model is None:
            raise ValueError(
                f"{type(self).__name__} does not know what to attack: pass model=, or engine= (or attach it) to read "
                "it from the engine."
            )
        model = self.model.with_arguments(batch.args, batch.kwargs)
        if self.installed is not None:
            self.installed.check_image(attack, batchdata, batch.image)
        region = batch_region(batchdata, self.region_key, batch.image)
        label, reason = None, "as reference='prediction' asks"
        if self.reference == "label":
            label, reason = fitting_label(model, batch.label, batch.image)
            if batch.label is None and isinstance(batchdata, Mapping) and batchdata.get(CommonKeys.LABEL) is not None:
                reason = f"prepare_batch gave no label (the batch's is a {type(batchdata[CommonKeys.LABEL]).__name__})"
            elif label is None and batch.label is not None:
                self._say_reference(reason)
        if self.training:
            return self._perturb(attack, model, batch.image, label, region, number), batch
        try:
            result = attack(model, batch.image, label, region=region)
        except LabelMisfit as misfit:
            reason = str(misfit).rstrip(".")
            self._say_reference(reason)
            result = attack(model, batch.image, None, region=region)
        result.reference_reason = reason if result.reference_is_prediction else ""
        self.last_result = result
        return result, batch

    def _say_reference(self, reason: str) -> None:
        assert self.model is not None
        warn_once(
            self.model.network,
            "reference",
            f"{reason}: the attack's reference is the network's own clean prediction instead.",
        )

    def _perturb(
        self,
        attack: Attack,
        model: AttackedModel,
        image: torch.Tensor,
        label: torch.Tensor | None,
        region: torch.Tensor | None,
        number: int,
    ) -> Perturbed:
        if any(has_dual_normalization(part) for part in modules_of(model.network)):
            raise ValueError(
                "PrepareBatchAdversarial would train one branch of the network's dual normalization only: use "
                "the handler AdversarialTraining with adversarial_weight below 1."
            )
        reference = "prediction" if label is None else "label"
        return attack.perturb(model, image, label, region=region, reference=reference, stream=number)

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that were prepared."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.batches = int(state["batches"])


def _moved_label(found: AttackResult | Perturbed, label: Any) -> Any:
    """The batch's label on the perturbed anatomy, in its own type."""
    used = found.label is not None and not getattr(found, "reference_is_prediction", False)
    if not found.bound.geometric or not used or not isinstance(label, (torch.Tensor, np.ndarray)):
        return label
    return convert_to_dst_type(found.label, dst=label)[0]
