# SPDX-License-Identifier: Apache-2.0
"""Every case against every attack: run what is missing, then report."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import list_data_collate

from monai_adversarial.attacks import Attack
from monai_adversarial.data.saving import read_back, read_reference
from monai_adversarial.metrics.clean_score import low_clean_caution
from monai_adversarial.models import AttackedModel, explain_clean_score
from monai_adversarial.studies.attack_unit import LoadedCase, Unit, UnitSettings, unit_files
from monai_adversarial.studies.labeled_classes import label_of, scored_where_labeled, values_of
from monai_adversarial.studies.measurement import (
    CLEAN_PREDICTION,
    LABEL,
    common_settings,
    model_settings,
    network_hashes,
)
from monai_adversarial.studies.records import safe_name
from monai_adversarial.studies.reports.report import AttackReport
from monai_adversarial.studies.scoring import device_of, named_model, scored_organs
from monai_adversarial.studies.study import Cell, Failure, SettingsError, Study, chosen_names
from monai_adversarial.utils.hashing import describe, file_hash
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.shown_names import printable
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["AttackStudy"]

REFERENCES = ("label", "prediction")


class AttackStudy(Study):
    """Attack every case of a dataset with every selected attack, score, save, picture and report.

    One cell is one case under one attack. Its files, in ``output_dir/<attack>/``: the adversarial volume in the space
    and dtype of the input file, the moved label where the attack moves anatomy, a picture, and last of all a JSON
    record. What is recorded is not run again, and one bad case does not stop the others (see ``Study``).
    ``results.csv``, ``summary.json``, ``summary.txt`` and ``overview.png`` then cover all records that hold, those of
    attacks that are not selected this time included. Cases that are scored against a label and cases that are scored
    against the network's own clean prediction are never averaged together.

    The dataset must give images in scanner space, as read from their files. Preprocessing belongs into the attacked
    function (see ``monai_adversarial.inferers.ScannerSpaceInferer``), so that budgets are in HU and the result can be
    saved in the input's own grid. It is rounded once, to the values that the file's type and scaling can hold, inside
    the budget. Every score of the adversarial image is computed on the file read back.

    Classes that no label of the dataset holds (data sets that label some organs only) are not scored, and the
    objective does not count them; the summary and every record name them. ``scored_classes`` of the model says
    otherwise.

    >>> import tempfile
    >>> from monai.data import Dataset
    >>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
    >>> from monai_adversarial.attacks import PGD, ElasticAttack
    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.studies import AttackStudy
    >>> files = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "case_id": "a"}]
    >>> dataset = Dataset(files, Compose([LoadImaged(("image", "label")), EnsureChannelFirstd(("image", "label"))]))
    >>> attacks = {"pgd": PGD(8, "HU"), "elastic": ElasticAttack(3.0)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = AttackStudy(example_case(16)[0], dataset, attacks, folder, EXAMPLE_CLASSES)
    ...     [str(cell) for cell in study.cells()]  # study.run() computes them
    ['a pgd', 'a elastic']

    Args:
        model: what is attacked: an ``AttackedModel`` with ``image_units="HU"``, or a bare network that takes the values
            of the files.
        dataset: MONAI ``Dataset`` whose ``data`` are dictionaries with the paths of image and label.
        attacks: name -> attack; names become folder names.
        output_dir: where results go; created if needed.
        class_names: names of the network's classes, background first (or a bundle's ``channel_def``); None for those
            of the model. They must be as many as the network has classes.
        selected: names of the attacks to run: a list, or one string separated by commas (as from a command line);
            None for all.
        reference: ``"label"`` where a case has one; ``"prediction"`` never reads it. Without a label the network's own
            clean prediction is the reference.
        window: display window in HU for pictures, SSIM and PSNR.
        controls: random perturbations of equal size per cell, averaged; the control that an attack is compared with.
        seed: of the bootstrap intervals; the attacks have their own.
        image_key: key of the image (and of its path) in the dataset.
        label_key: key of the label, which cases may lack.
        panels: write a picture per cell.
        save_predictions: write the prediction on the adversarial image as NIfTI.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: for arguments that do not fit, in one sentence.
    """

    title = "attacks"

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        dataset: Any,
        attacks: Mapping[str, Attack],
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        selected: str | Sequence[str] | None = None,
        reference: str = "label",
        window: Sequence[float] = (-160.0, 240.0),
        controls: int = 1,
        seed: int = 0,
        image_key: str = "image",
        label_key: str = "label",
        panels: bool = True,
        save_predictions: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__(output_dir, progress)
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks.values()):
            raise TypeError("attacks must map at least one name to an Attack.")
        if not len(tuple(window)) == 2 or not window[1] > window[0]:
            raise ValueError(f"window must give two HU values in rising order, got {tuple(window)}.")
        self.model = _in_file_values(named_model(model, class_names))
        organs = scored_organs(self.model)
        if self.model.activation == "sigmoid" and len(organs) > 1:
            raise ValueError(
                "the model has overlapping sigmoid classes, but a study scores exclusive classes (or one sigmoid "
                "output)."
            )
        self.dataset, self.attacks = dataset, dict(attacks)
        self.selected = chosen_names("attack", selected, attacks) or list(attacks)
        self.reference = check_choice("reference", reference, REFERENCES)
        self.seed, self.image_key, self.label_key = int(seed), image_key, label_key
        self.unit_settings = UnitSettings(
            window=(float(window[0]), float(window[1])),
            controls=check_count("controls", controls),
            panels=bool(panels),
            save_predictions=bool(save_predictions),
        )
        self._entries: dict[str, tuple[int, dict[str, Any]]] = {}
        self._inputs: dict[str, dict[str, str]] = {}
        self._shared: dict[str, Any] = {}
        self._models: dict[str, AttackedModel] = {}
        self._model_settings: dict[str, Any] = {}
        self._unlabeled: list[str] = []
        self._label_values: dict[tuple[str, str], frozenset[int]] = {}
        self._networks: list[str] = []
        self._looked = False
        _one_file_each(self.dataset, image_key)

    @property
    def cases(self) -> list[dict[str, Any]]:
        """The dataset's entries, each with a ``case_id``.

        Raises:
            TypeError: for a dataset without file paths.
            SettingsError: for an image in several files.
        """
        data = getattr(self.dataset, "data", None)
        if not isinstance(data, Sequence) or not all(isinstance(d, Mapping) and self.image_key in d for d in data):
            raise TypeError(
                f"dataset must be a MONAI Dataset whose data are dictionaries with a file path under "
                f"{self.image_key!r}, got {type(self.dataset).__name__}."
            )
        _one_file_each(self.dataset, self.image_key)
        return [{"case_id": f"case_{index:03d}"} | dict(entry) for index, entry in enumerate(data)]

    def run(self) -> dict[str, Any]:
        """Run the missing cells and report on all.

        Returns:
            What ``summary.json`` holds.

        Raises:
            SettingsError: for settings that fit no case.
            StudyError: where cells failed; the others are done and in the tables.
            OSError: where a file cannot be written.
        """
        wanted = [cell for cell in self.cells() if cell.attack in self.selected]
        return self.finish(wanted, self.run_cells(wanted))

    def cells(self) -> list[Cell]:
        """Every case under every attack, attacks outermost as in the tables."""
        return [Cell(case["case_id"], name) for name in self.attacks for case in self.cases]

    def forget(self) -> None:
        """Read inputs and weights anew."""
        super().forget()
        self._inputs.clear()
        self._entries = {case["case_id"]: (index, case) for index, case in enumerate(self.cases)}
        self._networks = network_hashes(self.model)
        self._shared = {
            **common_settings(),
            "reference": self.reference,
            "settings": describe(self.unit_settings),
            "transform": describe(getattr(self.dataset, "transform", None)),
        }
        labeled, self._unlabeled = self._scored_by_labels()
        self._models = {LABEL: labeled, CLEAN_PREDICTION: self.model}
        self._model_settings = {reference: model_settings(model) for reference, model in self._models.items()}

    def _scored_by_labels(self) -> tuple[AttackedModel, list[str]]:
        """The model for cases with a label, and the classes that no label holds."""
        with_label = [name for name in self._entries if self._reference_of(name) == LABEL]
        if self.model.scored_classes is not None or not with_label:
            return self.model, []
        values = frozenset().union(*map(self._values_of_label, with_label))
        if not values:  # no label can be read: their cells fail, each with its reason
            return self.model, []
        model, absent = scored_where_labeled(self.model, values)
        if absent:
            print(printable(model.facts[-1]), flush=True)
        return model, absent

    def _values_of_label(self, case: str) -> frozenset[int]:
        """The classes in the label of a case; none where it cannot be read."""
        index, entry = self._entries[case]
        try:
            key = str(entry[self.label_key]), self._checked_inputs(case)[self.label_key]
            if key not in self._label_values:
                self._label_values[key] = values_of(label_of(self.dataset, index, self.label_key))
        except Exception:  # its cell fails and says why
            return frozenset()
        return self._label_values[key]

    def _reference_of(self, case: str) -> str:
        labeled = self.label_key in self._entry(case) and self.reference == "label"
        return LABEL if labeled else CLEAN_PREDICTION

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Model, attack and the content of the input files."""
        attack = self.attacks[cell.attack]
        return {
            **self._shared,
            "model": self._model_settings[self._reference_of(cell.case)],
            "attack": [repr(type(attack)), describe(attack)],
            "inputs": self._checked_inputs(cell.case),
        }

    def source(self, case: str) -> str:
        """The image file."""
        return str(self._entry(case)[self.image_key])

    def record_path(self, cell: Cell) -> Path:
        """Beside the files of the cell."""
        return self.output_dir / safe_name(cell.attack) / f"{safe_name(cell.case)}.json"

    def files(self, cell: Cell) -> list[Path]:
        """Volumes and picture."""
        return list(unit_files(self.output_dir, cell, self.source(cell.case)).values())

    def files_hold(self, cell: Cell, record: Mapping[str, Any]) -> bool:
        """Whether the files are there with the content that was scored."""
        return self.recorded_files_hold(record)

    def _entry(self, case: str) -> dict[str, Any]:
        return self._entries[case][1]

    def _checked_inputs(self, case: str) -> dict[str, str]:
        """SHA-256 of a case's files, after a look at their headers: what they show must not come up hours later."""
        if case not in self._inputs:
            entry = self._entry(case)
            image = read_reference(entry[self.image_key])
            if self.label_key in entry:
                label = read_reference(entry[self.label_key])
                if tuple(image.shape) != tuple(label.shape):
                    raise ValueError(
                        f"image and label of {case} must have the same shape, got {tuple(image.shape)} and "
                        f"{tuple(label.shape)} ({entry[self.label_key]})."
                    )
                if not np.allclose(image.affine, label.affine, atol=1e-2):
                    warnings.warn(f"image and label of {case} have different affines: do they fit?", stacklevel=2)
            keys = [key for key in (self.image_key, self.label_key) if key in entry]
            self._inputs[case] = {key: file_hash(entry[key]) for key in keys}
        return self._inputs[case]

    def load(self, case: str) -> LoadedCase:
        """The batch of one case, on the network's device."""
        index, entry = self._entries[case]
        try:
            batch = list_data_collate([self.dataset[index]])
        except Exception:
            for key in (self.image_key, self.label_key):
                if key in entry:
                    read_back(entry[key])  # says in one sentence what is wrong with the file, if the file is the reason
            raise
        device = device_of(self.model)
        label = batch[self.label_key] if self._reference_of(case) == LABEL else None
        _check_values(case, batch[self.image_key], entry[self.image_key])
        return LoadedCase(
            image_file=str(entry[self.image_key]),
            image=batch[self.image_key].to(device),
            label=None if label is None else label.to(device),
            hashes={"inputs": self._checked_inputs(case), "network": self._networks},
        )

    def compute(self, cell: Cell, case: LoadedCase) -> dict[str, Any]:
        """Attack one case and write its files."""
        attack = copy.copy(self.attacks[cell.attack])
        attack.progress = attack.progress or (self.progress and sys.stderr.isatty())  # of steps, not into log files
        reference = self._reference_of(cell.case)
        record = Unit(self._models[reference], attack, self.unit_settings, cell, case).run(self.output_dir)
        self._look_at_clean_score(record, case)
        return record | {"unlabeled_classes": self._unlabeled if reference == LABEL else []}

    def _look_at_clean_score(self, record: Mapping[str, Any], case: LoadedCase) -> None:
        """Say after the first cell with a label, and not after the last, that there is little to lose, and whether the
        image comes as the network was built for."""
        if self._looked or record["reference"] != LABEL:
            return
        self._looked = True
        dice = record["mean"]["clean"]["dice"]
        caution = "" if dice is None else low_clean_caution(torch.tensor([float(dice)]))
        if not caution or case.label is None:
            return
        print(printable(f"{record['case']}: {caution}."), flush=True)
        found = explain_clean_score(self._models[LABEL], case.image, case.label)
        print(printable(f"{record['case']}: {found}"), flush=True)

    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the tables and the overview."""
        failed = [
            {"case": one.cell.case, "attack": one.cell.attack, "reason": self.without_paths(one)} for one in failures
        ]
        report = AttackReport(records, self.seed, failed)
        summary = report.write(self.output_dir)
        print(printable(f"\n{report.table()}\n\nresults in {self.output_dir}"), flush=True)
        return summary

    def without_paths(self, failure: Failure) -> str:
        """The sentence of a failure for reports, where names of files, which may name patients, have no place."""
        sentence, entry = failure.sentence, self._entry(failure.cell.case)
        for key in (self.image_key, self.label_key):
            if key in entry:
                sentence = sentence.replace(str(entry[key]), f"<{key} of {failure.cell.case}>")
        return sentence


def _one_file_each(dataset: Any, image_key: str) -> None:
    """Refuse images in several files when the study is made; what else is wrong with the data is said when it runs."""
    data = getattr(dataset, "data", None)
    entries = [entry for entry in data if isinstance(entry, Mapping)] if isinstance(data, Sequence) else []
    several = [entry[image_key] for entry in entries if isinstance(entry.get(image_key), (list, tuple))]
    if several:
        raise SettingsError(
            f"every case needs its image in one file, but {len(several)} of {len(entries)} cases have one file for "
            f"each channel ({', '.join(Path(file).name for file in several[0])}): AttackStudy cannot save "
            "adversarial images of several files; attack such images in a script or with Adv* transforms."
        )


def _in_file_values(model: AttackedModel) -> AttackedModel:
    """The model for images as their files hold them."""
    if model.image_units == "network":
        raise ValueError(
            "AttackStudy attacks images as their files hold them, in HU, but the model has image_units='network': pass "
            "image_units='HU', with what lies between file and network in the model's intensity or inferer."
        )
    return model if model.image_units else model.replace(image_units="HU")


def _check_values(case: str, image: torch.Tensor, file: str) -> None:
    """An image that is not as its file holds it would be saved as something that it is not."""
    plain, stored = (as_plain(volume).detach().cpu().float().squeeze() for volume in (image, read_back(file)))
    room = 1e-5 * float(stored.abs().nan_to_num().max())
    if plain.shape == stored.shape and not torch.allclose(plain, stored, rtol=1e-5, atol=room, equal_nan=True):
        raise ValueError(
            f"the image of {case} reaches the attack with other voxels than its file holds: the dataset must only load "
            "(LoadImaged, EnsureChannelFirstd); preprocessing belongs into the inferer "
            "(monai_adversarial.inferers.ScannerSpaceInferer)."
        )
