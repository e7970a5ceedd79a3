# SPDX-License-Identifier: Apache-2.0
"""Cases in folders, datalists and single files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_adversarial.studies import find_cases


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def short(cases: list[dict[str, str]], root: Path) -> list[tuple[str, str, str | None]]:
    return [
        (
            case["case_id"],
            str(Path(case["image"]).relative_to(root)),
            str(Path(case["label"]).relative_to(root)) if "label" in case else None,
        )
        for case in cases
    ]


def test_a_flat_folder_pairs_labels_by_ending_and_leaves_other_files_out(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.nii",
        "a.nii.gz",
        "a_seg.nii.gz",
        "mask.txt",
        ".hidden.nii.gz",
        "a_adversarial.nii.gz",
        "c_label.nii",
    )
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        ("a", "a.nii.gz", "a_seg.nii.gz"),
        ("b", "b.nii", None),
        ("c_label", "c_label.nii", None),
    ]


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("imagesTs", "labelsTs"), ("imagesTr", "labelsTr")]
)
def test_image_and_label_folders_pair_by_name(tmp_path: Path, images: str, labels: str) -> None:
    touch(
        tmp_path,
        f"{images}/a_0000.nii.gz",
        f"{images}/b.nii.gz",
        f"{images}/c.nii.gz",
        f"{labels}/a.nii.gz",
        f"{labels}/b.nii.gz",
    )
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        ("a_0000", f"{images}/a_0000.nii.gz", f"{labels}/a.nii.gz"),
        ("b", f"{images}/b.nii.gz", f"{labels}/b.nii.gz"),
        ("c", f"{images}/c.nii.gz", None),
    ]


def test_a_datalist_gives_relative_paths_and_prefers_test_cases(tmp_path: Path) -> None:
    touch(tmp_path, "x/i.nii.gz", "y/i.nii.gz", "l.nii.gz")
    path = tmp_path / "list.json"
    path.write_text(
        json.dumps({
            "labels": {"0": "background"},
            "training": [{"image": "./x/i.nii.gz", "label": "l.nii.gz"}],
            "validation": ["x/i.nii.gz", "y/i.nii.gz"],
        })
    )  # fmt: skip
    found = short(find_cases(path, anonymize=False), tmp_path)
    assert found == [("x_i", "x/i.nii.gz", None), ("y_i", "y/i.nii.gz", None)]
    assert short(find_cases(path, section="training", anonymize=False), tmp_path) == [("i", "x/i.nii.gz", "l.nii.gz")]
    with pytest.raises(ValueError, match="no section testing"):
        find_cases(path, section="testing")


def test_a_folder_with_a_datalist_uses_it_for_a_section(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/b.nii.gz")
    (tmp_path / "datalist.json").write_text(json.dumps({"validation": [{"image": "images/b.nii.gz"}]}))
    assert [case["case_id"] for case in find_cases(tmp_path, anonymize=False)] == ["a", "b"]
    assert [case["case_id"] for case in find_cases(tmp_path, section="validation", anonymize=False)] == ["b"]


def test_one_file_a_limit_and_anonymous_names(tmp_path: Path) -> None:
    touch(tmp_path, "jane_doe.nii.gz", "john_doe.nii.gz")
    assert find_cases(tmp_path / "jane_doe.nii.gz", anonymize=False)[0]["case_id"] == "jane_doe"
    assert len(find_cases(tmp_path, limit=1)) == 1 and len(find_cases(tmp_path, limit=0)) == 2
    assert [case["case_id"] for case in find_cases(tmp_path)] == ["case_000", "case_001"]


def test_names_are_distinct_even_where_folders_and_stems_repeat(tmp_path: Path) -> None:
    touch(tmp_path, "1/s/i.nii", "2/s/i.nii")
    (tmp_path / "l.json").write_text(json.dumps(["1/s/i.nii", "2/s/i.nii"]))
    assert [case["case_id"] for case in find_cases(tmp_path / "l.json", anonymize=False)] == ["s_i", "s_i_2"]


def test_what_cannot_be_found_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder, datalist or image"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no NIfTI images"):
        find_cases(tmp_path)
    for content, message in (
        ("{", "cannot read"),
        ("[]", "must hold a list"),
        ('[{"label": "a"}]', "path of one image"),
    ):
        (tmp_path / "l.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            find_cases(tmp_path / "l.json")
    (tmp_path / "l.json").write_text('["missing.nii.gz"]')
    with pytest.raises(FileNotFoundError, match="missing.nii.gz"):
        find_cases(tmp_path / "l.json")
    touch(tmp_path, "a.txt")
    with pytest.raises(ValueError, match="neither a folder"):
        find_cases(tmp_path / "a.txt")
