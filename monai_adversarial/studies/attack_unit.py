# SPDX-License-Identifier: Apache-2.0
"""One case under one attack: run, save, read back, verify, score, picture."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

import monai_adversarial
from monai_adversarial.attacks import AttackResult, Measurement
from monai_adversarial.data.saving import (
    read_back,
    read_reference,
    round_to_stored,
    save_adversarial_nifti,
    save_label_nifti,
    stored_step,
    volume_name,
)
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.metrics import OrganScores, mean_score, score_segmentation, score_visibility
from monai_adversarial.studies.displacement import displacement_in_mm
from monai_adversarial.studies.reports.panel import Panel, save_panel
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import describe
from monai_adversarial.utils.plain import as_plain

__all__ = ["Unit", "UnitSettings", "class_map"]


@dataclass(frozen=True)
class UnitSettings:
    """What all units of a campaign share; see ``AttackCampaign``."""

    class_names: Sequence[str] | Mapping[Any, str]
    window: tuple[float, float]
    controls: int = 1
    panels: bool = True
    save_predictions: bool = False


def class_map(values: torch.Tensor) -> torch.Tensor:
    """Class map (spatial...) on the CPU of a one-sample label (1, 1 or class, spatial...), one-hot or not."""
    plain = values.as_tensor() if hasattr(values, "as_tensor") else values
    plain = plain.detach()
    return (plain[0].argmax(dim=0) if plain.shape[1] > 1 else plain[0, 0]).to(device="cpu", dtype=torch.int32)


class Unit:
    """One case under one attack.

    Args:
        evaluator: runs the attack and the predictions.
        prepare_batch: its ``prepare_batch``, with the attack set.
        settings: of the campaign.
        image_file: the input.
        case_id: name of the case in reports and files.
        attack_name: name of the attack in reports and files.
        clean_prediction: class map of the clean image where an earlier unit of the case has made it.

    Attributes:
        clean_prediction: class map (spatial...) of the clean image, for the next unit of the case.
    """

    def __init__(
        self,
        evaluator: SupervisedEvaluator,
        prepare_batch: PrepareBatchAdversarial,
        settings: UnitSettings,
        image_file: str | os.PathLike[str],
        case_id: str,
        attack_name: str,
        clean_prediction: torch.Tensor | None = None,
    ) -> None:
        self.evaluator, self.prepare_batch, self.settings = evaluator, prepare_batch, settings
        self.image_file, self.case_id, self.attack_name = image_file, case_id, attack_name
        self.clean_prediction = clean_prediction
        self.spacing: list[float] = []

    def run(self, batch: Any, output_dir: Path) -> dict[str, Any]:
        """Run the unit, write its files below ``output_dir`` and return its record.

        Raises:
            ValueError: for an image that is not in the space of its file.
            BudgetError: if the saved file is outside the budget.
            OSError: where a file cannot be written.
        """
        started = time.perf_counter()
        evaluated = self._evaluate(batch)
        attack_seconds = time.perf_counter() - started
        result = self.prepare_batch.last_result
        if result is None:
            raise RuntimeError("the evaluator did not run the campaign's attack: is its prepare_batch still in place?")
        clean = result.image
        reference = read_reference(self.image_file)
        self.spacing = [float(step) for step in reference.header.get_zooms()[: clean.ndim - 2]]

        folder, (_, ending) = output_dir / self.attack_name, volume_name(self.image_file)
        stem = f"{self.case_id}_adversarial"
        files = {"adversarial": folder / f"{stem}{ending}"}
        # Rounding must not enlarge the largest change, which keeps every L-infinity budget whatever its value.
        largest = float((as_plain(result.adversarial) - clean).abs().max())
        self._check_space(clean, reference)
        save_adversarial_nifti(
            result.adversarial, reference, files["adversarial"], self.attack_name, clean=clean, epsilon=largest
        )
        saved = as_plain(read_back(files["adversarial"]))[None].to(clean)
        step, intercept = stored_step(reference)
        measured = result.verify(saved, rounding=step / 2)

        # The evaluator has predicted the image before it was rounded; the same image need not be predicted twice.
        same = torch.equal(as_plain(evaluated[CommonKeys.IMAGE]), saved)
        logits = evaluated[CommonKeys.PRED] if same else self._predict(saved)
        if self.clean_prediction is None:
            self.clean_prediction = self._classes(self._predict(clean))
        prediction = {"clean": self.clean_prediction, "adversarial": self._classes(logits)}
        label = {"clean": class_map(result.clean_label), "adversarial": class_map(result.label)}
        scores = {"clean": self._score(prediction["clean"], label["clean"])}
        scores["adversarial"] = self._score(prediction["adversarial"], label["adversarial"])
        geometric = bool(result.bound.geometric)
        if geometric:
            scores["adversarial_original_label"] = self._score(prediction["adversarial"], label["clean"])
        controls = self._controls(result, label["clean"], geometric, step, intercept)

        if geometric:
            files["label"] = folder / f"{stem}_label{ending}"
            save_label_nifti(label["adversarial"], reference, files["label"], f"label of {self.attack_name}")
        if self.settings.save_predictions:
            files["prediction"] = folder / f"{stem}_prediction{ending}"
            save_label_nifti(prediction["adversarial"], reference, files["prediction"], f"output {self.attack_name}")
        axial_axis = _axial_axis(reference.affine)
        record: dict[str, Any] = {
            "case": self.case_id,
            "attack": self.attack_name,
            "package_version": monai_adversarial.__version__,
            "configuration": describe(self.prepare_batch.attack),
            "shape": list(clean.shape[2:]),
            "spacing_mm": [round(step_mm, 6) for step_mm in self.spacing],
            "reference": "clean prediction" if result.reference_is_prediction else "label",
            "geometric": geometric,
            "scores": scores | {f"random{key}": value for key, value in controls[0]["scores"].items()},
            "mean": {key: mean_score(value) for key, value in scores.items()} | _mean_of_controls(controls),
            "visibility": score_visibility(saved[0, 0], clean[0, 0], self.settings.window, axial_axis),
            "random_visibility": controls[0]["visibility"],
            "measurements": {name: _measurement(value) for name, value in measured.items()},
            "success": self._success(result, scores),
            "zero_gradient_fraction": float(result.zero_gradient_fraction[0]),
            "cost": {
                "forwards": result.forwards,
                "backwards": result.backwards,
                "queries": result.queries,
                "attack_seconds": round(attack_seconds, 3),
            },
        }
        if self.settings.panels:
            files["panel"] = folder / f"{self.case_id}.png"
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
                class_names=self.settings.class_names,
                window=self.settings.window,
            )
            with replace_when_complete(files["panel"]) as temporary:
                save_panel(panel, temporary)
        record["cost"]["total_seconds"] = round(time.perf_counter() - started, 3)
        record["files"] = {kind: file.relative_to(output_dir).as_posix() for kind, file in files.items()}
        return record

    def _evaluate(self, batch: Any) -> dict[str, Any]:
        """Run the evaluator on one batch; its output before decollation and postprocessing."""
        evaluator, kept = self.evaluator, {}

        def keep(engine: SupervisedEvaluator) -> None:
            kept.update(engine.state.output)

        handle = evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, keep)
        try:
            evaluator.data_loader, evaluator.state.epoch_length = [batch], 1
            evaluator.run()
        finally:
            handle.remove()
        return kept

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        """Logits as the evaluator computes them."""
        evaluator = self.evaluator
        image = self._like_input(image)
        with torch.no_grad(), evaluator.mode(evaluator.network):
            if evaluator.amp:
                with torch.autocast("cuda", **evaluator.amp_kwargs):
                    return evaluator.inferer(image, evaluator.network)
            return evaluator.inferer(image, evaluator.network)

    def _like_input(self, image: torch.Tensor) -> torch.Tensor:
        """The image in the type of the batch's image: inferers may read the affine of a MetaTensor."""
        result = self.prepare_batch.last_result
        if result is None or not hasattr(result.adversarial, "as_tensor"):
            return image
        like = result.adversarial.clone()
        like.copy_(image)
        return like

    @staticmethod
    def _classes(logits: torch.Tensor) -> torch.Tensor:
        """Class map (spatial...) of logits; a single output channel is a sigmoid network."""
        plain = as_plain(logits)
        return class_map(plain if plain.shape[1] > 1 else plain > 0)

    def _score(self, prediction: torch.Tensor, label: torch.Tensor) -> dict[str, OrganScores]:
        return score_segmentation(prediction, label, self.spacing, self.settings.class_names)

    def _controls(
        self, result: AttackResult, label: torch.Tensor, geometric: bool, step: float, intercept: float
    ) -> list[dict[str, Any]]:
        """Scores under random perturbations of equal size, rounded like the adversarial image."""
        found = []
        for stream in range(self.settings.controls):
            image, moved = result.random_control(stream)
            plain = as_plain(image)
            if step > 0:
                largest = float((plain - result.image).abs().max())
                plain = round_to_stored(plain, result.image, largest, step, intercept)
            prediction = self._classes(self._predict(plain))
            scores = {"": self._score(prediction, class_map(moved))}
            if geometric:
                scores["_original_label"] = self._score(prediction, label)
            visibility = score_visibility(plain[0, 0], result.image[0, 0], self.settings.window)
            found.append({"scores": scores, "visibility": visibility})
        return found

    def _check_space(self, image: torch.Tensor, reference: Any) -> None:
        shape = tuple(size for size in reference.shape if size != 1)
        if image.shape[:2] != (1, 1) or tuple(size for size in image.shape[2:] if size != 1) != shape:
            raise ValueError(
                f"the image of {self.case_id} reaches the attack with shape {tuple(image.shape)} but its file holds "
                f"{tuple(reference.shape)}: the dataset must only load (LoadImaged, EnsureChannelFirstd); "
                "preprocessing belongs into the inferer (monai_adversarial.inferers.ScannerSpaceInferer)."
            )

    def _success(self, result: AttackResult, scores: Mapping[str, Mapping[str, OrganScores]]) -> bool:
        """The attack's own criterion on the saved file."""
        attack = self.prepare_batch.attack
        if attack is None or attack.targeted:
            return bool(result.success[0])
        before, after = (mean_score(scores[key])["dice"] for key in ("clean", "adversarial"))
        return bool(after < attack.success_threshold * before)  # type: ignore[operator]


def _measurement(measured: Measurement) -> dict[str, Any]:
    return {
        "value": float(measured.values[0]),
        "units": measured.units,
        "limit": measured.limit_of(0),
        "tolerance": measured.tolerance_of(0),
        "bound": None if measured.limit is None else "lower" if measured.at_least else "upper",
    }


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
