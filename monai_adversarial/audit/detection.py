# SPDX-License-Identifier: Apache-2.0
"""Rows of a plan with a detector: the attacker who does not know it, and the one who does, always both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.detection import DetectionRow, Detector, FeatureDetector, Outcome, least_calibration_cases
from monai_adversarial.detection.density import estimators
from monai_adversarial.detection.table import adaptive_attacks
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.validation import check_count

__all__ = ["DetectorSetup", "attack_detected", "read_detector", "summarize_detection"]

KEYS = ("component", "fit_cases", "calibration_cases", "false_positive_rate", "weights")


@dataclass(frozen=True)
class DetectorSetup:
    """A detector that a row puts before the network, and the clean cases that it takes.

    The first ``fit_cases`` of the audited cases fit it, the next ``calibration_cases`` calibrate it, and the others are
    attacked.

    Args:
        name: of the detector's class.
        make: the detector of a model.
        fit_cases: number of cases.
        calibration_cases: number of cases.
        false_positive_rate: of clean cases that may be rejected.
        weights: of the detector in the adaptive attacker's objective.
        component: as the plan has it, for fingerprints.
    """

    name: str
    make: Callable[..., Any]
    fit_cases: int
    calibration_cases: int
    false_positive_rate: float
    weights: tuple[float, ...]
    component: str

    @property
    def aside(self) -> int:
        """Cases that are not attacked."""
        return self.fit_cases + self.calibration_cases

    def too_few(self, cases: int) -> str | None:
        """Why so many cases are not enough; None where they are."""
        if cases > self.aside:
            return None
        return (
            f"the detector takes the first {self.fit_cases} cases to fit to and the next {self.calibration_cases} to "
            f"calibrate on, and needs at least {self.aside + 1} cases, got {cases}."
        )

    def detector_of(self, model: AttackedModel) -> Detector:
        """The detector, not fitted."""
        made = self.make(model=model)
        if not isinstance(made, Detector):
            raise ValueError(f"component of detector must make a Detector, got {type(made).__name__}.")
        return made

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "fit_cases": self.fit_cases,
            "calibration_cases": self.calibration_cases,
            "false_positive_rate": self.false_positive_rate,
        }


def read_detector(row: str, given: Any) -> DetectorSetup:
    """What a row of a plan says of its detector.

    Args:
        row: its name, for errors.
        given: mapping of ``component`` (with ``_target_``, without ``model``), ``fit_cases``, ``calibration_cases``,
            ``false_positive_rate`` and ``weights``.

    Raises:
        ValueError: for something else.
        ModuleNotFoundError: where the detector needs an extra.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("component"), Mapping):
        raise ValueError(f"detector of row {row!r} must be a mapping with a component, got {given!r:.80}.")
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise ValueError(f"detector of row {row!r} has no key {unknown[0]!r}: it has {', '.join(KEYS)}.")
    component = dict(given["component"])
    try:
        made = ConfigParser({"detector": {**component, "_mode_": "callable"}}).get_parsed_content("detector")
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"detector of row {row!r} cannot be made: {reason:.200}") from error
    kind = getattr(made, "func", made)
    if not isinstance(kind, type) or not issubclass(kind, Detector):
        raise ValueError(f"component of detector of row {row!r} must be a Detector, got {kind!r:.80}.")
    if issubclass(kind, FeatureDetector):
        estimators("covariance")
    rate = given.get("false_positive_rate", 0.05)
    try:
        least = least_calibration_cases(rate)
        fit = check_count("fit_cases", given.get("fit_cases", 12))
        calibration = check_count("calibration_cases", given.get("calibration_cases", least), minimum=least)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"detector of row {row!r}: {error}") from error
    weights = tuple(float(weight) for weight in given.get("weights", (0.1, 1.0)))
    return DetectorSetup(kind.__name__, made, fit, calibration, float(rate), weights, repr(sorted(component.items())))


def attack_detected(
    detector: Detector,
    setup: DetectorSetup,
    attack: Attack,
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor | None,
) -> tuple[AttackResult, dict[str, Any], tuple[int, int]]:
    """Attack one case without and with knowledge of its detector.

    Args:
        detector: calibrated on other cases.
        setup: of the row.
        attack: of the row.
        model: that is attacked.
        image: (1, channel, spatial...).
        label: as for an attack.

    Returns:
        the image that serves the adaptive attacker best, what is recorded of both, and the passes of all attacks.
    """
    shown: tuple[tuple[bool, float], AttackResult] | None = None
    lowest: tuple[bool, float] | None = None
    record: dict[str, Any] = {"clean": _seen(detector, image), "threshold": detector.threshold, **setup.as_json()}
    forwards = backwards = 0
    for name, result in adaptive_attacks(detector, attack, model, image, label, setup.weights):
        forwards, backwards = forwards + result.forwards, backwards + result.backwards
        seen = {**_seen(detector, result.adversarial), "wrong": bool(result.success[0])}
        record.setdefault("unaware", seen)  # the first one
        rank = (not seen["wrong"], seen["score"])
        if lowest is None or rank < lowest:
            lowest = rank
            record["adaptive"] = {**seen, "attacker": name}
        # Where no attack succeeds, the worst segmentation is shown, and not the least suspicious one.
        place = rank if seen["wrong"] else (True, float(result.adversarial_dice[0]))
        if shown is None or place < shown[0]:
            shown = place, result
    assert shown is not None
    return shown[1], record, (forwards, backwards)


def _seen(detector: Detector, image: torch.Tensor) -> dict[str, Any]:
    score = detector.score(image)
    return {"score": float(score[0]), "accepted": bool(detector.accepts(score)[0])}


def summarize_detection(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Clean rejection, and what both attackers achieve; None where no detector stood before the network.

    Args:
        records: of one row and reference.
    """
    found = [record["detection"] for record in records if record.get("detection")]
    if not found:
        return None
    first = found[0]

    def column(who: str, what: str) -> torch.Tensor:
        return torch.tensor([one[who][what] for one in found])

    def outcome(who: str) -> Outcome:
        weights = (1.0,) if who == "adaptive" else ()
        return Outcome(column(who, "score").double(), column(who, "accepted"), column(who, "wrong"), weights)

    row = DetectionRow(
        first["name"],
        "",
        column("clean", "score").double(),
        column("clean", "accepted"),
        outcome("unaware"),
        outcome("adaptive"),
    )
    rate = float(first["false_positive_rate"])
    kept = ("name", "fit_cases", "calibration_cases", "false_positive_rate")
    return {"n": len(found), **{key: first[key] for key in kept}, **row.numbers(rate)}
