# SPDX-License-Identifier: Apache-2.0
"""Learning from a teacher, on clean and on adversarial images."""

from __future__ import annotations

import os
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys
from torch import nn

from monai_adversarial.attacks import Attack
from monai_adversarial.attacks.perturbed import REFERENCES
from monai_adversarial.engines.batch import Batch
from monai_adversarial.handlers.engine_model import Told, inference_of
from monai_adversarial.handlers.loss_term import AdversarialLossTerm
from monai_adversarial.handlers.reference_network import ReferenceNetwork, frozen_outputs, reference_logits
from monai_adversarial.handlers.teacher import AveragedTeacher
from monai_adversarial.losses.distillation import DistillationLoss
from monai_adversarial.losses.voxelwise import resolve_activation
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.networks.dual_normalization import has_dual_normalization
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_fraction, check_positive

__all__ = [
    "AdversarialDistillation",
    "adversarially_robust_distillation",
    "defensive_distillation",
    "robust_soft_label",
    "self_distillation",
]

Attacks = Attack | list[Attack] | tuple[Attack, ...]


class AdversarialDistillation(AdversarialLossTerm):
    """The student learns from a teacher's soft answer to the clean image.

    Each iteration minimizes ``task_weight * loss(clean) + clean_weight * T^2 * KL(teacher(x) / T || student(x) / T) +
    adversarial_weight * T^2 * KL(teacher(x) / T || student(x') / T)``, the divergences as means over voxels. x' is
    found against the student, with the teacher's probabilities (without T) as what the attack wants to leave:
    cross-entropy is then the divergence from the teacher. In an iteration without attack x takes the place of x'.
    Logits of a geometrically attacked image are brought back to the clean anatomy.

    The teacher works in evaluation mode and in its own precision, gets no gradient, and is as before afterwards. Of a
    student that returns several levels (deep supervision) the first is compared where the teacher returns one.

    Numbers for logging: ``state.output["task_loss"]``, ``["distillation_loss"]`` (clean) and ``["adversarial_loss"]``,
    the unweighted terms that took part.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import AdversarialDistillation
    >>> distillation = AdversarialDistillation(ExampleNetwork(), PGD(8, "HU", steps=2), clean_weight=0.5)
    >>> trainer = example_trainer([distillation])
    >>> trainer.run()
    >>> sorted(name for name in trainer.state.output if name.endswith("_loss"))
    ['adversarial_loss', 'distillation_loss']

    Args:
        teacher: a trained network on the student's device; None for self-distillation from the exponential average of
            the student's weights.
        attack: the attack, or several of which each iteration draws one; None for plain distillation.
        model: the student under attack, or facts of it; None for the trainer's network behind its inferer. The teacher
            has the trainer's inferer. See :class:`~monai_adversarial.handlers.base.TrainingHandler`.
        temperature: T > 0 of both networks in the divergences. The student is deployed without it.
        task_weight: weight of the trainer's own loss on the clean batch.
        clean_weight: weight of the divergence on the clean image.
        adversarial_weight: weight of the divergence on the adversarial image.
        decay: share of the average that stays in each iteration, for ``teacher=None``.
        balanced: every class of a sample's label has the same weight in the divergences, so that small organs count.
        teacher_weights: checkpoint to load into ``teacher``; None where it has its weights.
        reference: what the attack wants to leave: ``"teacher"``, or see ``Attack.perturb``.
        options: ``probability``, ``first_epoch``, ``budget``, ``steps``, ``region_key``, ``seed`` of
            :class:`~monai_adversarial.handlers.base.AdversarialTrainingHandler`.

    Raises:
        TypeError, ValueError: for arguments or an engine that do not fit: a teacher that is trained along or is on
            another device, weights that are all zero.
        FileNotFoundError, RuntimeError: for ``teacher_weights`` that cannot be loaded.

    Source: see the recipes :func:`adversarially_robust_distillation`, :func:`robust_soft_label`,
    :func:`defensive_distillation`, :func:`self_distillation`.
    """

    attack_required = False
    always_joins = True

    def __init__(
        self,
        teacher: nn.Module | None,
        attack: Attacks | None,
        model: Told = None,
        *,
        temperature: float = 1.0,
        task_weight: float = 0.0,
        clean_weight: float = 0.0,
        adversarial_weight: float = 1.0,
        decay: float = 0.999,
        balanced: bool = False,
        teacher_weights: str | os.PathLike[str] | None = None,
        reference: str = "teacher",
        **options: Any,
    ) -> None:
        check_choice("reference", reference, ("teacher", *REFERENCES))
        super().__init__(
            attack,
            DistillationLoss(temperature, balanced),
            model,
            task_weight=task_weight,
            reference="label" if reference == "teacher" else reference,  # the teacher's answer replaces it
            **options,
        )
        self._temperature, self._leaves_teacher = float(temperature), reference == "teacher"
        self.clean_weight = check_positive("clean_weight", clean_weight, allow_zero=True)
        self.adversarial_weight = check_positive("adversarial_weight", adversarial_weight, allow_zero=True)
        if self.clean_weight + self.adversarial_weight == 0:
            raise ValueError("clean_weight or adversarial_weight must be > 0 to distill anything, got 0 for both.")
        if self.attacks and self.adversarial_weight == 0:
            raise ValueError("adversarial_weight must be > 0 for an attack, got 0: pass attack=None without one.")
        self.teacher: ReferenceNetwork | AveragedTeacher
        if teacher is not None:
            self.teacher = ReferenceNetwork(teacher, teacher_weights, "teacher")
        elif teacher_weights is not None:
            raise ValueError("teacher_weights need the teacher to load them into, got teacher=None.")
        else:
            self.teacher = AveragedTeacher(decay)
        self.teacher_outputs: Any = None
        self._teacher_model: AttackedModel | None = None

    def describe(self) -> str:
        """What it will do."""
        average = isinstance(self.teacher, AveragedTeacher)
        teacher = "its own average" if average else type(self.teacher.network).__name__
        clean, adversarial = self.clean_weight, self.adversarial_weight
        if not self.attacks:
            clean, adversarial = clean + adversarial, 0.0
        weights = {"loss(clean)": self.task_weight, "KL(clean)": clean, "KL(adversarial)": adversarial}
        formula = " + ".join(f"{weight:g} {name}" for name, weight in weights.items() if weight)
        attacks = super(AdversarialLossTerm, self).describe() if self.attacks else "attacks nothing"
        return f"{attacks}, minimizes {formula} with {teacher} as the teacher at temperature {self._temperature:g}"

    def attach(self, engine: Engine) -> None:
        """Join a trainer."""
        super().attach(engine)
        if isinstance(self.teacher, AveragedTeacher):
            self._removable.append(self.teacher.follow(engine))

    def started(self, engine: SupervisedTrainer) -> None:
        """Refuse a network whose clean branch would never be trained."""
        super().started(engine)
        if has_dual_normalization(self.network_of(engine)) and self.task_weight == 0 and self.clean_weight == 0:
            raise ValueError(
                "the network has dual normalization, but no term trains its clean branch: pass task_weight or "
                "clean_weight above 0."
            )

    def _check_device(self, engine: SupervisedTrainer) -> None:
        super()._check_device(engine)
        if isinstance(self.teacher, ReferenceNetwork):
            self.teacher.check(engine, self.network_of(engine))

    def prepare(self, engine: SupervisedTrainer, batchdata: Any, prepared: Any) -> Any:
        """Ask the teacher, then attack against its answer."""
        self.perturbed = None
        self.batch = batch = Batch.read(prepared)
        if isinstance(self.teacher, AveragedTeacher):
            # Not when the trainer starts: a checkpoint may be loaded after that.
            self.teacher.begin(self.network_of(engine))
        teacher = self.teacher.network
        assert teacher is not None
        if self._teacher_model is None or self._teacher_model.network is not teacher:
            self._teacher_model = self.model_for(batch).replace(network=teacher)
        outputs = frozen_outputs(teacher, batch.image, inference_of(self.model_for(batch), engine.inferer))
        self.teacher_outputs = reference_logits(self._teacher_model, outputs)
        attack = self.attack_of(engine)
        if attack is not None:
            options: dict[str, Any] = {}
            if self._leaves_teacher:
                options["probabilities"] = self._teacher_probabilities()
            self.perturbed = self.perturb(engine, attack, batchdata, batch, **options)
        return prepared

    def _teacher_probabilities(self) -> torch.Tensor:
        """The teacher's probabilities as the attack reads a network's answer."""
        assert self.model is not None
        logits = _finest(self.teacher_outputs)
        sigmoid = resolve_activation(self.model.activation_of(logits.shape[1]), logits) == "sigmoid"
        return logits.sigmoid() if sigmoid else logits.softmax(dim=1)

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Replace the loss."""
        if self.batch is None:
            return
        self.tell_activation()
        task = as_plain(engine.state.output[CommonKeys.LOSS])
        weighted, parts = [], {}
        if self.task_weight > 0:
            weighted.append(self.task_weight * task)
            parts["task_loss"] = task
        clean_weight = self.clean_weight + (self.adversarial_weight if self.perturbed is None else 0.0)
        if clean_weight > 0:
            clean = self.logits_of(engine.state.output[CommonKeys.PRED])
            parts["distillation_loss"] = self.divergence(clean)
            weighted.append(clean_weight * parts["distillation_loss"])
        if self.perturbed is not None:
            mask = self.perturbed.pulled_from_inside()
            parts["adversarial_loss"] = self.divergence(self.adversarial_outputs(engine), mask)
            weighted.append(self.adversarial_weight * parts["adversarial_loss"])
        self.replace_loss(engine, torch.stack(weighted).sum(), **parts)

    def divergence(self, student: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
        """``T^2 * KL(teacher / T || student / T)`` on the clean anatomy."""
        assert self.batch is not None
        teacher = self.teacher_outputs
        if isinstance(teacher, torch.Tensor):
            student = _finest(student)
        label = self.batch.label if self.loss_function.balanced else None  # type: ignore[attr-defined]
        return self.loss_function(student, teacher, label, mask=mask)

    def state_dict(self) -> dict[str, Any]:
        """The averaged teacher's weights; nothing for a given teacher, which does not change."""
        return self.teacher.state_dict() if isinstance(self.teacher, AveragedTeacher) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same averaged teacher, now or as soon as the trainer starts."""
        if isinstance(self.teacher, AveragedTeacher):
            self.teacher.load_state_dict(state)


def _finest(outputs: Any) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def adversarially_robust_distillation(
    teacher: nn.Module, attack: Attacks, *, alpha: float = 1.0, temperature: float = 30.0, **options: Any
) -> AdversarialDistillation:
    """Adversarially robust distillation (ARD): a robust teacher's robustness goes to a smaller student.

    ``alpha * T^2 * KL(teacher(x) / T || student(x') / T) + (1 - alpha) * loss(clean)``.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import adversarially_robust_distillation
    >>> handler = adversarially_robust_distillation(ExampleNetwork(), PGD(8, "HU", steps=2), alpha=0.9)
    >>> trainer = example_trainer([handler])
    >>> trainer.run()
    >>> trainer.state.output["adversarial_loss"].item() >= 0, "task_loss" in trainer.state.output
    (True, True)

    Args:
        teacher: a robust network, for example from ``AdversarialTraining``.
        attack: see :class:`AdversarialDistillation`; in the paper 10 steps.
        alpha: from 0 (exclusive) to 1.
        temperature: T.
        options: further arguments of :class:`AdversarialDistillation`.

    Source: Goldblum et al. 2020 (alpha 1, T 30).

    Survey entry: D12 (adapted).
    """
    if check_fraction("alpha", alpha) == 0:
        raise ValueError("alpha must be above 0 and at most 1, got 0: without the teacher this is no distillation.")
    return AdversarialDistillation(
        _given(teacher), attack, temperature=temperature, task_weight=1 - alpha, adversarial_weight=alpha, **options
    )


def robust_soft_label(
    teacher: nn.Module,
    attack: Attacks,
    *,
    adversarial_weight: float = 5 / 6,
    clean_weight: float = 1 / 6,
    **options: Any,
) -> AdversarialDistillation:
    """Robust soft label adversarial distillation (RSLAD): the teacher's answer takes the place of all labels.

    ``5/6 * KL(teacher(x) || student(x')) + 1/6 * KL(teacher(x) || student(x))``, at temperature 1.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import robust_soft_label
    >>> attack = PGD(16, "HU", steps=2, objective="cross_entropy")
    >>> trainer = example_trainer([robust_soft_label(ExampleNetwork(), attack)])
    >>> trainer.run()
    >>> float(trainer.state.output["adversarial_loss"]) > float(trainer.state.output["distillation_loss"])
    True

    Args:
        teacher: a robust network.
        attack: see :class:`AdversarialDistillation`; give it ``objective="cross_entropy"`` for the paper's.
        adversarial_weight, clean_weight: of the two terms.
        options: further arguments of :class:`AdversarialDistillation`.

    Source: Zi et al. 2021, "Revisiting adversarial robustness distillation: robust soft labels make student better".

    Survey entry: D12 (adapted).
    """
    return AdversarialDistillation(
        _given(teacher), attack, adversarial_weight=adversarial_weight, clean_weight=clean_weight, **options
    )


def defensive_distillation(teacher: nn.Module, temperature: float = 100.0, **options: Any) -> AdversarialDistillation:
    """Defensive distillation: soft labels at temperature T, and a student trained at T and deployed at T = 1.

    Warning:
        This is no defense. The student's logits grow with T; in float32 the softmax at T = 1 then saturates and the
        gradient of cross-entropy and of Dice is exactly zero, so that gradient attacks on them stand still while the
        network is as vulnerable as before. An attack on the logits (``objective="margin"``), or on logits divided by T,
        succeeds with the same budget (Carlini and Wagner 2016: 96.4 % of the images). A large
        ``zero_gradient_fraction`` of an attack's result is the sign of it. It is here to be compared with, and to be
        broken by adaptive attacks.

    >>> from monai_adversarial.data.example import ExampleNetwork
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import defensive_distillation
    >>> trainer = example_trainer([defensive_distillation(ExampleNetwork(), temperature=20.0)])
    >>> trainer.run()
    >>> float(trainer.state.output["distillation_loss"]) < 1e-3  # student and teacher are equal here
    True

    Args:
        teacher: a network of the student's architecture whose own training divided its logits by the same T before the
            loss.
        temperature: T.
        options: further arguments of :class:`AdversarialDistillation`. The default ``clean_weight`` of 1 / T^2 gives
            the paper's loss, the divergence itself.

    Source: Papernot et al. 2016.

    Survey entry: D11 (adapted).
    """
    options.setdefault("clean_weight", 1 / check_positive("temperature", temperature) ** 2)
    return AdversarialDistillation(_given(teacher), None, temperature=temperature, adversarial_weight=0.0, **options)


def self_distillation(
    attack: Attacks | None,
    *,
    temperature: float = 1.0,
    decay: float = 0.999,
    task_weight: float = 1.0,
    adversarial_weight: float = 1.0,
    **options: Any,
) -> AdversarialDistillation:
    """Adversarial self-distillation: the exponential average of the student is its teacher.

    ``loss(clean) + T^2 * KL(average(x) / T || student(x') / T)``. Nobody else's network is needed.

    >>> from monai_adversarial.attacks import FGSM
    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import self_distillation
    >>> trainer = example_trainer([self_distillation(FGSM(8, "HU"))])
    >>> trainer.run()
    >>> sorted(name for name in trainer.state.output if name.endswith("_loss"))
    ['adversarial_loss', 'task_loss']

    Args:
        attack: see :class:`AdversarialDistillation`.
        temperature, decay, task_weight, adversarial_weight: see :class:`AdversarialDistillation`.
        options: further arguments of it.

    Source: reconstruction, no formula was published with the name. The average is the "mean teacher" of
    Tarvainen and Valpola 2017.

    Survey entry: D12 (reconstruction).
    """
    return AdversarialDistillation(
        None,
        attack,
        temperature=temperature,
        decay=decay,
        task_weight=task_weight,
        adversarial_weight=adversarial_weight,
        **options,
    )


def _given(teacher: nn.Module) -> nn.Module:
    if teacher is None:
        raise TypeError("teacher must be a torch.nn.Module, got None: self_distillation does without.")
    return teacher
