# SPDX-License-Identifier: Apache-2.0
"""Images and labels of the same name, dealt out to parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_adversarial.data import image_label_pairs, split_cases


def test_pairs_are_the_names_that_both_folders_have(tmp_path: Path) -> None:
    for part, names in (("images", "abc"), ("labels", "bcd")):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
        (tmp_path / part / "b.txt").touch()
    pairs = image_label_pairs(tmp_path)
    assert [Path(pair["image"]).name for pair in pairs] == ["b.nii.gz", "c.nii.gz"]
    assert all(Path(pair["label"]).parent.name == "labels" for pair in pairs)


def test_missing_folders_and_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder must hold 'images' and 'labels', but there is no"):
        image_label_pairs(tmp_path)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    with pytest.raises(FileNotFoundError, match="no file .* occurs in both"):
        image_label_pairs(tmp_path)


def test_parts_do_not_overlap_and_depend_on_the_seed_alone() -> None:
    cases = [{"image": str(i), "label": str(i)} for i in range(20)]
    parts = split_cases(cases, {"test": 5, "validation": 3, "training": None}, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"test": 5, "validation": 3, "training": 12}
    assert sorted(case["image"] for part in parts.values() for case in part) == sorted(case["image"] for case in cases)
    assert parts == split_cases(cases, {"test": 5, "validation": 3, "training": None}, seed=1)
    assert parts != split_cases(cases, {"test": 5, "validation": 3, "training": None}, seed=2)
    with pytest.raises(ValueError, match="sizes ask for 21 cases but there are 20"):
        split_cases(cases, {"test": 21})
