# SPDX-License-Identifier: Apache-2.0
"""Cases in folders, datalists and single files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_adversarial.data import find_cases


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
    )
    assert short(find_cases(tmp_path, anonymize=False, unlabeled="keep"), tmp_path) == [
        ("a", "a.nii.gz", "a_seg.nii.gz"),
        ("b", "b.nii", None),
    ]
    assert short(find_cases(tmp_path, anonymize=False, unlabeled="skip"), tmp_path) == [
        ("a", "a.nii.gz", "a_seg.nii.gz")
    ]
    with pytest.raises(ValueError, match=r"1 of 2 images in .* have no label \(b.nii\)"):
        find_cases(tmp_path)


def test_a_label_is_never_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "c_label.nii", "segmentation-3.nii")
    with pytest.raises(ValueError, match=r"labels without an image \(c_label.nii, segmentation-3.nii\)"):
        find_cases(tmp_path)
    with pytest.raises(ValueError, match="named as a label"):
        find_cases(tmp_path / "c_label.nii")


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
    with pytest.raises(ValueError, match=r"1 of 3 images in .* have no label \(c.nii.gz\)"):
        find_cases(tmp_path)
    (tmp_path / images / "c.nii.gz").unlink()
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        ("a_0000", f"{images}/a_0000.nii.gz", f"{labels}/a.nii.gz"),
        ("b", f"{images}/b.nii.gz", f"{labels}/b.nii.gz"),
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


def test_labeled_cases_of_the_decathlon_win(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTs/s_1.nii.gz", "imagesTr/s_2.nii.gz", "imagesTr/._s_2.nii.gz", "labelsTr/s_2.nii.gz")
    lists = {"training": [{"image": "./imagesTr/s_2.nii.gz", "label": "./labelsTr/s_2.nii.gz"}]}
    lists |= {"test": ["./imagesTs/s_1.nii.gz"], "modality": {"0": "CT"}}  # type: ignore[dict-item]
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    found = short(find_cases(tmp_path, anonymize=False), tmp_path)
    assert found == [("s_2", "imagesTr/s_2.nii.gz", "labelsTr/s_2.nii.gz")]
    assert short(find_cases(tmp_path, section="test", anonymize=False), tmp_path) == [
        ("s_1", "imagesTs/s_1.nii.gz", None)
    ]
    touch(tmp_path, "labelsTs/s_1.nii.gz")
    found = short(find_cases(tmp_path, anonymize=False), tmp_path)
    assert found == [("s_1", "imagesTs/s_1.nii.gz", "labelsTs/s_1.nii.gz")], "held-out cases before training cases"


@pytest.mark.parametrize("below", ["", "Training/"])
def test_btcv_pairs_by_number(tmp_path: Path, below: str) -> None:
    touch(tmp_path, *(f"{below}{kind}/{kind}000{i}.nii.gz" for kind in ("img", "label") for i in (1, 2)))
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        (f"img000{i}", f"{below}img/img000{i}.nii.gz", f"{below}label/label000{i}.nii.gz") for i in (1, 2)
    ]


def test_lits_lies_flat(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}-{i}.nii" for kind in ("volume", "segmentation") for i in (0, 10)))
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        ("volume-0", "volume-0.nii", "segmentation-0.nii"),
        ("volume-10", "volume-10.nii", "segmentation-10.nii"),
    ]


def test_kits_and_other_patient_folders(tmp_path: Path) -> None:
    touch(tmp_path, "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz", "case_00000/._imaging.nii.gz")
    touch(tmp_path, "jane/scan.nii", "jane/scan_mask.nii", "notes/readme.txt")
    assert short(find_cases(tmp_path, anonymize=False), tmp_path) == [
        ("case_00000", "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz"),
        ("jane", "jane/scan.nii", "jane/scan_mask.nii"),
    ]
    touch(tmp_path, "jane/other.nii")
    with pytest.raises(ValueError, match=r"jane holds 2 images \(other.nii, scan.nii\)"):
        find_cases(tmp_path)


def test_masks_per_organ_become_one_class_map(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "s0001"
    touch(folder, "ct.nii.gz")
    (folder / "segmentations").mkdir()
    for number, organ in enumerate(("liver", "spleen", "aorta")):
        voxels = np.zeros((4, 4, 4), np.uint8)
        voxels[number] = 1
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), folder / f"segmentations/{organ}.nii.gz")
    with pytest.raises(ValueError, match=r"s0001 has one mask per organ \(aorta, liver, spleen, ...\).*class_names"):
        find_cases(tmp_path / "data")
    names = ["background", "spleen", "liver"]
    (case,) = find_cases(tmp_path / "data", class_names=names, merge_dir=tmp_path / "labels", anonymize=False)
    merged = nibabel.load(case["label"])
    assert case["case_id"] == "s0001" and np.array_equal(merged.affine, np.diag([2.0, 2, 2, 1]))
    assert [int(merged.dataobj[row, 0, 0]) for row in range(4)] == [2, 1, 0, 0]
    with pytest.raises(ValueError, match="name none of the masks"):
        find_cases(tmp_path / "data", class_names=["background", "kidney"], merge_dir=tmp_path / "labels")


def test_channels_of_nnunet_are_one_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/b_{i}_000{c}.nii.gz" for i in (1, 2) for c in range(4)))
    touch(tmp_path, "labelsTr/b_1.nii.gz", "labelsTr/b_2.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2", "2": "F", "3": "C"}}))
    first, second = find_cases(tmp_path, anonymize=False)
    assert [Path(file).name for file in first["image"]] == [f"b_1_000{c}.nii.gz" for c in range(4)]
    assert (first["case_id"], Path(second["label"]).name) == ("b_1", "b_2.nii.gz")


def test_numbers_of_cases_are_no_channels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/case_000{i}.nii.gz" for kind in ("images", "labels") for i in (0, 1)))
    assert [case["case_id"] for case in find_cases(tmp_path, anonymize=False)] == ["case_0000", "case_0001"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(ValueError, match="a.nii and a.nii.gz"):
        find_cases(tmp_path)


def test_names_never_collide(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.nii", "y/a.nii", "z/y_a_2.nii", "w/y/a.nii")
    (tmp_path / "l.json").write_text(json.dumps(["x/a.nii", "y/a.nii", "z/y_a_2.nii", "w/y/a.nii"]))
    names = [case["case_id"] for case in find_cases(tmp_path / "l.json", anonymize=False)]
    assert len(set(names)) == 4


def test_an_image_of_several_files_is_a_list_of_a_datalist(tmp_path: Path) -> None:
    touch(tmp_path, "a_t1.nii", "a_t2.nii", "a_seg.nii")
    listed = [{"image": ["a_t1.nii", "a_t2.nii"], "label": "a_seg.nii"}]
    (tmp_path / "l.json").write_text(json.dumps(listed))
    (case,) = find_cases(tmp_path / "l.json")
    assert case["image"] == [str(tmp_path / "a_t1.nii"), str(tmp_path / "a_t2.nii")]
    assert case["label"] == str(tmp_path / "a_seg.nii")
    for wrong in ([], ["a_t1.nii", 2], ["a_t1.nii", ""]):
        (tmp_path / "l.json").write_text(json.dumps([{"image": wrong}]))
        with pytest.raises(ValueError, match="a list of the files that it is made of"):
            find_cases(tmp_path / "l.json")


def test_a_list_of_labels_is_not_dropped(tmp_path: Path) -> None:
    touch(tmp_path, "i.nii", "l.nii", "m.nii")
    (tmp_path / "l.json").write_text(json.dumps([{"image": "i.nii", "label": ["l.nii"]}]))
    assert short(find_cases(tmp_path / "l.json", anonymize=False), tmp_path) == [("i", "i.nii", "l.nii")]
    (tmp_path / "l.json").write_text(json.dumps([{"image": "i.nii", "label": ["l.nii", "m.nii"]}]))
    with pytest.raises(ValueError, match="must be the path of one file"):
        find_cases(tmp_path / "l.json")
