# SPDX-License-Identifier: Apache-2.0
"""Attack the batch where the engine prepares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import PrepareBatch, default_prepare_batch

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.attacks.perturbed import Perturbed
from monai_adversarial.engines.batch import batch_region, check_trains
from monai_adversarial.networks.dual_normalization import has_dual_normalization
from monai_adversarial.utils.modules import modules_of
from monai_adversarial.utils.validation import check_choice

__all__ = ["PrepareBatchAdversarial"]


class PrepareBatchAdversarial(PrepareBatch):
    """Replaces the image of each batch by its adversarial example, and the label by the one that belongs to it.

    It wraps the ``prepare_batch`` of a ``SupervisedTrainer`` or ``SupervisedEvaluator``: the attack runs on the
    collated batch, on the engine's device, with the current weights. ``engine.state.batch`` stays clean;
    ``engine.state.output`` holds the adversarial image. As a one-key overlay for an existing bundle::

        evaluator#prepare_batch:
          _target_: monai_adversarial.engines.PrepareBatchAdversarial
          attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, intensity: {a_min: -57, a_max: 164}}
          network: "@network"
          inferer: "@inferer"

    Args:
        attack: the attack; it may be replaced between batches. None leaves batches clean.
        network: the network to attack, usually the engine's own.
        inferer: the engine's inferer, so that the attack sees the same windows as the evaluation.
        prepare_batch: what prepared the batch before; MONAI's default if None.
        reference: ``"label"`` attacks against the batch's label where there is one; ``"prediction"`` never reads it and
            uses the network's clean prediction (for inference pipelines whose batches carry a raw label).
        region_key: batch key of a mask of the voxels that may change.
        training: run the attack as training does (``Attack.perturb``): its last point, another random start for each
            batch, no scores, and no passes beyond its steps. The same as the handler ``AdversarialTraining`` with its
            defaults, for configs that slice their handler lists on other ranks. The number of batches fixes the
            random starts: put the object into the checkpoint to resume exactly.

    Attributes:
        last_result: the :class:`AttackResult` of the last batch; None before the first, after a clean one, and with
            ``training``.

    Raises:
        TypeError: for an ``attack`` that is not an ``Attack`` and a batch whose image is not a tensor.
    """

    def __init__(
        self,
        attack: Attack | None,
        network: Callable[..., Any],
        inferer: Callable[..., Any] | None = None,
        prepare_batch: Callable[..., Any] | None = None,
        reference: str = "label",
        region_key: str | None = None,
        training: bool = False,
    ) -> None:
        if attack is not None and not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack or None, got {type(attack).__name__}.")
        if not callable(network):
            raise TypeError(f"network must be a torch.nn.Module or a callable, got {type(network).__name__}.")
        self.attack = attack
        self.network = network
        self.inferer = inferer
        self.prepare_batch = prepare_batch or default_prepare_batch
        self.reference = check_choice("reference", reference, ("label", "prediction"))
        self.region_key = region_key
        self.training = bool(training)
        if self.training and attack is not None:
            check_trains(attack)
        self.batches = 0
        self.last_result: AttackResult | None = None

    def __call__(
        self,
        batchdata: Any,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Prepare the batch and attack it; what the wrapped ``prepare_batch`` returns beyond image and label is passed
        on."""
        prepared = self.prepare_batch(batchdata, device, non_blocking, **kwargs)
        self.last_result = None
        if self.attack is None:
            return prepared
        image, label, *rest = prepared if isinstance(prepared, (tuple, list)) else (prepared, None)
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"the batch's image must be a tensor to be attacked, got {type(image).__name__}.")
        region = batch_region(batchdata, self.region_key, image)
        reference = label if self.reference == "label" else None
        found: AttackResult | Perturbed
        if self.training:
            if any(has_dual_normalization(part) for part in modules_of(self.network)):
                raise ValueError(
                    "PrepareBatchAdversarial would train one branch of the network's dual normalization only: use "
                    "the handler AdversarialTraining with adversarial_weight below 1."
                )
            self.batches += 1
            found = self.attack.perturb(
                self.network,
                image,
                reference,
                inferer=self.inferer,
                region=region,
                reference="prediction" if reference is None else "label",
                stream=self.batches,
            )
        else:
            found = self.last_result = self.attack(self.network, image, reference, inferer=self.inferer, region=region)
        moved = found.label if reference is not None else label
        if isinstance(prepared, torch.Tensor):
            return found.adversarial
        return (found.adversarial, moved, *rest)

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that ``training`` has attacked."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.batches = int(state["batches"])
