# SPDX-License-Identifier: Apache-2.0
"""The attack of a training step: as many forward and backward passes as it has steps, and nothing else."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks.ascent import Ascent, zero_fraction
from monai_adversarial.attacks.flags import PAGE
from monai_adversarial.attacks.objectives import Objective, Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.reference import Reference, class_mask, prepared
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.models.doubts import warn_once
from monai_adversarial.models.first_batch import say_random
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import LabelMisfit, check_logits

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

__all__ = ["REFERENCES", "Perturbed", "perturb_batch"]

REFERENCES = ("label", "prediction", "probabilities")
#: batches in a row without any gradient that are no crops of padding any more
MOST_BLIND = 5


@dataclass
class Perturbed:
    """A batch that was perturbed for training.

    Args:
        adversarial: perturbed image in the clean image's type.
        label: the given label, moved with a geometric attack; None where none was given.
        parameters: what made the image, one row per sample.
        objective: value of the objective before the last step, (batch,).
        zero_gradient_fraction: share of gradient entries that were exactly zero in the last step, (batch,).
        bound: perturbation tied to the clean batch.
    """

    adversarial: torch.Tensor
    label: torch.Tensor | None
    parameters: Parameters
    objective: torch.Tensor
    zero_gradient_fraction: torch.Tensor
    bound: BoundPerturbation = field(repr=False)

    def pull_back(self, volume: torch.Tensor) -> torch.Tensor:
        """Bring what belongs to the perturbed image, for example logits, back to the clean anatomy (linear)."""
        return self.bound.pull_back(volume, self.parameters)

    def pulled_from_inside(self) -> torch.Tensor | None:
        """Boolean (batch, 1, spatial...): what ``pull_back`` reads from inside the volume; None for all voxels."""
        return self.bound.pulled_from_inside(self.parameters)


def perturb_batch(
    attack: Attack,
    predictor: Predictor,
    scene: Scene,
    image: torch.Tensor,
    label: torch.Tensor | None,
    reference: str,
    probabilities: torch.Tensor | None,
    start: Parameters | None,
    stream: int,
) -> Perturbed:
    """One run of an attack without checks of its outcome but one: samples with a NaN objective stay clean. See
    ``Attack.perturb``."""
    bound = attack.perturbation.bind(scene)
    known: list[Target] = []
    if probabilities is not None or reference != "label":
        soft = _reference_of_network(attack, predictor, scene, reference, probabilities)
        known.append(_prepared(attack, predictor, bound, soft))

    def target_of(classes: int) -> Target:
        if not known:  # the number of classes is what the first forward pass tells
            assert label is not None
            try:
                seen = Reference.read(predictor.model, label, classes)
            except LabelMisfit as misfit:
                warn_once(
                    predictor.model.network,
                    "label",
                    f"{misfit} Such batches are attacked against the network's own clean prediction.",
                )
                known.append(_reference_of_network(attack, predictor, scene, "prediction", None))
                return known[0]
            wanted = seen.objective_classes(attack.classes, predictor.model)
            known.append(_prepared(attack, predictor, bound, seen.target(class_mask(wanted, classes, label.device))))
        return known[0]

    ascent = Ascent(attack, predictor, bound, target_of, stream, start, attack.random_start)
    lost = torch.zeros(scene.batch, dtype=torch.bool, device=scene.image.device)
    for step in ascent:
        lost |= step.found.values.isnan()
        values, frozen = step.found.values, zero_fraction(bound, step.found)
        del step  # before the next one needs the memory
    if predictor.drew_random_numbers and not attack.gradient.averages:
        say_random(predictor.model)
    parameters = _without_lost(attack, predictor, bound, ascent.parameters, lost, frozen)
    with torch.no_grad():
        adversarial = bound.apply(scene.image, parameters)
        untouched = bound.untouched(scene.image)
        if untouched is not None:
            adversarial = torch.where(untouched, scene.image, adversarial)
        moved_label = label
        stays = attack.targeted or predictor.model.classifies
        if label is not None and bound.geometric and not stays:
            moved_label = bound.move_label(label, parameters)
    return Perturbed(
        adversarial=convert_to_dst_type(predictor.model.whole_image(adversarial, detached(image)), dst=image)[0],
        label=moved_label,
        parameters=parameters,
        objective=values,
        zero_gradient_fraction=frozen,
        bound=bound,
    )


def _prepared(attack: Attack, predictor: Predictor, bound: BoundPerturbation, target: Target) -> Target:
    """The reference as the objective wants it; one that knows the clean segmentation costs a forward pass more."""
    if type(attack.objective).prepare is Objective.prepare:
        return target
    return prepared(attack, target, bound, predictor, predictor.read_clean(bound.scene.image).prediction)


def _without_lost(
    attack: Attack,
    predictor: Predictor,
    bound: BoundPerturbation,
    parameters: Parameters,
    lost: torch.Tensor,
    frozen: torch.Tensor,
) -> Parameters:
    """Parameters with those of the clean image for samples at which the network was NaN: training goes on, and its own
    loss shows what is wrong. Batch after batch without any gradient is said, too: such a training is none."""
    for parameter in parameters:
        lost = lost | ~parameter.isfinite().flatten(1).all(dim=1)
    # The only time that a training attack waits for the device.
    count, blind = torch.stack([lost.sum(), (frozen == 1).all().long()]).tolist()
    attack._blind_batches = attack._blind_batches + 1 if blind else 0
    if attack._blind_batches == MOST_BLIND:
        warn_once(
            predictor.model.network,
            "zero gradients",
            f"every entry of the gradient was exactly zero in {MOST_BLIND} batches in a row: what the network is "
            "trained on is not adversarial. Rounding, a clamp, a detached part or saturated logits hide the gradient: "
            f"see {PAGE}#zero-gradients.",
        )
    if not count:
        return parameters
    if not attack._warned_of_nan:
        attack._warned_of_nan = True
        warnings.warn(
            f"the objective was NaN for {count} of {len(lost)} samples, which stay clean: check the network, the "
            "learning rate and the precision. Said once.",
            stacklevel=4,
        )
    return tuple(
        torch.where(per_sample(lost, parameter), zero, parameter)
        for parameter, zero in zip(parameters, bound.zeros(), strict=True)
    )


def _reference_of_network(
    attack: Attack, predictor: Predictor, scene: Scene, reference: str, probabilities: torch.Tensor | None
) -> Target:
    """Soft or hard reference that is not the label: the given probabilities, or the network's own answer."""
    if probabilities is not None:
        soft = probabilities.detach().to(scene.image)
        if soft.ndim == 2:  # of a classifier
            soft = soft.unsqueeze(-1)
        else:
            check_logits(soft, scene.image)
        classes = int(soft.shape[1])
        mask = class_mask(attack.classes, classes, soft.device)
        return Target(classes, soft=soft, class_mask=mask, activation=predictor.model.activation_of(classes))
    logits = predictor.read_clean_logits(scene.image)
    classes = int(logits.shape[1])
    activation, mask = predictor.model.activation_of(classes), class_mask(attack.classes, classes, logits.device)
    if reference == "prediction":
        return Target.from_label(hard_prediction(logits, activation), classes, activation, class_mask=mask)
    soft = logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)
    return Target(classes, soft=soft, class_mask=mask, activation=activation)
