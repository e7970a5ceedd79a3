# SPDX-License-Identifier: Apache-2.0
"""Folders and datalists that would lose a patient, count one twice, or score without the label that is there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_adversarial.data import find_cases
from tests.hostile.parts import ended


def files(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"")


def datalist(content: Any, *names: str) -> dict[str, bytes]:
    return {**files(*names), "list.json": json.dumps(content).encode()}


#: what -> files, path below the folder, what the sentence says
REFUSED: dict[str, tuple[dict[str, bytes], str, str]] = {
    "two endings of one name": (files("a.nii", "a.nii.gz", "a_2.nii.gz"), "", "two files of one name"),
    "another format beside NIfTI": (files("a.nii", "b.mha"), "", r"other formats \(b.mha\)"),
    "another format among images": (files("images/a.nii", "images/b.nrrd"), "", r"other formats \(b.nrrd\)"),
    "images beside patients' folders": (files("a.nii", "p/ct.nii"), "", r"folders with images \(p\)"),
    "a folder among images": (files("images/a.nii", "images/p/b.nii"), "", r"folders of images"),
    "a patient one folder deeper": (files("p/ct.nii", "q/day/ct.nii"), "", r"images lie deeper \(q\)"),
    "two images of one patient": (files("p/a.nii", "p/b.nii"), "", "holds 2 images"),
    "a label without its image": (files("images/a.nii", "labels/a.nii", "labels/b.nii"), "", "a patient is missing"),
    "an image without its label": (files("images/a.nii", "images/b.nii", "labels/a.nii"), "", "have no label"),
    "a label beside no image": (files("a.nii", "b_seg.nii"), "", "labels without an image"),
    "two labels of one image": (files("a.nii", "a_seg.nii", "a_label.nii"), "", "2 labels for a.nii"),
    "a label as the image": (files("a_seg.nii"), "a_seg.nii", "named as a label"),
    "several data sets": (files("x/images/a.nii", "y/images/a.nii"), "", "several data sets"),
    "nothing": ({}, "", "no NIfTI images"),
    "no such folder": ({}, "nowhere", "no folder, datalist or image"),
    "a text file": (files("a.txt"), "a.txt", "neither a folder"),
    "one image twice": (datalist(["a.nii", "./a.nii"], "a.nii"), "list.json", "one image twice"),
    "two labels": (datalist([{"image": "a.nii", "label": ["b.nii", "c.nii"]}]), "list.json", "path of one file"),
    "an empty label": (datalist([{"image": "a.nii", "label": ""}], "a.nii"), "list.json", "path of one file"),
    "a label of another key": (datalist([{"image": "a.nii", "seg": "b.nii"}]), "list.json", "label_key='seg'"),
    "a missing file": (datalist(["a.nii"]), "list.json", "no image file"),
    "an empty path": (datalist([{"image": ""}]), "list.json", "path of one image"),
    "a number": (datalist([{"image": 5}]), "list.json", "path of one image"),
    "a number among the files of an image": (datalist([{"image": ["a.nii", 5]}]), "list.json", "path of one image"),
    "an unknown section": (datalist({"cases": ["a.nii"]}), "list.json", "no section"),
    "an empty list": (datalist([]), "list.json", "must hold a list"),
    "no JSON": ({"list.json": b"{"}, "list.json", "cannot read"),
    "Latin-1": ({"list.json": '["é.nii"]'.encode("latin-1")}, "list.json", "not UTF-8"),
    "endless nesting": ({"list.json": b"[" * 100_000}, "list.json", "nested too deeply"),
    "a null": ({"list.json": b"null"}, "list.json", "must hold a list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_counted_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    content, path, says = REFUSED[what]
    for name, value in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(value)
    before = sorted(map(str, tmp_path.rglob("*")))
    status, sentence = ended(lambda: find_cases(tmp_path / path))
    assert status == 1
    assert re.search(says, sentence), sentence
    assert sorted(map(str, tmp_path.rglob("*"))) == before


#: what -> files, path, names of the cases
LISTED: dict[str, tuple[dict[str, bytes], str, list[str]]] = {
    "names that repeat": (
        datalist(["x/a.nii", "y/a.nii", "z/a_2.nii", "x_a.nii"], "x/a.nii", "y/a.nii", "z/a_2.nii", "x_a.nii"),
        "list.json",
        [],
    ),
    "names that differ in case": (datalist(["x/A.nii", "y/a.nii"], "x/A.nii", "y/a.nii"), "list.json", []),
    "accents spelled twice": (
        datalist(["x/\u00e9.nii", "x/e\u0301.nii"], "x/\u00e9.nii", "x/e\u0301.nii"),
        "list.json",
        [],
    ),
    "a mark of byte order": ({"list.json": b'\xef\xbb\xbf["a.nii"]', "a.nii": b""}, "list.json", ["a"]),
    "lists of one": (datalist([{"image": ["a.nii"], "label": ["b.nii"]}], "a.nii", "b.nii"), "list.json", ["a"]),
    "hidden files and results": (files("a.nii", ".b.nii", "c_adversarial.nii", "out/a_adversarial.nii"), "", ["a"]),
}


@pytest.mark.parametrize("what", LISTED)
def test_every_image_is_a_case_with_a_name_of_its_own(what: str, tmp_path: Path) -> None:
    content, path, names = LISTED[what]
    for name, value in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(value)
    cases = find_cases(tmp_path / path, anonymize=False)
    listed = [case["case_id"] for case in cases]
    assert len({name.casefold() for name in listed}) == len(listed)
    assert listed == names or (not names and len(listed) == len(json.loads((tmp_path / path).read_text())))
    assert [case["case_id"] for case in find_cases(tmp_path / path)] == [f"case_{i:03d}" for i in range(len(listed))]


def test_a_link_to_an_image_is_the_same_patient(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii").write_bytes(b"")
    os.symlink(tmp_path / "images" / "a.nii", tmp_path / "images" / "b.nii")
    status, sentence = ended(lambda: find_cases(tmp_path))
    assert status == 1 and "one image twice" in sentence


def mask(path: Path, row: int, affine: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((4, 4, 4), np.uint8)
    values[row] = 1
    nibabel.save(nibabel.Nifti1Image(values, np.diag([affine, 2.0, 2.0, 1.0])), path)


def patient(root: Path, name: str, organs: dict[str, int], **options: float) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "ct.nii").write_bytes(b"")
    for organ, row in organs.items():
        mask(root / name / "segmentations" / f"{organ}.nii.gz", row, **options)


def test_masks_of_organs_are_merged_anew_for_other_classes_and_never_lost(tmp_path: Path) -> None:
    data, merged = tmp_path / "data", tmp_path / "merged"
    patient(data, "jane_doe", {"liver": 0, "spleen": 1})
    patient(data, "john_doe", {"liver": 2})
    options = {"merge_dir": merged}
    with pytest.raises(ValueError, match="no mask of spleen for john_doe, which other cases have"):
        find_cases(data, class_names=["background", "liver", "spleen"], **options)
    mask(data / "john_doe" / "segmentations" / "spleen.nii.gz", 3)
    rows = []
    for names in (["background", "liver", "spleen"], ["background", "spleen", "liver"]):
        label = find_cases(data, class_names=names, **options)[0]["label"]
        rows.append([int(nibabel.load(label).dataobj[row, 0, 0]) for row in range(3)])
    assert rows == [[1, 2, 0], [2, 1, 0]]
    assert not any("doe" in path.name for path in merged.iterdir())
    (one,) = find_cases(data / "jane_doe", class_names=["background", "liver"], **options)
    assert "label" in one, "a patient's own folder has its masks too"
    mask(data / "jane_doe" / "segmentations" / "spleen.nii.gz", 1, affine=3.0)
    with pytest.raises(ValueError, match="has another affine"):
        find_cases(data, class_names=["background", "liver", "spleen"], **options)
