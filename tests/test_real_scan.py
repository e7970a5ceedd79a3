# SPDX-License-Identifier: Apache-2.0
"""The real-scan experiment: its machinery on a toy, and its main claims on the real scan where that is available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from benchmarks import real_scan
from benchmarks.real_scan import RealScanStudy, Row, document, joined, main, published, table
from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.data.real_scan import LabelledScan, load_labelled_scan
from monai_adversarial.networks import ResampledNetwork
from monai_adversarial.studies import Cell, StudyError

NAMES = ("background", "liver", "spleen")


class Threshold(nn.Module):
    """Bright voxels are liver, very bright ones are spleen."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.zeros_like(image), image - 50, 2 * image - 170), dim=1) / 10


def toy_study(folder: Path, rows: tuple[Row, ...], **options: Any) -> RealScanStudy:
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, 1, 12, 10, 8, dtype=torch.int64)
    label[..., 2:6, 2:8, 2:6] = 1
    label[..., 8:11, 3:7, 2:6] = 2
    levels = torch.tensor([0.0, 70.0, 170.0])
    image = (levels[label] + 4 * torch.randn(label.shape, generator=generator)).round()
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    scan = LabelledScan(MetaTensor(image, affine=affine), MetaTensor(label, affine=affine))
    networks = {fold: ResampledNetwork(Threshold(), (24, 20, 16), (0, 2)).eval() for fold in (1, 2)}
    options = {"steps": 3, "draws": 2, "precision": "float32", "progress": False, **options}
    return RealScanStudy(scan, networks, folder, rows, NAMES, **options)


def noise(steps: int, **options: Any) -> PGD:
    return PGD(40, units="HU", steps=steps, objective="dice", classes=(1,), **options)


def deformation(steps: int, **options: Any) -> ElasticAttack:
    return ElasticAttack(6.0, control_spacing=12.0, steps=steps, objective="dice", classes=(1,), **options)


TOY_ROWS = (
    Row("noise", "PGD", "40 HU", noise),
    Row("deformation", "elastic", "6 mm", deformation),
    Row("grid", "PGD on the network's grid", "40 HU", noise, network_grid=True),
)


def run_toy(folder: Path, rows: tuple[Row, ...] = TOY_ROWS, **options: Any) -> dict[str, Any]:
    return toy_study(folder, rows, **options).run()


def test_rows_hold_scores_controls_and_budgets(tmp_path: Path) -> None:
    found = run_toy(tmp_path)
    for row in TOY_ROWS:
        (path,) = (tmp_path / "records").rglob(f"{row.name}/*.json")
        record = json.loads(path.read_text())
        assert {key: value for key, value in record.items() if key != "seal"} == found["rows"][row.name]
    assert found["organs"] == ["liver", "spleen"]
    assert found["clean"]["2"]["liver"]["dice"] > 0.7
    row = found["rows"]["noise"]
    assert (row["reference"], row["network"], row["case"]) == ("label", "fold2", "scanner_grid")
    assert row["scores"]["clean"] == found["clean"]["2"]
    attacked = row["scores"]["adversarial"]
    assert attacked["liver"]["dice"] < min(scores["liver"]["dice"] for scores in row["random"]) - 0.2
    assert [sizes["noise_linf"] for sizes in row["random_sizes"]] == [40, 40]
    assert row["measurements"]["noise_linf"]["value"] == pytest.approx(40)
    # the other fold is the same network here: the attack transfers completely
    assert row["other_fold"]["adversarial"] == attacked
    assert "moved_label" not in row["scores"]
    moved = found["rows"]["deformation"]
    assert 0.3 < moved["scores"]["moved_label"]["liver"]["dice"] < 1.0
    # a network that follows the anatomy scores better against the label that moved with it
    for own, old in zip(moved["random"], moved["random_original_label"], strict=True):
        assert own["liver"]["dice"] > old["liver"]["dice"]
    assert "other_fold" not in found["rows"]["grid"]
    text = table(found, TOY_ROWS)
    assert all(row.title in text for row in TOY_ROWS)
    assert "nan" not in text.lower() and "None" not in text


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the rows that were computed."""
    names: list[str] = []
    original = RealScanStudy.compute

    def counted(self: RealScanStudy, cell: Cell, case: Any) -> dict[str, Any]:
        if cell.attack == "grid" and "stop" not in names:
            names.append("stop")
            raise KeyboardInterrupt
        names.append(cell.attack)
        return original(self, cell, case)

    monkeypatch.setattr(RealScanStudy, "compute", counted)
    return names


def test_an_interrupted_experiment_goes_on_with_the_missing_rows(tmp_path: Path, ran: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path)
    assert ran == ["clean", "clean", "noise", "deformation", "stop"]
    assert sorted(path.parent.name for path in (tmp_path / "records").rglob("*.json")) == [
        "clean",
        "clean",
        "deformation",
        "noise",
    ]
    run_toy(tmp_path)
    assert ran[5:] == ["grid"]
    run_toy(tmp_path)
    assert len(ran) == 6
    run_toy(tmp_path, rows=TOY_ROWS[:1], steps=2)  # other settings: not the same row any more
    assert ran[6:] == ["noise"]
    assert not list(tmp_path.rglob(".*"))


def test_scores_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    forward = run_toy(tmp_path / "a", TOY_ROWS[:2])
    backward = run_toy(tmp_path / "b", TOY_ROWS[1::-1])
    for name in ("noise", "deformation"):
        a, b = ({k: v for k, v in found["rows"][name].items() if k != "cost"} for found in (forward, backward))
        assert a == b


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 3}', "not json"])
def test_a_foreign_record_is_named_and_its_row_runs_again(
    tmp_path: Path, content: str, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_toy(tmp_path, TOY_ROWS[:1])
    (path,) = (tmp_path / "records").rglob("noise/*.json")
    path.write_text(content)
    again = run_toy(tmp_path, TOY_ROWS[:1])
    assert f"{path} is no record of this study or was changed" in capsys.readouterr().err
    assert ran == ["clean", "clean", "noise", "noise"]
    assert again["rows"]["noise"] | {"cost": 0} == found["rows"]["noise"] | {"cost": 0}


def test_a_row_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    def broken(steps: int, **options: Any) -> PGD:
        return PGD(40, units="HU", steps=steps, classes=(7,), **options)

    rows = (Row("broken", "PGD of a class that is not there", "40 HU", broken), TOY_ROWS[0])
    with pytest.raises(StudyError, match="1 of 4 cells failed, the tables cover.*broken.*classes must name"):
        run_toy(tmp_path, rows)
    text = (tmp_path / "real_scan.md").read_text()
    assert "| PGD | 40 HU |" in text and "not there" not in text


def test_what_the_page_is_made_of_survives_its_file(tmp_path: Path) -> None:
    study = toy_study(tmp_path, TOY_ROWS)
    kept = published(study.run(), study)
    assert (kept["voxels"], kept["shape"]) == ({"background": 816, "liver": 96, "spleen": 48}, [12, 10, 8])
    assert not {"fingerprint", "seal"} & kept["rows"]["noise"].keys()
    assert table(json.loads(json.dumps(kept)), TOY_ROWS) == (tmp_path / "real_scan.md").read_text(encoding="utf-8")


def test_docs_keep_the_records_and_make_the_page_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(data: Path, folder: Path, rows: tuple[Row, ...], **options: Any) -> RealScanStudy:
        study = toy_study(folder, rows, **options)
        study.class_names = ("background", "liver", "pancreas")
        return study

    monkeypatch.setattr(RealScanStudy, "from_folder", toy)
    monkeypatch.setattr(real_scan, "find_data", Path)
    monkeypatch.setattr(real_scan, "ROWS", TOY_ROWS[:1])
    monkeypatch.setattr(real_scan, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(real_scan, "PAGE", tmp_path / "page.md")
    options = ["--data", str(tmp_path), "--output", str(tmp_path / "records"), "--steps", "3", "--draws", "2"]
    main(options)
    assert not (tmp_path / "page.md").exists()
    main([*options, "--docs"])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert document(json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))) == page
    assert "end of the scan (48 voxels)" in page and "3 gradient evaluations" in page and "| PGD | 40 HU |" in page


def test_the_page_of_the_repository_is_made_of_its_json_file() -> None:
    found = json.loads(real_scan.KEPT.read_text(encoding="utf-8"))
    assert document(found) == real_scan.PAGE.read_text(encoding="utf-8"), "python benchmarks/real_scan.py --docs"
    assert set(found["rows"]) <= {row.name for row in real_scan.ROWS} and set(found["clean"]) == {"1", "2"}


def test_rows_are_added_to_a_page_that_names_those_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_scan, "ROWS", TOY_ROWS)
    parts = []
    for row in TOY_ROWS[:2]:
        study = toy_study(tmp_path / row.name, (row,))
        study.class_names = ("background", "liver", "pancreas")
        parts.append(published(study.run(), study))
    assert "- elastic, 6 mm\n- PGD on the network's grid, 40 HU\n" in document(parts[0])
    both = joined(parts[1], parts[0])
    assert list(both["rows"]) == ["noise", "deformation"]
    assert "- PGD on the network's grid, 40 HU\n" in document(both) and "- elastic, 6 mm" not in document(both)
    with pytest.raises(ValueError, match="must be of the same run, but steps was 4 and is 3"):
        joined({**parts[1], "steps": 4}, parts[0])


def test_missing_data_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold abdomen_ct and abdomen_unet"):
        main(["--data", str(tmp_path / "absent")])


def write_scan(folder: Path, affine: np.ndarray, label_shape: tuple[int, ...] = (10, 8, 9)) -> tuple[Path, Path]:
    """A body with one organ and a table beneath it, stored right-to-left."""
    image = np.full((10, 8, 9), -1000, dtype=np.int16)
    image[2:8, 2:6, :] = 40
    image[:, 7, :] = 100  # table: brighter, but smaller than the body
    label = np.zeros(label_shape, dtype=np.uint8)
    label[3, 3, 4:6] = 1
    paths = folder / "ct.nii.gz", folder / "label.nii.gz"
    for voxels, path in zip((image, label), paths, strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return paths


def test_scan_is_turned_to_ras_and_cropped_to_the_body(tmp_path: Path) -> None:
    paths = write_scan(tmp_path, np.diag([-2.0, 3.0, 4.0, 1.0]))
    scan = load_labelled_scan(*paths, first_slice=2)
    assert scan.image.shape == scan.label.shape == (1, 1, 6, 4, 7)
    assert scan.image.dtype == torch.float32 and scan.label.dtype == torch.int64
    assert bool((scan.image == 40).all())
    # stored voxel (3, 3, 4): in RAS order x becomes 9 - 3 = 6, minus the crop at 2
    assert scan.label.nonzero()[:, 2:].tolist() == [[4, 1, 2], [4, 1, 3]]
    world = scan.image.affine @ torch.tensor([4.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.allclose(world[:3], torch.tensor([-6.0, 9.0, 16.0], dtype=torch.float64))
    assert torch.equal(scan.image.affine, scan.label.affine)


def test_bad_scans_are_refused(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    paths = write_scan(tmp_path, affine)
    with pytest.raises(FileNotFoundError, match="label_path"):
        load_labelled_scan(paths[0], tmp_path / "absent.nii.gz")
    with pytest.raises(ValueError, match="first_slice must be from 0 to 8"):
        load_labelled_scan(*paths, first_slice=9)
    paths = write_scan(tmp_path, affine, label_shape=(10, 8, 8))
    with pytest.raises(ValueError, match="on the grid of image_path"):
        load_labelled_scan(*paths)


@pytest.fixture(scope="module")
def study(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RealScanStudy:
    return RealScanStudy.from_folder(shared_data, tmp_path_factory.mktemp("real_scan"), folds=(2,))


@pytest.mark.real_data
def test_scan_is_the_documented_one(study: RealScanStudy) -> None:
    assert tuple(study.scan.image.shape) == (1, 1, 122, 94, 52)
    assert int((study.scan.label == real_scan.LIVER).sum()) == 41_692


@pytest.mark.real_data
@pytest.mark.slow
def test_pgd_destroys_the_liver_that_random_noise_leaves(study: RealScanStudy) -> None:
    """Ten PGD steps of 16 HU on the scanner's voxels, float32 scores of the image rounded to integer HU."""
    row = next(row for row in real_scan.ROWS if row.name == "pgd_16")
    case = study.case(row.fold)
    assert study.score(case, case.image, case.label)["liver"]["dice"] >= 0.9
    result = row.make(10)(study.model(case), case.image, case.label)
    assert float((result.adversarial - case.image).abs().max()) == 16
    assert study.score(case, *result.random_control())["liver"]["dice"] >= 0.9
    assert study.score(case, result.adversarial, case.label)["liver"]["dice"] <= 0.1
