# SPDX-License-Identifier: Apache-2.0
"""LesionInsertion and LesionRemoval: only the inner cube changes, lesions appear and vanish, output is marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.generators import LesionInsertion, LesionRemoval, lesion_cubes

SMALL: dict[str, Any] = {"size": 16, "margin": 4, "channels": (8, 16), "rate": 5e-3, "dropout": 0.0}
MIDDLE = (..., slice(11, 13), slice(11, 13), slice(11, 13))


@pytest.fixture(scope="module")
def both() -> tuple[LesionInsertion, LesionRemoval]:
    insertion, removal = LesionInsertion(**SMALL), LesionRemoval(**SMALL)
    insertion.fit(lesion_cubes(12, True, size=16), epochs=10)
    removal.fit(lesion_cubes(12, False, size=16, seed=1), epochs=10)
    return insertion, removal


def test_lesions_appear_and_vanish_in_new_scans_and_nothing_else_changes(
    both: tuple[LesionInsertion, LesionRemoval],
) -> None:
    insertion, removal = both
    healthy, sick = (lesion_cubes(4, lesion, size=24, seed=50) for lesion in (False, True))
    for painter, scan, sign in ((insertion, healthy, -1.0), (removal, sick, 1.0)):
        painted = painter(scan, (12, 12, 12))
        assert torch.equal(painted.image[~painted.changed], scan[~painted.changed])
        assert int(painted.changed[0].sum()) == 8**3
        change = (painted.image - scan)[MIDDLE].flatten(1).mean(dim=1)
        # The mean over the scans: how strong one is drawn hangs on rounding, as in all such training.
        assert float((sign * change).mean()) > 8 and bool((sign * change > 0).all()), change


def test_a_task_is_followed() -> None:
    def bright(cube: torch.Tensor) -> torch.Tensor:
        return -cube[..., 4:12, 4:12, 4:12].flatten(1).mean(dim=1)

    cubes, scan = lesion_cubes(4, False, size=16), lesion_cubes(1, False, size=16, seed=9)
    levels = []
    for weight in (0.0, 1000.0):
        painter = LesionInsertion(**SMALL, task=weight)
        painter.fit(cubes, epochs=4, task=bright)
        levels.append(float(painter(scan, (8, 8, 8)).image[..., 4:12, 4:12, 4:12].mean()))
    assert levels[1] > levels[0] + 50


def test_a_seed_gives_the_same_weights() -> None:
    cubes, made = lesion_cubes(4, True, size=16), []
    for _ in range(2):
        torch.rand(2)
        painter = LesionInsertion(**{**SMALL, "dropout": 0.5})
        history = painter.fit(cubes, epochs=2)
        made.append((history, torch.cat([weight.flatten() for weight in painter.generator.parameters()])))
    assert made[0][0] == made[1][0] and torch.equal(made[0][1], made[1][1])


def test_the_scan_and_its_file_are_marked(both: tuple[LesionInsertion, LesionRemoval], tmp_path: Path) -> None:
    scan = lesion_cubes(1, False, size=24).round()
    source = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(scan[0, 0].numpy().astype(np.int16), np.eye(4)), source)
    painted = both[0](MetaTensor(scan, affine=torch.eye(4)), (12, 12, 12))
    assert isinstance(painted.image, MetaTensor)
    assert painted.image.meta["synthetic"] == "lesion inserted by LesionInsertion"
    with pytest.raises(ValueError, match="adversarial"):
        painted.save(source, tmp_path / "scan_painted.nii.gz")
    header = nibabel.load(painted.save(source, tmp_path / "scan_adversarial.nii.gz")).header
    assert b"synthetic, lesion inserted" in header["descrip"].item()


def test_what_is_told_wrongly_is_refused(both: tuple[LesionInsertion, LesionRemoval]) -> None:
    scan = lesion_cubes(1, False, size=24)
    with pytest.raises(RuntimeError, match="no weights are shipped"):
        LesionRemoval(**SMALL)(scan, (12, 12, 12))
    with pytest.raises(ValueError, match="center must leave 8 voxels"):
        both[0](scan, (4, 12, 12))
    with pytest.raises(ValueError, match="cubes must have shape"):
        both[0].fit(scan)
    with pytest.raises(ValueError, match="multiple of 2"):
        LesionInsertion(**{**SMALL, "size": 17})
    with pytest.raises(ValueError, match="low < high"):
        LesionInsertion(window=(10, 0), **SMALL)
