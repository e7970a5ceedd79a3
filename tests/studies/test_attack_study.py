# SPDX-License-Identifier: Apache-2.0
"""A campaign on small CT-like volumes, from the evaluator to files, scores and report."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

import monai_adversarial.studies.attack_unit as unit_module
from monai_adversarial.attacks import (
    PGD,
    AdditiveNoise,
    Attack,
    BiasFieldAttack,
    BudgetError,
    Chain,
    ElasticAttack,
    ElasticDeformation,
)
from monai_adversarial.data.saving import MARK, read_back
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.metrics import mean_score, score_segmentation
from monai_adversarial.studies import AttackCampaign, find_cases
from monai_adversarial.studies.displacement import displacement_in_mm
from tests.helpers import LinearNetwork

SHAPE = (24, 20, 16)
SPACING = (2.0, 2.0, 3.0)
NAMES = ["background", "liver", "bone"]


class Threshold(torch.nn.Module):
    """Liver above 30 HU, bone above 200 HU, after a little smoothing: good on clean images, easy to attack."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = LinearNetwork((0.0, 0.10, 0.15), (0.0, -3.0, -13.0))
        self.smooth = torch.nn.AvgPool3d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.smooth(image))


def write_case(folder: Path, name: str, seed: int, labelled: bool = True) -> None:
    generator = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    label[5:14, 5:14, 4:12], label[16:21, 6:15, 3:13] = 1, 2
    hu = np.choose(label, [2, 60, 400]) + generator.normal(0, 6, SHAPE)
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = 10.0 * seed
    for sub, array in (("images", hu.round().astype(np.int16)), ("labels", label)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        if sub == "images" or labelled:
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / sub / f"{name}.nii.gz")


def attacks() -> dict[str, Attack]:
    return {
        "pgd": PGD(epsilon=30.5, units="HU", steps=4, image_units="HU"),
        "bias_field": BiasFieldAttack(max_gain=0.3, domain="window", window=(-160.0, 240.0), steps=3),
        "elastic": ElasticAttack(3.0, steps=3, image_units="HU"),
    }


def make_campaign(data: Path, output: Path, chosen: dict[str, Attack] | None = None, **options: Any) -> AttackCampaign:
    cases = find_cases(data, anonymize=False)
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)])
    network, inferer = Threshold(), SlidingWindowInferer((16, 16, 16), sw_batch_size=2, overlap=0.25)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases, load), batch_size=1, num_workers=0),
        network=network,
        inferer=inferer,
        prepare_batch=PrepareBatchAdversarial(None, network, inferer),
    )
    return AttackCampaign(evaluator, chosen or attacks(), output, NAMES, progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Data, output and summary of one campaign: a labelled case, one without a label, three attacks."""
    root = tmp_path_factory.mktemp("campaign")
    for seed, name in enumerate(("first", "second")):
        write_case(root / "data", name, seed, labelled=name == "first")
    summary = make_campaign(root / "data", root / "out", save_predictions=True).run()
    return root / "data", root / "out", summary


def record_of(out: Path, attack: str, case: str) -> dict[str, Any]:
    return json.loads((out / attack / f"{case}.json").read_text())


@pytest.mark.parametrize("attack", ["pgd", "bias_field", "elastic"])
@pytest.mark.parametrize("case", ["first", "second"])
def test_the_saved_volume_is_in_the_space_of_the_input_and_in_budget(
    finished: tuple[Path, Path, dict[str, Any]], attack: str, case: str
) -> None:
    data, out, _ = finished
    before = nibabel.load(data / "images" / f"{case}.nii.gz")
    after = nibabel.load(out / attack / f"{case}_adversarial.nii.gz")
    assert after.shape == before.shape and after.get_data_dtype() == np.int16
    assert np.array_equal(after.affine, before.affine)
    assert bytes(after.header["descrip"]).startswith(MARK.encode())
    change = np.abs(np.asarray(after.dataobj, float) - np.asarray(before.dataobj, float))
    assert change.max() > 0
    measured = record_of(out, attack, case)["measurements"]
    limited = {name: m for name, m in measured.items() if m["limit"] is not None}
    assert limited
    if attack == "pgd":
        assert change.max() == 30.0  # 30.5 HU rounded toward the clean voxel
        assert measured["noise_linf"]["value"] == 30.0 and measured["noise_linf"]["limit"] == 30.5


def test_scores_are_those_of_the_files_on_disk(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    data, out, _ = finished
    inferer = SlidingWindowInferer((16, 16, 16), sw_batch_size=2, overlap=0.25)
    label = read_back(data / "labels" / "first.nii.gz")[0]
    for attack in ("pgd", "elastic"):
        image = read_back(out / attack / "first_adversarial.nii.gz")[None].as_tensor()
        with torch.no_grad():
            prediction = inferer(image, Threshold()).argmax(1)[0]
        assert torch.equal(
            read_back(out / attack / "first_adversarial_prediction.nii.gz")[0].as_tensor(), prediction.float()
        )
        record = record_of(out, attack, "first")
        key = "adversarial_original_label" if attack == "elastic" else "adversarial"
        expected = score_segmentation(prediction, label, SPACING, NAMES)
        assert record["scores"][key]["liver"]["dice"] == pytest.approx(expected["liver"]["dice"])
        assert record["mean"][key]["dice"] == pytest.approx(mean_score(expected)["dice"])
        if attack == "elastic":
            moved = read_back(out / attack / "first_adversarial_label.nii.gz")[0]
            assert not torch.equal(moved, label)
            assert record["scores"]["adversarial"] == score_segmentation(prediction, moved, SPACING, NAMES)


def test_the_attack_is_far_worse_than_its_random_control_and_geometry_has_both_labels(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, summary = finished
    pgd = summary["attacks"]["pgd"]
    assert pgd["clean_dice"]["n"] == 2 and pgd["clean_dice"]["mean"] > 0.75
    assert pgd["random_dice"]["mean"] > pgd["clean_dice"]["mean"] - 0.05
    assert pgd["adversarial_dice"]["mean"] < pgd["random_dice"]["mean"] - 0.1
    assert pgd["adversarial_dice"]["low"] <= pgd["adversarial_dice"]["mean"] <= pgd["adversarial_dice"]["high"]
    assert "adversarial_original_label_dice" not in pgd
    elastic = summary["attacks"]["elastic"]
    assert elastic["geometric"] and elastic["adversarial_original_label_dice"]["n"] == 2
    assert any(
        m["units"] == "mm" and m["worst"] <= m["limit"] + 1e-3 for m in elastic["measurements"].values() if m["limit"]
    )
    assert any("jacobian" in name for name in elastic["measurements"])


def test_a_case_without_a_label_is_scored_against_its_clean_prediction(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, summary = finished
    record = record_of(out, "pgd", "second")
    assert record["reference"] == "clean prediction"
    assert record["mean"]["clean"]["dice"] == 1.0 and record["mean"]["adversarial"]["dice"] < 0.9
    assert record_of(out, "pgd", "first")["reference"] == "label"
    assert summary["attacks"]["pgd"]["reference"] == ["clean prediction", "label"]


def test_records_and_report_name_no_path_and_every_cost(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    data, out, _ = finished
    for attack in ("pgd", "bias_field", "elastic"):
        record = record_of(out, attack, "first")
        assert str(data) not in json.dumps(record) and str(out) not in json.dumps(record)
        assert record["cost"]["forwards"] >= record["cost"]["backwards"] > 0
        assert 0.0 <= record["zero_gradient_fraction"] <= 1.0
        assert 0.0 < record["visibility"]["ssim"] <= 1.0 and record["visibility"]["psnr_db"] > 0
        picture = matplotlib.image.imread(out / attack / "first.png")
        assert picture.shape[0] > 400 and picture.std() > 0.05
    assert str(data) not in (out / "summary.json").read_text()
    assert matplotlib.image.imread(out / "overview.png").std() > 0.05
    left = [path for path in out.rglob("*") if ".tmp." in path.name]
    assert not left


def test_the_table_has_one_row_per_case_attack_and_organ_and_their_mean(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, _ = finished
    with open(out / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 3
    assert {row["organ"] for row in rows} == {"liver", "bone", "mean"}
    one = next(row for row in rows if (row["case"], row["attack"], row["organ"]) == ("first", "pgd", "mean"))
    record = record_of(out, "pgd", "first")
    assert float(one["adversarial_dice"]) == pytest.approx(record["mean"]["adversarial"]["dice"], abs=1e-5)
    assert float(one["noise_linf [HU]"]) == 30.0 and one["adversarial_original_label_dice"] == ""
    text = (out / "summary.txt").read_text()
    assert all(word in text for word in ("pgd", "bias_field", "elastic", "original label", "random control"))


def stamps(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*_adversarial.nii.gz")}


def test_a_campaign_runs_only_what_is_missing_or_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_case(tmp_path / "data", name, seed)
    out = tmp_path / "out"

    def run(epsilon: float = 20.0, **options: Any) -> AttackCampaign:
        chosen: dict[str, Attack] = {
            "pgd": PGD(epsilon=epsilon, units="HU", steps=2, image_units="HU"),
            "bias": BiasFieldAttack(max_gain=0.2, window=(-160.0, 240.0), steps=1),
        }
        made = make_campaign(tmp_path / "data", out, chosen, panels=False, **options)
        made.run()
        return made

    # Stopped by the user in the second unit: the first is kept whole, the second leaves no record.
    calls = []
    original = unit_module.Unit.run

    def interrupted(self: Any, batch: Any, folder: Path) -> dict[str, Any]:
        calls.append(self.case_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, batch, folder)

    monkeypatch.setattr(unit_module.Unit, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert [path.name for path in out.rglob("*.json")] == ["a.json"]
    assert "start again to continue" in capsys.readouterr().err
    monkeypatch.setattr(unit_module.Unit, "run", original)

    run()
    assert "1 of 4 units are done already, 3 to go" in capsys.readouterr().out
    first = stamps(out)
    assert len(first) == 4

    run(selected="bias")
    assert stamps(out) == first
    assert json.loads((out / "summary.json").read_text())["attacks"].keys() == {"pgd", "bias"}

    # Another budget concerns one attack; a changed image one case; a lost volume one unit.
    run(epsilon=21.0)
    second = stamps(out)
    assert {name for name in first if first[name] != second[name]} == {
        "pgd/a_adversarial.nii.gz",
        "pgd/b_adversarial.nii.gz",
    }
    write_case(tmp_path / "data", "b", 7)
    (out / "bias" / "a_adversarial.nii.gz").unlink()
    run(epsilon=21.0)
    third = stamps(out)
    assert {name for name in third if third[name] != second[name]} == {
        "pgd/b_adversarial.nii.gz", "bias/b_adversarial.nii.gz", "bias/a_adversarial.nii.gz"
    }  # fmt: skip


def test_the_evaluator_is_left_as_it_was(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    campaign = make_campaign(tmp_path / "data", tmp_path / "out", chosen, panels=False)
    evaluator = campaign.evaluator
    loader, level = evaluator.data_loader, evaluator.logger.level
    campaign.run()
    assert evaluator.data_loader is loader and evaluator.logger.level == level
    assert evaluator.state.epoch_length == 1 and campaign.prepare_batch.attack is None
    evaluator.run()
    assert evaluator.state.output[0]["pred"].shape == (3, *SHAPE)


def test_a_budget_that_the_saved_file_exceeds_stops_the_campaign_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "data", "a", 0)
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    monkeypatch.setattr(unit_module, "read_back", lambda path: read_back(path) + 2.0)
    with pytest.raises(BudgetError, match="above the budget of 8 HU"):
        make_campaign(tmp_path / "data", tmp_path / "out", chosen).run()
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_full_disk_stops_with_one_sentence_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "data", "a", 0)

    def full(panel: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unit_module, "save_panel", full)
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    with pytest.raises(OSError, match="cannot write .*a.png: No space left"):
        make_campaign(tmp_path / "data", tmp_path / "out", chosen).run()
    assert [path.name for path in (tmp_path / "out" / "pgd").iterdir()] == ["a_adversarial.nii.gz"]


def test_unreadable_files_are_found_before_anything_is_computed_or_named_when_they_are_read(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    write_case(tmp_path / "data", "b", 1)
    broken = tmp_path / "data" / "images" / "b.nii.gz"
    whole = broken.read_bytes()
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    broken.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="cannot read .*b.nii.gz as NIfTI"):
        make_campaign(tmp_path / "data", tmp_path / "out", chosen).run()
    assert not (tmp_path / "out").exists()
    broken.write_bytes(whole[:-200])
    with pytest.raises(RuntimeError, match="cannot read .*b.nii.gz as NIfTI"):
        make_campaign(tmp_path / "data", tmp_path / "out", chosen, panels=False).run()
    assert (tmp_path / "out" / "pgd" / "a.json").is_file() and not (tmp_path / "out" / "pgd" / "b.json").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"selected": "pdg"}, ValueError, "there is no attack 'pdg': choose among pgd"),
        ({"window": (100.0, 100.0)}, ValueError, "window"),
        ({"controls": 0}, ValueError, "controls"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_case(tmp_path, "a", 0)
    with pytest.raises(error, match=message):
        make_campaign(tmp_path, tmp_path / "out", **options)


def test_a_label_on_another_grid_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    small = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(small, tmp_path / "data" / "labels" / "a.nii.gz")
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    with pytest.raises(ValueError, match="image and label of a must have the same shape"):
        make_campaign(tmp_path / "data", tmp_path / "out", chosen).run()
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot create the output folder"):
        make_campaign(tmp_path / "data", tmp_path / "file" / "out").run()


def test_overlapping_sigmoid_classes_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path, "a", 0)
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", image_units="HU", activation="sigmoid")}
    with pytest.raises(ValueError, match="exclusive classes"):
        make_campaign(tmp_path, tmp_path / "out", chosen)


def test_preprocessed_images_are_refused_because_they_cannot_be_saved_in_the_space_of_their_file(
    tmp_path: Path,
) -> None:
    write_case(tmp_path / "data", "a", 0)
    chosen: dict[str, Attack] = {"pgd": PGD(epsilon=8, units="HU", steps=1, image_units="HU")}
    campaign = make_campaign(tmp_path / "data", tmp_path / "out", chosen)
    load = campaign.evaluator.data_loader.dataset.transform
    campaign.evaluator.data_loader.dataset.transform = lambda item: {
        k: v[:, :-1] if k != "case_id" else v for k, v in load(item).items()
    }
    with pytest.raises(ValueError, match="ScannerSpaceInferer"):
        campaign.run()


def test_the_displacement_of_a_chain_composes_its_members() -> None:
    image = torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)) * 100
    elastic = ElasticDeformation(2.0)
    chain = Chain([elastic, AdditiveNoise(5.0, units="HU"), elastic])
    attack = Attack(chain, steps=2, image_units="HU")
    result = attack(Threshold(), image, spacing=(2.0, 2.0, 2.0))
    found = displacement_in_mm(result)
    assert found is not None and found.shape == (3, 16, 16, 16)
    assert 0.1 < float(found.abs().max()) <= 4.1
    noise = PGD(epsilon=5, units="HU", steps=1, image_units="HU")(Threshold(), image)
    assert displacement_in_mm(noise) is None
