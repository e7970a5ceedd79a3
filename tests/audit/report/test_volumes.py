# SPDX-License-Identifier: Apache-2.0
"""Volumes for the viewer: the change stays to be seen, nothing of a scan's header goes along."""

from __future__ import annotations

import base64
import gzip

import nibabel
import numpy as np
import pytest

from monai_adversarial.audit.report import volumes
from monai_adversarial.audit.report.volumes import colors_of, viewer_volumes
from tests.audit.report.example import CLASSES, example_summary, write_files


@pytest.fixture(scope="module")
def example():
    return example_summary()


def decoded(text):
    content = gzip.decompress(base64.b64decode(text))
    return content, nibabel.Nifti1Image.from_bytes(content)


def test_the_header_of_a_scan_is_left_behind(example, tmp_path):
    write_files(example, tmp_path)
    entries, _ = viewer_volumes(example, tmp_path)
    assert b"DOE" in gzip.decompress((tmp_path / example["volumes"][0]["clean"]["file"]).read_bytes())
    assert set(entries[0]["files"]) == {"clean", "adversarial", "difference", "clean_prediction", "prediction"}
    for text in entries[0]["files"].values():
        assert b"DOE" not in decoded(text)[0]


def test_voxels_are_picked_so_that_the_change_keeps_its_size(example, tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "SIDES", (12,))
    write_files(example, tmp_path)
    entries, notes = viewer_volumes(example, tmp_path)
    _, difference = decoded(entries[0]["files"]["difference"])
    assert difference.shape == (12, 12, 12)
    assert difference.header.get_zooms() == pytest.approx((6.0, 6.0, 6.0))
    assert entries[0]["largest"] == pytest.approx(8.0, rel=1e-4)
    # Noise of two values: an average of neighbors would have lost most of it.
    assert np.abs(np.asarray(difference.dataobj)).min() > 120
    assert "one of 2 voxels along each axis" in notes[0]


def test_labels_are_not_changed(example, tmp_path):
    write_files(example, tmp_path)
    entries, _ = viewer_volumes(example, tmp_path)
    stored = nibabel.load(tmp_path / example["volumes"][0]["prediction"]["file"])
    assert np.array_equal(decoded(entries[0]["files"]["prediction"])[1].dataobj, stored.dataobj)


def test_what_has_no_room_is_counted(example, tmp_path, monkeypatch):
    write_files(example, tmp_path)
    whole = sum(map(len, viewer_volumes(example, tmp_path)[0][0]["files"].values()))
    monkeypatch.setattr(volumes, "BUDGET", whole + 1)
    entries, notes = viewer_volumes({**example, "volumes": example["volumes"] * 3}, tmp_path)
    assert len(entries) == 1
    assert any(note.startswith("2 more volumes") for note in notes)


def test_a_first_volume_that_does_not_fit_becomes_coarser(example, tmp_path, monkeypatch):
    write_files(example, tmp_path)
    whole = sum(map(len, viewer_volumes(example, tmp_path)[0][0]["files"].values()))
    monkeypatch.setattr(volumes, "SIDES", (24, 12, 6))
    monkeypatch.setattr(volumes, "BUDGET", whole - 1)
    entries, _ = viewer_volumes(example, tmp_path)
    assert entries[0]["step"] == 2
    monkeypatch.setattr(volumes, "BUDGET", 1)
    entries, notes = viewer_volumes(example, tmp_path)
    assert not entries and notes == ["1 more volume is in the files beside this page and not in the viewer."]


@pytest.mark.parametrize("file", ["../outside.nii.gz", "/etc/hostname", "missing.nii.gz", "", None, "a\0b"])
def test_files_outside_the_report_are_not_read(example, tmp_path, file):
    folder = tmp_path / "report"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "outside.nii.gz")
    volume = {"case": "a", "row": "pgd_8", "clean": {"file": file}, "adversarial": {"file": file}}
    entries, notes = viewer_volumes({**example, "volumes": [volume]}, folder)
    assert not entries and "missing" in notes[0]


def test_without_the_clean_image_there_is_no_difference(example, tmp_path):
    write_files(example, tmp_path)
    volume = {key: value for key, value in example["volumes"][0].items() if key != "clean"}
    entries, _ = viewer_volumes({**example, "volumes": [volume]}, tmp_path)
    assert set(entries[0]["files"]) == {"adversarial", "clean_prediction", "prediction"}


def test_names_that_are_not_of_all_classes_name_nothing():
    assert colors_of(CLASSES[1:], 2)["labels"] == ["class 0", "class 1", "class 2"]
    assert colors_of(["background", "liver"], 2)["labels"] == ["background", "liver", "class 2"]


def test_a_file_that_is_no_volume_is_named(example, tmp_path):
    (tmp_path / "x.nii").write_bytes(b"no volume")
    volume = {"case": "a", "row": "pgd_8", "clean": {"file": "x.nii"}, "adversarial": {"file": "x.nii"}}
    entries, notes = viewer_volumes({**example, "volumes": [volume]}, tmp_path)
    assert not entries and notes[0].startswith("a, pgd_8:")


def test_background_is_clear_and_organs_have_colors():
    colors = colors_of(CLASSES, 3)
    assert colors["labels"] == CLASSES and colors["A"] == [0] + [255] * 7
    assert len({*zip(colors["R"], colors["G"], colors["B"], strict=True)}) == 8
