# SPDX-License-Identifier: Apache-2.0
"""The picture of a unit: sides of the patient, chosen slice, deformation grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch

from monai_adversarial.studies.reports.panel import Panel, _View, organ_colors, save_panel

NAMES = ["background", "liver", "spleen"]
SHAPE = (40, 36, 12)  # toward right, anterior, superior


def make_panel(codes: str = "RAS", geometric: bool = False) -> Panel:
    """A body with the liver at the right front in slices 5 to 8, which the attacked network misses in slice 6."""
    clean = np.full(SHAPE, -1000.0, np.float32)
    clean[4:36, 4:32] = 40.0
    label = np.zeros(SHAPE, np.int32)
    label[26:34, 22:30, 5:9] = 1
    attacked = label.copy()
    attacked[..., 6] = 0
    to_codes = nibabel.orientations.axcodes2ornt(codes)
    affine = np.diag([2.0, 2.0, 5.0, 1.0]) @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), to_codes), SHAPE
    )

    def turn(volume: np.ndarray) -> torch.Tensor:
        ornt = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), to_codes)
        return torch.from_numpy(np.ascontiguousarray(nibabel.orientations.apply_orientation(volume, ornt)))

    organ = {"dice": 0.9, "hd95_mm": 2.0, "reference_voxels": 9, "predicted_voxels": 9}
    scores = {name: {"liver": organ, "spleen": organ | {"dice": None}} for name in ("clean", "random", "adversarial")}
    record: dict[str, Any] = {
        "case": "case_000",
        "attack": "elastic" if geometric else "pgd",
        "geometric": geometric,
        "reference": "label",
        "scores": scores,
        "mean": {name: {"dice": 0.9, "hd95_mm": 2.0} for name in scores},
        "visibility": {"ssim": 0.99, "largest_change_hu": 8.0},
        "measurements": {"noise_linf": {"value": 8.0, "units": "HU", "limit": 8.0, "bound": "upper"}},
    }
    field = torch.zeros((3, *turn(clean).shape))
    field[0] = 3.0
    return Panel(
        clean=turn(clean),
        adversarial=turn(clean + 8.0),
        clean_label=turn(label),
        adversarial_label=turn(label),
        clean_prediction=turn(label),
        adversarial_prediction=turn(attacked),
        affine=affine,
        displacement=field if geometric else None,
        record=record,
        class_names=NAMES,
        window=(-160.0, 240.0),
    )


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "SRA", "PIR"])
def test_the_patients_right_is_on_the_left_and_the_front_above_whatever_the_file_order(codes: str) -> None:
    panel = make_panel(codes)
    view = _View(panel)
    assert (view.index, view.slices) == (6, 12)
    rows, columns = np.nonzero(view.cut(panel.clean_label))
    height, width = view.cut(panel.clean).shape
    assert rows.max() < height / 2 and columns.max() < width / 2
    assert not view.cut(panel.adversarial_prediction).any()
    assert view.aspect == pytest.approx(1.0)


@pytest.mark.parametrize("geometric", [False, True])
def test_a_picture_is_written(tmp_path: Path, geometric: bool) -> None:
    save_panel(make_panel("LPS", geometric), tmp_path / "panel.png")
    picture = matplotlib.image.imread(tmp_path / "panel.png")
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.1


def test_organs_have_distinct_colors() -> None:
    colors = organ_colors(["background", *"abcdefg"])
    assert sorted(colors) == list(range(1, 8)) and len(set(colors.values())) == 7
