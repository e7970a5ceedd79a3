# SPDX-License-Identifier: Apache-2.0
"""An audit at the end of an evaluator's own run."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, SaveImaged

from monai_adversarial.audit import RobustnessAudit, TargetError
from tests.audit.pipeline import NAMES, PLAN, parts, write_cases


def _evaluator(tmp_path: Path, items: list, **changes: object) -> SupervisedEvaluator:
    made = parts()
    saver = SaveImaged("pred", output_dir=tmp_path / "saved", output_postfix="seg", separate_folder=False)
    options = {
        "device": torch.device("cpu"),
        "val_data_loader": DataLoader(Dataset(items, made.preprocessing), batch_size=1),
        "network": made.network,
        "inferer": made.inferer,
        "postprocessing": Compose([*made.postprocessing.transforms, saver]),
        **changes,
    }
    return SupervisedEvaluator(**options)


def test_the_run_is_what_it_was_and_then_comes_the_audit(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data")
    items = [{"image": case["image"], "label": case["label"]} for case in cases]
    plain = _evaluator(tmp_path, items)
    plain.run()
    saved = {file.name: nibabel.load(file).get_fdata() for file in (tmp_path / "saved").glob("*.nii.gz")}
    audit = RobustnessAudit(tmp_path / "audit", PLAN, class_names=NAMES, progress=False)
    _evaluator(tmp_path, items, val_handlers=[audit]).run()
    again = {file.name: nibabel.load(file).get_fdata() for file in (tmp_path / "saved").glob("*.nii.gz")}
    # The evaluator's own files, from clean images, and none of the audit's.
    assert len(saved) == 2 and all(np.array_equal(again[name], saved[name]) for name in saved)
    assert audit.summary is not None and (tmp_path / "audit" / "report.html").is_file()
    (entry,) = [one for one in audit.summary["results"] if one["row"] == "pgd_40"]
    assert entry["n"] == 2 and entry["reference"] == "label"
    assert entry["mean"]["adversarial"]["dice"]["mean"] < 0.6
    facts = {fact["what"]: fact["value"] for fact in audit.summary["target"]["facts"]}
    assert facts["savers left out"] == "SaveImaged"


def test_data_without_files_are_refused(tmp_path: Path) -> None:
    evaluator = _evaluator(tmp_path, [{"image": torch.zeros(1, 8, 8, 8)}])
    with pytest.raises(TargetError, match="no items with the path of an image"):
        RobustnessAudit(tmp_path / "audit", PLAN)(evaluator)
