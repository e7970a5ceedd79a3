# SPDX-License-Identifier: Apache-2.0
"""What a detector is worth against an attacker who does not know it and one who does, always side by side."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives.base import AdditiveObjective
from monai_adversarial.attacks.objectives.dice_ce import DiceCE
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.density import FeatureDetector
from monai_adversarial.detection.evading import Evading
from monai_adversarial.detection.fitting import UNLIKELY, chance_of_rejecting
from monai_adversarial.detection.hiding import HidingFeatures
from monai_adversarial.detection.misplacing import MisplacedAnatomy
from monai_adversarial.detection.orthogonal import OrthogonalGradient
from monai_adversarial.metrics.detection import AdversarialRisk, detection_scores
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_choice, check_instance, check_positive

__all__ = ["ATTACKERS", "DetectionRow", "DetectionTable", "Outcome", "adaptive_attacks", "evaluate_detector"]

ATTACKERS = ("evading", "hiding", "orthogonal", "misplacing")


@dataclass(frozen=True)
class Outcome:
    """Attacked images as the detector saw them, (case,) each.

    >>> import torch
    >>> from monai_adversarial.detection import Outcome
    >>> found = Outcome(torch.tensor([0.2, 0.9]), torch.tensor([True, False]), torch.tensor([True, True]))
    >>> int((found.accepted & found.wrong).sum())  # attacked images that pass unseen and are wrong
    1

    Args:
        scores: the detector's.
        accepted: whether it let them through.
        wrong: whether the attack succeeded; of a classifier, whether the answer is wrong under attack, that to an image
            included that was misread before: one answer to everything would carry no risk otherwise.
        weights: of the detector in the attacker's objective; empty for an attacker who did not know it.
        attackers: which of several attackers the image of each case is of; empty where there was one.
        tried: everyone whose images were compared, each once.
    """

    scores: torch.Tensor
    accepted: torch.Tensor
    wrong: torch.Tensor
    weights: tuple[float, ...] = ()
    attackers: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()


@dataclass(frozen=True)
class DetectionRow:
    """One detector under one attack.

    >>> import torch
    >>> from monai_adversarial.detection import DetectionRow, Outcome
    >>> no, yes = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    >>> unaware = Outcome(torch.tensor([0.8, 0.9]), accepted=no, wrong=yes)
    >>> adaptive = Outcome(torch.tensor([0.1, 0.2]), accepted=yes, wrong=yes, weights=(1.0,))
    >>> row = DetectionRow("entropy", "pgd", torch.tensor([0.1, 0.3]), yes, unaware, adaptive)
    >>> found = row.numbers(false_positive_rate=0.05)
    >>> {name: value for name, value in found.items() if name.endswith("auroc")}
    {'unaware_auroc': 1.0, 'adaptive_auroc': 0.375}

    Args:
        detector: its name.
        attack: the attack's.
        clean_scores: of held-out clean images, (case,).
        clean_accepted: whether they were let through.
        unaware: by the attacker who does not know the detector.
        adaptive: by the one who does; None as long as that was not measured, and the row is not shown until then.
    """

    detector: str
    attack: str
    clean_scores: torch.Tensor
    clean_accepted: torch.Tensor
    unaware: Outcome
    adaptive: Outcome | None = None

    def numbers(self, false_positive_rate: float) -> dict[str, float]:
        """Detection scores, adversarial risk and clean rejection, with the prefix ``unaware_`` or ``adaptive_``.

        Raises:
            ValueError: where there is no adaptive attack.
        """
        if self.adaptive is None or not self.adaptive.weights:
            raise ValueError(
                f"adaptive is missing for {self.detector} under {self.attack}: a detector's table is shown only with "
                "an attacker who knows it; measure it with evaluate_detector."
            )
        found = {"clean_rejected": 1 - float(self.clean_accepted.double().mean())}
        for name, outcome in (("unaware", self.unaware), ("adaptive", self.adaptive)):
            risk = AdversarialRisk()
            risk(outcome.wrong, outcome.accepted)
            scores = detection_scores(self.clean_scores, outcome.scores, false_positive_rate)
            found |= {f"{name}_{key}": value for key, value in (scores | risk.aggregate()).items()}
        return found


@dataclass
class DetectionTable:
    """Rows of detectors and attacks. Without the adaptive column it refuses to be printed or exported.

    >>> import torch
    >>> from monai_adversarial.detection import DetectionRow, DetectionTable, Outcome
    >>> yes, no, low, high = torch.tensor([True]), torch.tensor([False]), torch.tensor([0.1]), torch.tensor([0.9])
    >>> row = DetectionRow("gaussian", "PGD", low, yes, Outcome(high, no, yes))
    >>> print(DetectionTable([row]))
    Traceback (most recent call last):
    ValueError: adaptive is missing for gaussian under PGD: ...

    Args:
        rows: what was measured.
        false_positive_rate: at which the true positive rate is read.
    """

    rows: list[DetectionRow] = field(default_factory=list, repr=False)
    false_positive_rate: float = 0.05

    def records(self) -> list[dict[str, Any]]:
        """One dictionary per row, for JSON.

        Raises:
            ValueError: where a row has no adaptive attack.
        """
        return [
            {"detector": row.detector, "attack": row.attack, "cases": len(row.unaware.scores)}
            | row.numbers(self.false_positive_rate)
            for row in self.rows
        ]

    def __str__(self) -> str:
        """A Markdown table.

        Raises:
            ValueError: where a row has no adaptive attack.
        """
        tpr = f"TPR at {self.false_positive_rate:.0%} FPR"
        lines = [
            f"| detector | attack | clean rejected | attacker | AUROC | AUPR | {tpr} | wrong | wrong and accepted |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for record in self.records():
            for who in ("unaware", "adaptive"):
                keys = ("auroc", "aupr", "true_positive_rate", "wrong", "adversarial_risk")
                numbers = " | ".join(f"{record[f'{who}_{key}']:.2f}" for key in keys)
                begin = f"| {record['detector']} | {record['attack']} | {record['clean_rejected']:.2f}"
                lines.append(f"{begin} | {who} | {numbers} |")
        return "\n".join(lines)


def evaluate_detector(
    detector: Detector,
    attack: Attack,
    cases: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
    weights: Sequence[float] = (0.1, 0.3, 1.0),
    name: str | None = None,
    attackers: Sequence[str] = ATTACKERS,
    density: FeatureDetector | None = None,
) -> DetectionRow:
    """Attack held-out cases without and with knowledge of the detector.

    The attacker who knows it is the strongest of several, each of which runs twice: from where the unaware attack
    ended, and from a start of its own. For each case it keeps the best of all images: wrong with the lowest score, or
    where none is wrong the lowest score. The unaware image is among them, so that to know more never makes it weaker in
    the adversarial risk. ``adaptive.attackers`` names whose image it is, and ``adaptive.tried`` who took part. Where
    the attack's objective changes from step to step (``AnnealedDice``, the default of PGD and Auto-PGD), those who know
    the detector maximize ``DiceCE``.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FrequencyProfile, evaluate_detector
    >>> model, image, label = example_case(16)
    >>> detector = FrequencyProfile(model, bands=4).fit(example_case(16, seed)[1] for seed in range(1, 9))
    >>> _ = detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), false_positive_rate=0.2)
    >>> row = evaluate_detector(detector, PGD(8, units="HU", steps=3), [(image, label)], weights=[1.0])
    >>> row.numbers(0.05)["adaptive_adversarial_risk"] >= row.numbers(0.05)["unaware_adversarial_risk"]
    True

    Args:
        detector: calibrated.
        attack: of the detector's model; its objective must be one of sums over voxels.
        cases: (image, label) batches that neither ``fit`` nor ``calibrate`` has seen.
        weights: of the detector in the attacker's objective, at least one.
        name: of the attack; None for its class.
        attackers: ``"evading"`` must be among them (:class:`Evading`, once per weight). ``"hiding"``
            (:class:`HidingFeatures`, with the largest weight) needs a density to hide in. ``"orthogonal"``
            (:class:`OrthogonalGradient`, with the largest weight) needs an attack that follows gradients.
            ``"misplacing"`` (:class:`MisplacedAnatomy` and the detector's score with the smallest weight) needs a
            segmentation that stays in its place, and Dice as the rule of success.
        density: of clean features, in which ``"hiding"`` hides; None for the detector itself if it is one.

    Raises:
        TypeError: for an attack whose objective cannot be joined with the detector.
        ValueError: for no cases, no weights, other attackers, a detector without a threshold, and cases that it has
            seen.

    Source: Carlini and Wagner, Adversarial Examples Are Not Easily Detected, 2017, for the demand; the choice of the
    best image per case is ours.
    """
    check_instance("detector", detector, Detector, "GaussianDensity(model)")
    check_instance("attack", attack, Attack, "PGD(8, units='HU')")
    tried = tuple(check_positive("weights", weight) for weight in weights)
    if not tried:
        raise ValueError("weights must hold at least one number above 0, got none.")
    if not isinstance(attack.objective, AdditiveObjective):
        raise TypeError(f"the attack's objective must be a sum over voxels, got {type(attack.objective).__name__}.")
    for one in attackers:
        check_choice("attackers", one, ATTACKERS)
    if "evading" not in attackers:
        raise ValueError(f"attackers must hold 'evading', without which no row is shown, got {list(attackers)}.")
    knowing = _knowing(detector, attack, tried, attackers, density)
    clean: list[torch.Tensor] = []
    unaware: list[Seen] = []
    adaptive: list[Seen] = []
    whose: list[str] = []
    everyone: dict[str, None] = {}
    for image, label in cases:
        if bool(detector.has_seen(image).any()):
            raise ValueError("cases holds images that the detector was fitted to or calibrated on: pass held-out ones.")
        clean.append(detector.score(image).cpu())
        names, found = [], []
        for one, result in _everyone(attack, knowing, detector.model, image, label):
            names.append(one)
            found.append(_seen(detector, attack, result))
        unaware.append(found[0])
        best, chosen = _best(found)
        adaptive.append(best)
        whose += [names[number] for number in chosen.tolist()]
        everyone |= dict.fromkeys(names)
    if not clean:
        raise ValueError("cases must hold at least one batch, got none.")
    scores = torch.cat(clean)
    row = DetectionRow(
        detector=type(detector).__name__,
        attack=name or type(attack).__name__,
        clean_scores=scores,
        clean_accepted=detector.accepts(scores),
        unaware=_outcome(detector, unaware),
        adaptive=_outcome(detector, adaptive, tried, tuple(whose), tuple(everyone)),
    )
    _say_what_is_no_success(detector, row)
    return row


def _say_what_is_no_success(detector: Detector, row: DetectionRow) -> None:
    """A low risk is not the detector's merit where it rejects clean images as well, or no attack made one wrong."""
    cases, rejected = len(row.clean_accepted), int((~row.clean_accepted).sum())
    rate = detector.false_positive_rate or 0.0
    chance = chance_of_rejecting(rejected, cases, detector.calibration_cases, rate) if rejected else 1.0
    if chance < UNLIKELY:
        warnings.warn(
            f"{row.detector} rejects {rejected} of {cases} clean images, asked for at most {rate:.0%} (by chance in "
            f"{chance:.1%} of calibrations): images that it rejects are no success of it; calibrate it on cases like "
            "these, in the same units.",
            stacklevel=3,
        )
    if row.adaptive is not None and not bool(row.adaptive.wrong.any()):
        warnings.warn(
            f"no attack on {row.detector} made one of {cases} images wrong, so that an adversarial risk of 0 says "
            "nothing about the detector: give a larger budget or more steps, and look at the clean score.",
            stacklevel=3,
        )


Seen = tuple[torch.Tensor, torch.Tensor]


def _seen(detector: Detector, attack: Attack, result: AttackResult) -> Seen:
    """Score of each image, and whether it ends wrong."""
    wrong = result.success
    if result.metric == "accuracy" and not attack.targeted:
        wrong = wrong | (result.adversarial_score < attack.success_threshold)
    return detector.score(result.adversarial).cpu(), wrong.cpu()


def adaptive_attacks(
    detector: Detector,
    attack: Attack,
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor | None,
    weights: Sequence[float] = (0.1, 0.3, 1.0),
    attackers: Sequence[str] = ATTACKERS,
    density: FeatureDetector | None = None,
) -> Iterator[tuple[str, AttackResult]]:
    """Name and result of the unaware attack first, then of everyone who knows the detector, one after the other.

    Args:
        detector, attack, weights, attackers, density: see :func:`evaluate_detector`.
        model: that is attacked.
        image: of one batch.
        label: as for an attack.
    """
    yield from _everyone(attack, _knowing(detector, attack, weights, attackers, density), model, image, label)


def _everyone(
    attack: Attack,
    knowing: Sequence[tuple[str, Attack]],
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor | None,
) -> Iterator[tuple[str, AttackResult]]:
    first = attack(model, image, label)
    yield "unaware", first
    for name, aware in knowing:
        if name.startswith("misplacing") and (first.metric != "Dice" or first.bound.geometric):
            continue  # what a classifier says has no place, and a deformation moves the truth along
        for start in (first.parameters, None):
            yield name, aware(model, image, label, start=start)


def _knowing(
    detector: Detector,
    attack: Attack,
    weights: Sequence[float],
    attackers: Sequence[str],
    density: FeatureDetector | None,
) -> list[tuple[str, Attack]]:
    """Name and attack of everyone who knows the detector."""
    strongest = max(weights)
    # A value that changes its scale from step to step cannot be weighed against a score that does not.
    changes = isinstance(attack.objective, AdditiveObjective) and attack.objective.follows_progress
    objective = DiceCE() if changes else attack.objective
    made: list[tuple[str, Attack]] = []

    def add(name: str, **parts: Any) -> None:
        aware = copy.copy(attack)
        for part, value in parts.items():
            setattr(aware, part, value)
        made.append((name, aware))

    for weight in weights:
        add(f"evading, weight {weight:g}", objective=Evading(objective, detector, weight))
    hidden = detector if density is None and isinstance(detector, FeatureDetector) else density
    if "hiding" in attackers and hidden is not None:
        add(f"hiding, weight {strongest:g}", objective=HidingFeatures(objective, hidden, strongest))
    if "orthogonal" in attackers and attack.search.uses_gradients and not attack.by_queries:
        add(
            "orthogonal",
            objective=Evading(objective, detector, strongest),
            gradient=OrthogonalGradient(detector, attack.gradient),
        )
    if "misplacing" in attackers and not attack.objective.directed and not attack.targeted:
        weakest = min(weights)
        add(f"misplacing, weight {weakest:g}", objective=Evading(MisplacedAnatomy(), detector, weakest))
    return made


def _best(found: Sequence[Seen]) -> tuple[Seen, torch.Tensor]:
    """Of each case what serves the attacker best, and which of them it is."""
    scores = torch.stack([one[0] for one in found])  # attack, case
    wrong = torch.stack([one[1] for one in found])
    # what is wrong is among itself as what is right: an accepted one has a lower score than a rejected one
    cost = torch.where(wrong, scores, torch.inf)
    chosen = torch.where(wrong.any(dim=0), cost.argmin(dim=0), scores.argmin(dim=0))
    column = torch.arange(scores.shape[1])
    return (scores[chosen, column], wrong[chosen, column]), chosen


def _outcome(
    detector: Detector,
    found: Sequence[Seen],
    weights: tuple[float, ...] = (),
    attackers: tuple[str, ...] = (),
    tried: tuple[str, ...] = (),
) -> Outcome:
    scores = torch.cat([one[0] for one in found])
    wrong = torch.cat([one[1] for one in found])
    return Outcome(scores, detector.accepts(scores), wrong, weights, attackers, tried)
