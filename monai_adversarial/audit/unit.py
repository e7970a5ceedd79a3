# SPDX-License-Identifier: Apache-2.0
"""One case under one row of a plan: attack, deploy, score, picture."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.audit.case_checks import check_label_values, says_voxel_size
from monai_adversarial.audit.detection import attack_detected
from monai_adversarial.audit.native_image import save_clean, save_native
from monai_adversarial.audit.picture import save_picture
from monai_adversarial.audit.plan import Plan, Row
from monai_adversarial.audit.scores import score_organs
from monai_adversarial.audit.segmentation import Segmentation, label_on_image, on_grid
from monai_adversarial.audit.target import AuditCase, AuditTarget
from monai_adversarial.detection import Detector
from monai_adversarial.metrics import mean_score
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.first_batch import background_reason
from monai_adversarial.studies.measurement import (
    CLEAN_PREDICTION,
    LABEL,
    measured_budgets,
    measurement_record,
    norm_of,
)
from monai_adversarial.studies.records import safe_name
from monai_adversarial.studies.study import Cell
from monai_adversarial.utils.hashing import file_hash, tensor_hash
from monai_adversarial.utils.plain import as_plain

__all__ = ["AuditUnit", "unit_files"]

#: units of what is measured where the file's values are not HU
FILE_VALUES = "file values"


def unit_files(output_dir: Path, cell: Cell) -> dict[str, Path]:
    """The files that a unit may write: kind -> path."""
    folder, case = output_dir / "rows" / safe_name(cell.attack), safe_name(cell.case)
    return {
        "panel": folder / f"{case}.png",
        "clean": folder / f"{case}_clean.nii.gz",
        "adversarial": folder / f"{case}_adversarial.nii.gz",
        "prediction": folder / f"{case}_adversarial_prediction.nii.gz",
        "clean_prediction": folder / f"{case}_adversarial_clean_prediction.nii.gz",
    }


class AuditUnit:
    """One case under one row.

    Args:
        target: what is audited.
        case: preprocessed.
        row: of the plan.
        plan: its tolerance and seed.
        cell: names.
        scored: the model that says which classes are scored.
        surrogate: network whose gradients a transfer row follows.
        images: write adversarial images on the grid of the file.
        pictures: draw a panel.
        detector: that stands before the network, calibrated on other cases.
    """

    def __init__(
        self,
        target: AuditTarget,
        case: AuditCase,
        row: Row,
        plan: Plan,
        cell: Cell,
        scored: AttackedModel,
        surrogate: AttackedModel | None = None,
        images: bool = False,
        pictures: bool = True,
        detector: Detector | None = None,
    ) -> None:
        self.detector = detector
        self.target, self.case, self.row, self.plan, self.cell = target, case, row, plan, cell
        self.scored, self.surrogate, self.images, self.pictures = scored, surrogate, images, pictures
        self.reference_kind = CLEAN_PREDICTION if case.reference is None else LABEL

    def run(self, output_dir: Path) -> dict[str, Any]:
        """Run the unit, write its files below ``output_dir`` and return its record."""
        began = time.perf_counter()
        clean = self._clean()
        # A class map for masks that may overlap is checked where it is compared: ``_check_class_map``.
        if self.case.reference is not None and self.case.reference.masks >= clean.masks:
            check_label_values(
                self.case.name,
                self.case.reference.values,
                self.case.reference.masks,
                self.target.model.found_classes or 1,
                self.scored.ignore_index,
            )
        if self.row.attack is None:
            reference = self._reference(clean)
            scores = {"clean": self._score(clean, reference)}
            cost = {"forwards": 1, "backwards": 0}
            files = {"clean": save_clean(self.case, unit_files(output_dir, self.cell)["clean"])} if self.images else {}
            constant = bool((clean.values == clean.values.flatten()[0]).all())
            seen = {
                "constant_answer": constant,
                "says_voxel_size": says_voxel_size(self.case.file),
                "background": self._background(clean),
            }
            return self._record(None, scores, seen, cost, began, files, output_dir)
        attack: Attack = self.row.attack
        attacked = self.target.model_for(self.case)
        crafted_on = self.surrogate if self.row.needs == "surrogate" and self.surrogate is not None else attacked
        model = (
            crafted_on
            if self.scored.scored_classes is None
            else crafted_on.replace(scored_classes=self.scored.scored_classes)
        )
        detection: dict[str, Any] | None = None
        if self.detector is None or self.row.detector is None:
            result = attack(model, self.case.image, self.case.label)
            passes = result.forwards, result.backwards
        else:  # what is scored and shown is the attacker's who knows the detector
            result, detection, passes = attack_detected(
                self.detector, self.row.detector, attack, model, self.case.image, self.case.label
            )
        adversarial = self.target.deploy(self.case, result.adversarial)
        moved = label_on_image(result.label, self.case.image, clean.masks) if result.bound.geometric else None
        # Anatomy that moved is compared where it moved, and everything beside it there as well: on the network's grid.
        if moved is None:
            reference = self._reference(clean)
        else:
            reference = label_on_image(result.clean_label, self.case.image, clean.masks)
        scores = {
            "clean": self._score(clean, reference),
            "random": self._control(result, reference, clean.masks),
            "adversarial": self._score(adversarial, reference if moved is None else moved),
        }
        if moved is not None:
            scores["adversarial_original_label"] = self._score(adversarial, reference)
        measurements = _in_file_values(measured_budgets(result.budgets, norm_of(attack)), self.target.budget_units)
        found = {"reference": reference, "clean": clean, "adversarial": adversarial}
        files, saved = self._files(result, found, moved, scores, measurements, output_dir)
        extra = {
            "measurements": measurements,
            "saved_file": saved or None,
            "zero_gradient_fraction": float(result.zero_gradient_fraction[0]),
            "objective_history": [round(float(value), 6) for value in result.objective_history[:, 0].tolist()],
            "largest_change": float((as_plain(result.adversarial) - as_plain(result.image)).abs().max()),
            "changed_share": float((as_plain(result.adversarial) != as_plain(result.image)).float().mean()),
            "draws": _draws(result, self._organs(model)),
            "attack_dice": {"clean": float(result.clean_dice[0]), "adversarial": float(result.adversarial_dice[0])},
        }
        if detection is not None:
            extra["detection"] = detection
        cost = {
            # The deployed answers to the attack, to its control and to the file that was saved.
            "forwards": passes[0] + 2 + bool(saved),
            "backwards": passes[1],
        }
        return self._record(attack, scores, extra, cost, began, files, output_dir)

    def _organs(self, model: AttackedModel) -> dict[int, str]:
        classes = model.found_classes or 1
        activation = model.activation_of(classes)
        names = organ_channels(classes, activation, self.scored.class_names, self.scored.scored_classes)
        # One sigmoid channel: what it finds is class 1 of the class map.
        return {1: names[0]} if classes == 1 else names

    def _background(self, clean: Segmentation) -> str:
        """Why channel 0 is a background that counts as an organ; empty where it is none."""
        if not clean.masks:
            return ""
        share = float((clean.values[0] > 0).float().mean())
        return background_reason(self.scored, share, list(self._organs(self.target.model)), "the segmentation")

    def _clean(self) -> Segmentation:
        """The deployed segmentation of the clean image, once for all rows."""
        if "prediction" not in self.case.clean:
            self.case.clean["prediction"] = self.target.deploy(self.case)
        return self.case.clean["prediction"]

    def _voxel_hash(self) -> str:
        """SHA-256 of what the network gets, once for all rows: one scan in two files is one patient."""
        if "voxels" not in self.case.clean:
            self.case.clean["voxels"] = tensor_hash(as_plain(self.case.image))
        return self.case.clean["voxels"]

    def _reference(self, clean: Segmentation) -> Segmentation:
        found = self.target.reference_of(self.case, clean)
        if found is not None and clean.masks and not found.masks:
            self._check_class_map(found, int(clean.values.shape[0]))
        return clean if found is None else found

    def _check_class_map(self, label: Segmentation, channels: int) -> None:
        """A class map for masks that may overlap: its values must be those of the channels.

        The labels 1, 2 and 4 of BraTS are not, and would be compared with regions that they are not.
        """
        values = [int(value) for value in label.values.unique().tolist()]
        if max(values) > channels:
            raise ValueError(
                f"the label of {self.case.name} is a class map with the values {values}, but {self.target.name} "
                f"answers with {channels} masks: nothing says which values make up each mask; give a label with one "
                "channel per mask, or read a config whose preprocessing makes masks of labels "
                "(--config-file train.json evaluate.json)."
            )

    def _score(self, prediction: Segmentation, reference: Segmentation) -> dict[str, dict[str, Any]]:
        organs = self._organs(self.target.model)
        return score_organs(
            on_grid(prediction, reference), reference, organs, self.plan.surface_tolerance_mm, self.scored.ignore_index
        )

    def _control(self, result: AttackResult, reference: Segmentation, masks: bool) -> dict[str, dict[str, Any]]:
        """Scores under a random change of the same kind and size."""
        image, label = result.random_control(0)
        prediction = self.target.deploy(self.case, image)
        if result.bound.geometric:
            reference = label_on_image(label, self.case.image, masks)
        return self._score(prediction, reference)

    def _files(
        self,
        result: AttackResult,
        found: Mapping[str, Segmentation],
        moved: Segmentation | None,
        scores: Mapping[str, Any],
        measurements: Mapping[str, Any],
        output_dir: Path,
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """Picture and volumes, and what the saved file shows."""
        places = unit_files(output_dir, self.cell)
        files: dict[str, Path] = {}
        if self.pictures:
            grid = self.case.grid if moved is None else moved
            on_network = [on_grid(found[name], grid) for name in ("reference", "clean", "adversarial")]
            drawn = save_picture(
                places["panel"],
                result,
                on_network,
                on_network[0] if moved is None else moved,
                self._organs(self.target.model),
                {image: mean_of_defined(float(organ["dice"]) for organ in of.values()) for image, of in scores.items()},
                scores,
                self.cell,
                self.reference_kind == LABEL,
                measurements,
                hounsfield=self.target.budget_units == "HU",
            )
            files |= {"panel": places["panel"]} if drawn else {}
        saved: dict[str, Any] = {}
        if self.images:
            assert self.row.attack is not None
            perturbation = self.row.attack.perturbation
            exact = getattr(perturbation, "units", None) == "HU" and getattr(perturbation, "norm", None) == "linf"
            epsilon = float(perturbation.epsilon) if exact else None  # type: ignore[attr-defined]
            written, saved = save_native(
                self.target, self.case, result, found["clean"], found["adversarial"], places, self.row.title, epsilon
            )
            files |= written
            again = saved.pop("prediction", None)
            if again is not None:
                scored = self._score(again, found["reference"] if moved is None else moved)
                saved["mean_dice"] = mean_of_defined(float(organ["dice"]) for organ in scored.values())
        return files, saved

    def _record(
        self,
        attack: Attack | None,
        scores: Mapping[str, Any],
        extra: Mapping[str, Any],
        cost: Mapping[str, Any],
        began: float,
        files: Mapping[str, Path],
        output_dir: Path,
    ) -> dict[str, Any]:
        mean = {
            image: {
                **mean_score(found),  # type: ignore[arg-type]
                "surface_dice": mean_of_defined(float(organ["surface_dice"]) for organ in found.values()),
            }
            for image, found in scores.items()
        }
        return measurement_record(
            self.cell,
            attack,
            self.target.model,
            reference=self.reference_kind,
            scores=scores,
            measurements=extra.get("measurements", {}),
            cost={**cost, "total_seconds": round(time.perf_counter() - began, 3)},
            hashes={
                "input": self.case.clean.get("hashes", {}),
                "voxels": self._voxel_hash(),
                "files": {kind: file_hash(path) for kind, path in files.items()},
            },
            mean=mean,
            files={kind: path.relative_to(output_dir).as_posix() for kind, path in files.items()},
            row=self.row.as_json(),
            geometric=bool(attack is not None and "adversarial_original_label" in scores),
            spacing_mm=[round(step, 6) for step in self.case.grid.spacing],
            shape=list(self.case.image.shape[1:]),
            **{key: value for key, value in extra.items() if key != "measurements"},
        )


def _in_file_values(measurements: dict[str, dict[str, Any]], budget_units: str) -> dict[str, dict[str, Any]]:
    """Measurements of files that hold no HU (MRI, color pictures): their raw values are called what they are."""
    if budget_units != "HU":
        for one in measurements.values():
            one["units"] = FILE_VALUES if one["units"] == "HU" else one["units"]
    return measurements


def _draws(result: AttackResult, organs: Mapping[int, str]) -> dict[str, Any] | None:
    """What the draws of a worst-of-N attack show; None for other attacks."""
    dice, volumes = getattr(result, "draw_dice", None), getattr(result, "draw_volumes", None)
    if dice is None:
        return None
    values = [float(value) for value in dice[:, 0].tolist()]
    found: dict[str, Any] = {"dice": values, "dice_cv": _variation(values), "volume_cv": {}}
    if volumes is not None:
        for index, name in organs.items():
            if index < volumes.shape[2]:
                found["volume_cv"][name] = _variation([float(value) for value in volumes[:, 0, index].tolist()])
    return found


def _variation(values: list[float]) -> float:
    """Coefficient of variation; NaN for a mean of 0 and fewer than two values."""
    defined = [value for value in values if not math.isnan(value)]
    if len(defined) < 2:
        return math.nan
    mean = sum(defined) / len(defined)
    spread = math.sqrt(sum((value - mean) ** 2 for value in defined) / (len(defined) - 1))
    return spread / mean if mean > 0 else math.nan
