# SPDX-License-Identifier: Apache-2.0
"""The study of an audit: every case under every row of a plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.first_case import check_first_case
from monai_adversarial.audit.plan import Plan, Row
from monai_adversarial.audit.shard import Shard
from monai_adversarial.audit.target import AuditCase, AuditTarget
from monai_adversarial.audit.unit import AuditUnit, unit_files
from monai_adversarial.detection import Detector, fit_and_calibrate
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.labeled_classes import scored_where_labeled
from monai_adversarial.studies.measurement import common_settings, network_hashes
from monai_adversarial.studies.records import read_record, safe_name, write_record
from monai_adversarial.studies.study import Cell, Failure, Study
from monai_adversarial.utils.hashing import describe, file_hash, fingerprint

__all__ = ["AuditStudy"]

Report = Callable[["AuditStudy", Sequence[Mapping[str, Any]], Sequence[Failure]], dict[str, Any]]


class AuditStudy(Study):
    """Every case under every row of a plan, through the target's own pipeline; see ``Study`` for what resuming means.

    >>> import tempfile
    >>> from monai_adversarial.audit import AuditStudy, AuditTarget, load_plan
    >>> from monai_adversarial.data.example import example_case
    >>> target, plan = AuditTarget.of_model(example_case(16)[0]), load_plan("quick", rows=["clean", "pgd_8"])
    >>> cases = [{"case_id": "a", "image": "a.nii.gz"}, {"case_id": "b", "image": "b.nii.gz"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = AuditStudy(target, cases, plan, folder, progress=False)
    ...     [str(cell) for cell in study.cells()]
    ['a clean', 'b clean', 'a pgd_8', 'b pgd_8']

    Args:
        target: what is audited.
        cases: of ``find_cases``: dictionaries with ``image``, ``case_id`` and, where there is one, ``label``.
        plan: of ``load_plan``.
        output_dir: records, pictures and the report.
        report: writes the report; called with the study, its records and failures.
        surrogate: network whose gradients transfer rows follow, on the image that the target's preprocessing gives.
        images: write adversarial images on the grid of their files.
        pictures: draw a panel of each cell.
        shard: the part of the cases that this process runs.
        progress: show a progress bar.

    Raises:
        ValueError: for no case, and case ids that come twice.
    """

    title = "audit"

    def __init__(
        self,
        target: AuditTarget,
        cases: Sequence[Mapping[str, Any]],
        plan: Plan,
        output_dir: str | os.PathLike[str],
        report: Report | None = None,
        surrogate: AttackedModel | None = None,
        images: bool = False,
        pictures: bool = True,
        shard: Shard | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(output_dir, progress)
        self.target, self.plan, self.surrogate = target, plan, surrogate
        self.entries = {str(case["case_id"]): dict(case) for case in cases}
        if not self.entries or len(self.entries) < len(cases):
            raise ValueError(
                f"cases must give at least one case and each an id of its own, got {len(cases)} cases with "
                f"{len(self.entries)} different ids."
            )
        self.rows: dict[str, Row] = {row.name: row for row in plan.rows}
        self.report, self.images, self.pictures = report, bool(images), bool(pictures)
        self.shard = shard or Shard()
        self.scored: AttackedModel = target.model
        self.unlabeled: list[str] = []
        self._inputs: dict[str, dict[str, str]] = {}
        self._shared: dict[str, Any] = {}
        self._detectors: dict[Any, Detector] = {}
        self._scored_known = False
        self.first_case: list[Fact] = []

    def cells(self) -> list[Cell]:
        """Every case under every row, rows outermost as in the report; cases of a row's detector are not attacked.

        Raises:
            ValueError: where a detector leaves no case to attack.
        """
        found = []
        for row in self.plan.rows:
            aside = 0 if row.detector is None else row.detector.aside
            if row.detector is not None and (why := row.detector.too_few(len(self.entries))):
                raise ValueError(f"row {row.name!r}: {why}")
            found += [Cell(case, row.name) for case in list(self.entries)[aside:]]
        return found

    def run(self) -> dict[str, Any]:
        """Run what is missing of this process's share, and report on all that is there.

        Raises:
            StudyError: where cells failed; the others are done and in the report.
        """
        self.check()
        own = set(self.shard.part(list(self.entries)))
        wanted = [cell for cell in self.cells() if cell.case in own]
        failures = self.run_cells(wanted)
        self.shard.wait()
        return self.finish(wanted, failures)

    def check(self) -> None:
        """Run the first case that can be read as the audit does and as the target is deployed, and keep what it shows.

        Raises:
            TargetError: where the two differ.
        """
        self.make_folder()
        path = self.output_dir / "first_case.json"
        gradients = self.plan.by_gradients
        mark = fingerprint({**self.target.settings(), "cases": list(self.entries), "gradients": gradients})
        known, _ = read_record(path)
        if known is not None and known.get("fingerprint") == mark:
            self.first_case = [Fact(**fact) for fact in known["facts"]]
            return
        for entry in self.entries.values():
            try:
                self.first_case = check_first_case(self.target, entry, gradients)
            except TargetError:
                raise
            except Exception:  # its cells fail and say why; another case may be read
                continue
            if not self.shard.rank:
                write_record(path, {"fingerprint": mark, "facts": [vars(fact) for fact in self.first_case]})
            return

    def forget(self) -> None:
        """Read inputs and weights anew."""
        super().forget()
        self._inputs.clear()
        self._detectors.clear()
        surrogate = None if self.surrogate is None else network_hashes(self.surrogate)
        self._shared = {
            **common_settings(),
            "target": self.target.settings(),
            "surrogate": surrogate,
            "tolerance": self.plan.surface_tolerance_mm,
            "images": self.images,
            "pictures": self.pictures,
        }

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Target, row and the content of the input files."""
        attack, setup = self.rows[cell.attack].attack, self.rows[cell.attack].detector
        self._know_what_is_scored()
        detected = {}
        if setup is not None:
            clean = [self._checked_inputs(case) for case in list(self.entries)[: setup.aside]]
            detected = {"detector": [setup.component, setup.as_json(), list(setup.weights), clean]}
        return {
            **detected,
            **self._shared,
            "scored": list(self.scored.scored_classes or []),
            "attack": None if attack is None else [type(attack).__qualname__, describe(attack)],
            "inputs": self._checked_inputs(cell.case),
        }

    def source(self, case: str) -> str:
        """The image file."""
        return str(self.entries[case]["image"])

    def record_path(self, cell: Cell) -> Path:
        """Beside the files of the cell."""
        return self.output_dir / "rows" / safe_name(cell.attack) / f"{safe_name(cell.case)}.json"

    def files(self, cell: Cell) -> list[Path]:
        """Picture and volumes."""
        return list(unit_files(self.output_dir, cell).values())

    def files_hold(self, cell: Cell, record: Mapping[str, Any]) -> bool:
        """Whether the files are there with the content that was written."""
        return self.recorded_files_hold(record)

    def _checked_inputs(self, case: str) -> dict[str, str]:
        if problem := self.entries[case].get("problem"):
            raise ValueError(problem)
        if case not in self._inputs:
            entry = self.entries[case]
            self._inputs[case] = {
                key: _content_hash(entry[key]) for key in ("image", "label") if entry.get(key) is not None
            }
        return self._inputs[case]

    def _know_what_is_scored(self) -> None:
        """Classes that no label holds are not scored: where the network finds one, rightly, its Dice would be 0."""
        if self._scored_known:
            return
        self._scored_known = True
        model = self.target.model
        labeled = [entry for entry in self.entries.values() if entry.get("label") is not None]
        if model.scored_classes is not None or model.class_names is None or not labeled:
            return
        if self.target.parts.preprocesses_label:  # its classes are what the pipeline makes of them
            return
        values: set[int] = set()
        for entry in labeled:
            try:
                values |= self.target.label_values(str(entry["label"]))
            except Exception:  # its cells fail and say why
                continue
        if values:
            self.scored, self.unlabeled = scored_where_labeled(model, values)

    def load(self, case: str) -> AuditCase:
        """Preprocess a case."""
        loaded = self.target.load(self.entries[case])
        loaded.clean["hashes"] = self._checked_inputs(case)
        return loaded

    def compute(self, cell: Cell, case: AuditCase) -> dict[str, Any]:
        """Attack one case and write its files."""
        detector = self._detector(self.rows[cell.attack], case)
        unit = AuditUnit(
            self.target,
            case,
            self.rows[cell.attack],
            self.plan,
            cell,
            self.scored,
            self.surrogate,
            self.images,
            self.pictures,
            detector,
        )
        return unit.run(self.output_dir) | {"unlabeled_classes": self.unlabeled}

    def _detector(self, row: Row, case: AuditCase) -> Detector | None:
        """The detector of a row, fitted to the first cases when the first of the others comes."""
        setup = row.detector
        if setup is None:
            return None
        mark = (setup.component, setup.fit_cases, setup.calibration_cases, setup.false_positive_rate)
        if mark not in self._detectors:
            self.target.deploy(case)  # the first answer shows what the network's values mean
            clean = (self.target.load(self.entries[name]).image for name in self.entries)
            self._detectors[mark] = fit_and_calibrate(
                setup.detector_of(self.target.model),
                clean,
                setup.fit_cases,
                setup.calibration_cases,
                setup.false_positive_rate,
            )
        return self._detectors[mark]

    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the report, in the first process alone."""
        if self.report is None or self.shard.rank:
            return {}
        return self.report(self, records, failures)


def _content_hash(file: Any) -> str:
    """SHA-256 of a file, of the files of a folder in the order of their names, or of several files."""
    if isinstance(file, (list, tuple)):
        return " ".join(_content_hash(one) for one in file)
    path = Path(file)
    if path.is_dir():
        return " ".join(file_hash(one) for one in sorted(path.iterdir()) if one.is_file())
    if not path.exists():
        raise FileNotFoundError(f"there is no image file {path}.")
    return file_hash(path)
