# SPDX-License-Identifier: Apache-2.0
"""Every case against every attack: run what is missing, then report."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import list_data_collate
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

import monai_adversarial
from monai_adversarial.attacks import Attack
from monai_adversarial.data.saving import read_back, read_reference
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.metrics import organ_names
from monai_adversarial.studies.attack_unit import Unit, UnitSettings
from monai_adversarial.studies.records import read_json, write_json
from monai_adversarial.studies.reports.report import CampaignReport
from monai_adversarial.utils.hashing import describe, file_hash, fingerprint, network_hash

__all__ = ["AttackCampaign"]

RECORD_VERSION = 1


class AttackCampaign:
    """Attack every case of an evaluator's dataset with every selected attack, score, save, picture and report.

    One unit is one case under one attack. Its files, in ``output_dir/<attack>/``: the adversarial volume in the space
    and dtype of the input file, the moved label where the attack moves anatomy, a picture, and last of all a JSON
    record. A unit whose record is there, with the same attack, network, input and package version, is not run again:
    an interrupted campaign goes on where it stopped, and a changed one recomputes what the change concerns.
    ``results.csv``, ``summary.json``, ``summary.txt`` and ``overview.png`` then cover all records that hold, those of
    attacks that are not selected this time included.

    The dataset must give images in scanner space, as read from their files: preprocessing belongs into the attacked
    function (see ``monai_adversarial.inferers.ScannerSpaceInferer``), so that budgets are in HU and the result can be
    saved in the input's own grid. Every score of the adversarial image is computed on the file read back.

    Args:
        evaluator: MONAI evaluator with the dataset (file paths in its ``data``), network and inferer; its
            ``prepare_batch`` is a ``PrepareBatchAdversarial``.
        attacks: name -> attack; names become folder names.
        output_dir: where results go; created if needed.
        class_names: names of the network's classes, background first (or a bundle's ``channel_def``).
        selected: names of the attacks to run: a list, or one string separated by commas (as from a command line);
            None for all.
        prepare_batch: the ``PrepareBatchAdversarial``; None takes the evaluator's.
        window: display window in HU for pictures, SSIM and PSNR.
        controls: random perturbations of equal size per unit, averaged; the control that an attack is compared with.
        seed: of the bootstrap intervals; the attacks have their own.
        image_key: key of the image (and of its path) in the dataset.
        label_key: key of the label, which cases may lack: the network's own clean prediction is the reference then.
        panels: write a picture per unit.
        save_predictions: write the prediction on the adversarial image as NIfTI.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: for arguments that do not fit, in one sentence.
    """

    def __init__(
        self,
        evaluator: SupervisedEvaluator,
        attacks: Mapping[str, Attack],
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | Mapping[Any, str],
        selected: str | Sequence[str] | None = None,
        prepare_batch: PrepareBatchAdversarial | None = None,
        window: Sequence[float] = (-160.0, 240.0),
        controls: int = 1,
        seed: int = 0,
        image_key: str = "image",
        label_key: str = "label",
        panels: bool = True,
        save_predictions: bool = False,
        progress: bool = True,
    ) -> None:
        installed: Any = evaluator.prepare_batch
        if not isinstance(installed, PrepareBatchAdversarial) or prepare_batch not in (None, installed):
            raise TypeError(
                "the evaluator's prepare_batch must be the campaign's PrepareBatchAdversarial, "
                f"got {type(evaluator.prepare_batch).__name__}."
            )
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks.values()):
            raise TypeError("attacks must map at least one name to an Attack.")
        if isinstance(selected, str):
            selected = [name.strip() for name in selected.split(",") if name.strip()]
        unknown = [name for name in selected or () if name not in attacks]
        if unknown:
            raise ValueError(f"there is no attack {unknown[0]!r}: choose among {', '.join(attacks)}.")
        if not len(tuple(window)) == 2 or not window[1] > window[0]:
            raise ValueError(f"window must give two HU values in rising order, got {tuple(window)}.")
        if isinstance(controls, bool) or not isinstance(controls, int) or controls < 1:
            raise ValueError(f"controls must be an integer >= 1, got {controls!r}.")
        organs = organ_names(class_names)
        overlapping = [name for name, attack in attacks.items() if attack.activation == "sigmoid" and len(organs) > 1]
        if overlapping:
            raise ValueError(
                f"attack {overlapping[0]!r} is for overlapping sigmoid classes, but a campaign scores exclusive "
                "classes (or one sigmoid output)."
            )
        self.evaluator, self.prepare_batch = evaluator, installed
        self.attacks = dict(attacks)
        self.selected = list(selected) if selected else list(attacks)
        self.output_dir = Path(output_dir)
        self.seed, self.image_key, self.label_key, self.progress = int(seed), image_key, label_key, bool(progress)
        self.settings = UnitSettings(
            class_names=class_names,
            window=(float(window[0]), float(window[1])),
            controls=controls,
            panels=bool(panels),
            save_predictions=bool(save_predictions),
        )

    @property
    def cases(self) -> list[dict[str, Any]]:
        """The dataset's entries, each with a ``case_id``.

        Raises:
            TypeError: for a data loader without a dataset of file paths.
        """
        data = getattr(getattr(self.evaluator.data_loader, "dataset", None), "data", None)
        if not isinstance(data, Sequence) or not all(isinstance(d, Mapping) and self.image_key in d for d in data):
            raise TypeError(
                "the evaluator's data loader must have a MONAI Dataset whose data are dictionaries "
                f"with a file path under {self.image_key!r}."
            )
        return [{"case_id": f"case_{index:03d}"} | dict(entry) for index, entry in enumerate(data)]

    def run(self) -> dict[str, Any]:
        """Run the missing units and report on all.

        Returns:
            What ``summary.json`` holds.

        Raises:
            FileNotFoundError, RuntimeError: for a missing or unreadable input, before anything is computed where its
                header shows it.
            BudgetError: if a saved file is outside the budget of its attack.
            OSError: where a file cannot be written.
        """
        cases = self.cases
        dataset: Any = self.evaluator.data_loader.dataset  # type: ignore[union-attr]
        for case in cases:
            self._check_files(case)
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot create the output folder {self.output_dir}: {error.strerror}"
            ) from error
        prints = self._fingerprints(cases)
        units = [(index, name) for index in range(len(cases)) for name in self.selected]
        missing = [unit for unit in units if self._record(cases[unit[0]], unit[1], prints) is None]
        if len(missing) < len(units):
            print(
                f"{len(units) - len(missing)} of {len(units)} units are done already, {len(missing)} to go.", flush=True
            )
        batch: Any = None
        loaded = -1
        clean_prediction: torch.Tensor | None = None
        try:
            with (
                self._quiet_engine(),
                tqdm(missing, desc="attacks", unit="unit", disable=not self.progress, file=sys.stderr) as bar,
            ):
                for index, name in bar:
                    case = cases[index]
                    bar.set_postfix_str(f"{case['case_id']} {name}")
                    if index != loaded:
                        batch = clean_prediction = None  # free the last case before the next is read
                        batch, loaded = self._load(dataset, index, case), index
                    clean_prediction = self._run_unit(case, name, batch, prints, clean_prediction)
        except KeyboardInterrupt:
            print("\ninterrupted: what is finished is kept; start again to continue.", file=sys.stderr)
            raise
        records = {
            name: [record for case in cases if (record := self._record(case, name, prints)) is not None]
            for name in self.attacks
        }
        report = CampaignReport({name: found for name, found in records.items() if found}, seed=self.seed)
        summary = report.write(self.output_dir)
        print(f"\n{report.table()}\n\nresults in {self.output_dir}", flush=True)
        return summary

    def _check_files(self, case: Mapping[str, Any]) -> None:
        """Read the headers of a case: what they show must not come up hours later."""
        image = read_reference(case[self.image_key])
        if self.label_key not in case:
            return
        label = read_reference(case[self.label_key])
        if tuple(image.shape) != tuple(label.shape):
            raise ValueError(
                f"image and label of {case['case_id']} must have the same shape, got {tuple(image.shape)} and "
                f"{tuple(label.shape)} ({case[self.label_key]})."
            )
        if not np.allclose(image.affine, label.affine, atol=1e-2):
            warnings.warn(f"image and label of {case['case_id']} have different affines: do they fit?", stacklevel=3)

    def _fingerprints(self, cases: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
        """One fingerprint per case and attack."""
        shared = {
            "record": RECORD_VERSION,
            "version": monai_adversarial.__version__,
            "network": network_hash(self.evaluator.network),
            "inferer": describe(self.evaluator.inferer),
            "reference": self.prepare_batch.reference,
            "settings": describe(self.settings),
        }
        described = {name: [repr(type(attack)), describe(attack)] for name, attack in self.attacks.items()}
        prints = {}
        for case in cases:
            inputs = {key: file_hash(case[key]) for key in (self.image_key, self.label_key) if key in case}
            for name, attack in described.items():
                prints[case["case_id"], name] = fingerprint({**shared, "attack": attack, "inputs": inputs})
        return prints

    def _record_path(self, case: Mapping[str, Any], name: str) -> Path:
        return self.output_dir / name / f"{case['case_id']}.json"

    def _record(
        self, case: Mapping[str, Any], name: str, prints: Mapping[tuple[str, str], str]
    ) -> dict[str, Any] | None:
        """The unit's record if it holds and its files are there."""
        record = read_json(self._record_path(case, name))
        if not isinstance(record, dict) or record.get("fingerprint") != prints[case["case_id"], name]:
            return None
        return record if all((self.output_dir / file).is_file() for file in record["files"].values()) else None

    def _load(self, dataset: Any, index: int, case: Mapping[str, Any]) -> Any:
        """The collated batch of one case."""
        try:
            return list_data_collate([dataset[index]])
        except Exception:
            for key in (self.image_key, self.label_key):
                if key in case:
                    read_back(case[key])  # says in one sentence what is wrong with the file, if the file is the reason
            raise

    def _run_unit(
        self,
        case: Mapping[str, Any],
        name: str,
        batch: Any,
        prints: Mapping[tuple[str, str], str],
        clean_prediction: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Run one unit and write its record; returns the clean prediction for the next unit of the case."""
        path = self._record_path(case, name)
        path.unlink(missing_ok=True)  # an old record must not vouch for new files
        attack = self.prepare_batch.attack = self.attacks[name]
        before = attack.progress
        attack.progress = before or (self.progress and sys.stderr.isatty())  # a bar of steps, not into log files
        unit = Unit(
            self.evaluator,
            self.prepare_batch,
            self.settings,
            case[self.image_key],
            case["case_id"],
            name,
            clean_prediction,
        )
        try:
            record = unit.run(batch, self.output_dir)
        finally:
            attack.progress = before
        write_json(path, {"fingerprint": prints[case["case_id"], name], **record})
        return unit.clean_prediction

    @contextmanager
    def _quiet_engine(self) -> Iterator[None]:
        """Run the evaluator on single batches without a log line each; the evaluator is as before afterwards."""
        evaluator = self.evaluator
        before = evaluator.data_loader, evaluator.state.epoch_length, evaluator.logger.level, self.prepare_batch.attack
        evaluator.logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            evaluator.data_loader, evaluator.state.epoch_length, level, self.prepare_batch.attack = before
            evaluator.logger.setLevel(level)
            self.prepare_batch.last_result = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
