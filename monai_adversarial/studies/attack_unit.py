# SPDX-License-Identifier: Apache-2.0
"""One case under one attack: run, save, read back, verify, score, picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.data.saving import (
    read_back,
    read_reference,
    save_adversarial_nifti,
    save_label_nifti,
    stored_grid,
    volume_name,
)
from monai_adversarial.metrics import OrganScores, mean_score, score_segmentation, score_visibility
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.displacement import displacement_in_mm
from monai_adversarial.studies.gain import gain_in_percent
from monai_adversarial.studies.measurement import (
    CLEAN_PREDICTION,
    LABEL,
    measured_budgets,
    measurement_record,
    norm_of,
)
from monai_adversarial.studies.predictions import finished_prediction, is_finished, run_attack
from monai_adversarial.studies.records import safe_name
from monai_adversarial.studies.reports.panel import Panel, save_panel
from monai_adversarial.studies.scoring import class_map, predict, scored_organs
from monai_adversarial.studies.study import Cell
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import case_hash, file_hash
from monai_adversarial.utils.plain import as_plain

__all__ = ["LoadedCase", "Unit", "UnitSettings", "unit_files"]


@dataclass(frozen=True)
class UnitSettings:
    """What all units of a study share; see ``AttackStudy``."""

    window: tuple[float, float]
    controls: int = 1
    panels: bool = True
    save_predictions: bool = False


@dataclass
class LoadedCase:
    """A case as its units need it.

    Args:
        image_file: the input.
        image: (1, channel, spatial...) in HU, on the network's device.
        label: (1, 1 or class, spatial...); None where the clean prediction is the reference.
        hashes: SHA-256 of the inputs and of the network.
        clean_scores: of the clean image, by the hash of prediction and label.
        controls: scores under random perturbations, by the hash of what is compared.
    """

    image_file: str
    image: torch.Tensor
    label: torch.Tensor | None
    hashes: Mapping[str, Any]
    clean_scores: dict[str, dict[str, OrganScores]] = field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)


def unit_files(output_dir: Path, cell: Cell, image_file: str) -> dict[str, Path]:
    """The files that a unit may write: kind -> path."""
    folder, ending = output_dir / safe_name(cell.attack), volume_name(image_file)[1]
    case = safe_name(cell.case)
    return {
        "adversarial": folder / f"{case}_adversarial{ending}",
        "label": folder / f"{case}_adversarial_label{ending}",
        "prediction": folder / f"{case}_adversarial_prediction{ending}",
        "panel": folder / f"{case}.png",
    }


class Unit:
    """One case under one attack.

    Args:
        model: what is attacked.
        attack: who attacks.
        settings: of the study.
        cell: names of case and attack.
        case: the loaded case.
    """

    def __init__(
        self, model: AttackedModel, attack: Attack, settings: UnitSettings, cell: Cell, case: LoadedCase
    ) -> None:
        self.attack, self.settings, self.cell, self.case = attack, settings, cell, case
        self.reference = read_reference(case.image_file)
        # Rounded once, to what the file holds: in a file of other steps whole HU would be a change of their own.
        self.model = model.replace(round_to_integer=False, stored_grid=stored_grid(self.reference))
        self.spacing: list[float] = []

    def run(self, output_dir: Path) -> dict[str, Any]:
        """Run the unit, write its files below ``output_dir`` and return its record.

        Raises:
            ValueError: for an image that is not in the space of its file.
            BudgetError: if the saved file is outside the budget.
            OSError: where a file cannot be written.
        """
        began = time.perf_counter()
        self._check_space()
        started = time.perf_counter()
        result = run_attack(self.attack, self.model, self.case.image, self.case.label)
        attack_seconds = time.perf_counter() - started
        clean, reference = result.image, self.reference
        self.spacing = [float(step) for step in reference.header.get_zooms()[: clean.ndim - 2]]

        places = unit_files(output_dir, self.cell, self.case.image_file)
        files = {"adversarial": places["adversarial"]}
        save_adversarial_nifti(result.adversarial, reference, files["adversarial"], self.cell.attack)
        saved = as_plain(read_back(files["adversarial"]))[None].to(clean)
        as_given = self._as_given(saved)
        measured = result.budgets if is_finished(result, as_given) else result.verify(saved)

        finished = finished_prediction(self.model, result, as_given)
        prediction = {"clean": class_map(result.clean_prediction), "adversarial": class_map(finished)}
        label = {"clean": class_map(result.clean_label), "adversarial": class_map(result.label)}
        scores = {"clean": self._clean_scores(prediction["clean"], label["clean"])}
        scores["adversarial"] = self._score(prediction["adversarial"], label["adversarial"])
        geometric = bool(result.bound.geometric)
        if geometric:
            scores["adversarial_original_label"] = self._score(prediction["adversarial"], label["clean"])
        axial_axis = _axial_axis(reference.affine)
        controls = [self._control(result, stream, axial_axis) for stream in range(self.settings.controls)]

        if geometric:
            files["label"] = places["label"]
            moved = _storable(label["adversarial"], self.model.ignore_index)
            save_label_nifti(moved, reference, files["label"], f"label of {self.cell.attack}")
        if self.settings.save_predictions:
            files["prediction"] = places["prediction"]
            save_label_nifti(prediction["adversarial"], reference, files["prediction"], f"output {self.cell.attack}")
        record = measurement_record(
            self.cell,
            self.attack,
            self.model,
            reference=CLEAN_PREDICTION if result.reference_is_prediction else LABEL,
            scores=scores | {f"random{key}": value for key, value in controls[0]["scores"].items()},
            mean={key: mean_score(value) for key, value in scores.items()} | _mean_of_controls(controls),
            measurements=measured_budgets(measured, norm_of(self.attack)),
            cost={
                "forwards": result.forwards,
                "backwards": result.backwards,
                "queries": result.queries,
                "attack_seconds": round(attack_seconds, 3),
            },
            hashes=self.case.hashes,
            shape=list(clean.shape[2:]),
            spacing_mm=[round(step_mm, 6) for step_mm in self.spacing],
            geometric=geometric,
            scored_classes=list(self.organs.values()),
            visibility=score_visibility(saved[0, 0], clean[0, 0], self.settings.window, axial_axis),
            random_visibility=controls[0]["visibility"],
            zero_gradient_fraction=float(result.zero_gradient_fraction[0]),
        )
        if self.settings.panels:
            files["panel"] = places["panel"]
            panel = Panel(
                clean=clean[0, 0].cpu(),
                adversarial=saved[0, 0].cpu(),
                clean_label=label["clean"],
                adversarial_label=label["adversarial"],
                clean_prediction=prediction["clean"],
                adversarial_prediction=prediction["adversarial"],
                affine=reference.affine,
                displacement=displacement_in_mm(result) if geometric else None,
                record=record,
                class_names=self.organs,
                window=self.settings.window,
                gain=gain_in_percent(result),
            )
            with replace_when_complete(files["panel"]) as temporary:
                save_panel(panel, temporary)
        record["cost"]["total_seconds"] = round(time.perf_counter() - began, 3)
        record["files"] = {kind: file.relative_to(output_dir).as_posix() for kind, file in files.items()}
        record["hashes"]["files"] = {kind: file_hash(file) for kind, file in files.items()}
        return record

    def _as_given(self, image: torch.Tensor) -> torch.Tensor:
        """An image in the type of the batch's image: inferers may read the affine of a MetaTensor."""
        like = self.case.image
        if not hasattr(like, "as_tensor"):
            return image.to(like)
        like = like.clone()
        like.copy_(image)
        return like

    @property
    def organs(self) -> dict[int, str]:
        """Class index to name of what is scored."""
        return scored_organs(self.model)

    def _score(self, prediction: torch.Tensor, label: torch.Tensor) -> dict[str, OrganScores]:
        if self.model.ignore_index is not None:
            counts = label != self.model.ignore_index
            prediction, label = (torch.where(counts, volume, 0) for volume in (prediction, label))
        return score_segmentation(prediction, label, self.spacing, self.organs)

    def _clean_scores(self, prediction: torch.Tensor, label: torch.Tensor) -> dict[str, OrganScores]:
        """Scores of the clean image, computed once for all attacks that see the same."""
        known, key = self.case.clean_scores, case_hash(prediction, label)
        if key not in known:
            known[key] = self._score(prediction, label)
        return known[key]

    def _control(self, result: AttackResult, stream: int, axial_axis: int) -> dict[str, Any]:
        """Scores under a random perturbation of equal size, rounded like the adversarial image.

        Attacks with one budget have one control: the network sees it once per case.
        """
        image, moved = result.random_control(stream)
        geometric = bool(result.bound.geometric)
        known, key = self.case.controls, f"{case_hash(image, moved)} {geometric}"
        # A network that draws random numbers answers each time: no cell depends on what ran before.
        if key in known and not self.model.found_random:
            return known[key]
        prediction = class_map(predict(self.model, image))
        scores = {"": self._score(prediction, class_map(moved))}
        if geometric:
            scores["_original_label"] = self._score(prediction, class_map(result.clean_label))
        visibility = score_visibility(image[0, 0], result.image[0, 0], self.settings.window, axial_axis)
        known[key] = {"scores": scores, "visibility": visibility}
        return known[key]

    def _check_space(self) -> None:
        image, reference = self.case.image, self.reference
        shape = tuple(size for size in reference.shape if size != 1)
        if image.shape[:2] != (1, 1) or tuple(size for size in image.shape[2:] if size != 1) != shape:
            raise ValueError(
                f"the image of {self.cell.case} reaches the attack with shape {tuple(image.shape)} but its file holds "
                f"{tuple(reference.shape)}: the dataset must only load (LoadImaged, EnsureChannelFirstd); "
                "preprocessing belongs into the inferer (monai_adversarial.inferers.ScannerSpaceInferer)."
            )


def _storable(label: torch.Tensor, ignore_index: int | None) -> torch.Tensor:
    """A label as unsigned integers can hold it: negative voxels that do not count become background."""
    return label if ignore_index is None or ignore_index >= 0 else torch.where(label == ignore_index, 0, label)


def _mean_of_controls(controls: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean Dice and HD95 over the random draws; the organs missed or invented are those of the first."""
    means: dict[str, dict[str, Any]] = {}
    for key in controls[0]["scores"]:
        draws = [mean_score(control["scores"][key]) for control in controls]
        means[f"random{key}"] = draws[0] | {
            score: torch.tensor([float(draw[score]) for draw in draws]).nanmean().item()  # type: ignore[arg-type]
            for score in ("dice", "hd95_mm")
        }
    return means


def _axial_axis(affine: Any) -> int:
    """The voxel axis that runs closest to the head."""
    return int(abs(affine[2, :3]).argmax())
