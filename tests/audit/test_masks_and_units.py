# SPDX-License-Identifier: Apache-2.0
"""Masks that may overlap, and files whose values are no HU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, ScaleIntensityd

from monai_adversarial.audit import audit
from monai_adversarial.audit.target import AuditTarget
from monai_adversarial.studies.study import StudyError
from tests.audit.pipeline import PLAN, parts, target, write_cases


class Regions(torch.nn.Module):
    """Two regions that overlap: all that is bright, and what is brightest."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image - 0.38, image - 0.72], dim=1) * self.sharpness


def regions(**changes: Any) -> AuditTarget:
    told = {"class_names": ["all", "bone"], "activation": "sigmoid"}
    return target(Regions(), **{"told": told, "postprocessing": None, **changes})


def relabeled(entry: dict[str, str], old: int, new: int) -> None:
    file: Any = nibabel.load(entry["label"])
    values = np.asarray(file.dataobj)
    nibabel.save(
        nibabel.Nifti1Image(np.where(values == old, new, values).astype(np.uint8), file.affine), entry["label"]
    )


def only(*names: str) -> dict[str, Any]:
    return {**PLAN, "rows": {name: PLAN["rows"][name] for name in ("clean", *names)}}


def test_a_class_map_whose_values_are_not_the_masks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = write_cases(tmp_path / "data", 1)
    relabeled(entry, 2, 4)
    with pytest.raises(StudyError):
        audit(regions(), [entry], only(), tmp_path / "out", pictures=False, progress=False)
    said = capsys.readouterr().err
    assert "a class map with the values [0, 1, 4]" in said and "2 masks" in said


def test_boolean_masks_that_the_pipeline_makes_of_labels_are_scored(tmp_path: Path) -> None:
    (entry,) = write_cases(tmp_path / "data", 1)
    scale = parts().preprocessing.transforms[-1]  # type: ignore[union-attr]
    made = Compose(
        [
            LoadImaged(["image", "label"]),
            EnsureChannelFirstd(["image", "label"]),
            scale,
            Lambdad("label", lambda label: torch.cat([label > 0, label > 1])),
        ]
    )
    found = audit(
        regions(preprocessing=made, preprocesses_label=True),
        [entry],
        only("pgd"),
        tmp_path / "out",
        pictures=False,
        progress=False,
    )
    organs = found["results"][0]["organs"]
    assert set(organs) == {"all", "bone"} and all(one["clean"]["dice"]["mean"] > 0.9 for one in organs.values())


@pytest.mark.parametrize(("scaled_by_image", "units"), [(True, "file values"), (False, "HU")])
def test_values_are_called_hounsfield_units_only_where_they_are(
    tmp_path: Path, scaled_by_image: bool, units: str
) -> None:
    entries = write_cases(tmp_path / "data", 1)
    last = ScaleIntensityd("image") if scaled_by_image else parts().preprocessing.transforms[-1]  # type: ignore[union-attr]
    made = target(preprocessing=Compose([LoadImaged("image"), EnsureChannelFirstd("image"), last]), postprocessing=None)
    found = audit(made, entries, only("pgd"), tmp_path / "out", pictures=False, progress=False)
    attacked = next(one for one in found["results"] if one["row"].startswith("pgd"))
    assert attacked["measurements"]["largest_change"]["units"] == units


class BackgroundFirst(torch.nn.Module):
    """Independent channels of which the first is all that is dark, behind a BatchNorm that saw no image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm3d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = 20 * (self.norm(image) - 0.38)
        return torch.cat([-bright, bright], dim=1)


@pytest.mark.parametrize(("names", "trained"), [(None, False), (["background", "all"], False), (["lung", "all"], True)])
def test_an_untrained_network_and_a_background_that_is_scored_are_no_pass(
    tmp_path: Path, names: list[str] | None, trained: bool
) -> None:
    (entry,) = write_cases(tmp_path / "data", 1)
    network = BackgroundFirst()
    if trained:
        network.norm.running_var.fill_(1.1)  # type: ignore[union-attr, operator]
    told = {"activation": "sigmoid", **({} if names is None else {"class_names": names})}
    made = target(network, told=told, postprocessing=None)
    found = audit(made, [{"image": entry["image"]}], only("pgd"), tmp_path / "out", pictures=False, progress=False)
    assert found["cases"][0]["case"] == "case_000"
    verdicts = {check["check"]: check["verdict"] for check in found["health"] if check["verdict"] != "pass"}
    assert ("trained" in verdicts) is not trained
    assert ("background" in verdicts) is not trained
    assert trained or (verdicts["trained"], verdicts["background"]) == ("fail", "warn")


def test_a_case_without_an_image_is_named_by_its_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"as 'image', got the keys \['case_id', 'img'\]"):
        audit(regions(), [{"img": "a.nii.gz"}], only("pgd"), tmp_path, progress=False)
