# SPDX-License-Identifier: Apache-2.0
"""The purification study: what it compares, that it resumes, and that its table says what its records say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.attacks import PGD, BackwardPassSubstitute, ExpectationOverTransformation
from monai_adversarial.inferers import ScannerSpaceInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.studies import Cell, PurificationStudy, SettingsError, StudyError, place_purifiers
from monai_adversarial.studies.reports.purification_report import markdown_table
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.studies.scoring import dice_of
from monai_adversarial.transforms import GaussianDenoise, MedianDenoise
from tests.helpers import random_image, tiny_segmentation_network
from tests.purifiers.examples import RandomGain, Rounded

SCORES = ("clean_undefended", "clean", "undefended", "undefended_longer", "unaware", "adaptive_gradient", "adaptive")


def dataset(cases: int = 2) -> list[dict[str, MetaTensor]]:
    """Cases whose label the network finds perfectly."""
    network, items = tiny_segmentation_network(), []
    for seed in range(cases):
        image = random_image((1, 1, 10, 10, 10), seed)
        label = network(image).argmax(dim=1)
        items.append({"image": MetaTensor(image[0]), "label": MetaTensor(label)})
    return items


def study(folder: Path, cases: int = 2, **options) -> PurificationStudy:
    settings = {
        "attacks": {"pgd": PGD(0.05, steps=3)},
        "defenses": place_purifiers(None, {"rounded": Rounded(0.05), "gain": RandomGain()}),
        "class_names": ("background", "one", "two"),
        "samples": 2,
        "draws": 2,
        "progress": False,
    }
    items = options.pop("dataset_items", None) or dataset(cases)
    model = options.pop("model", None) or AttackedModel(tiny_segmentation_network(), precision="float32")
    return PurificationStudy(model, items, output_dir=folder, **{**settings, **options})


def untimed(summary: dict) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds_per_case"} for row in summary["rows"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("study")
    return folder, study(folder).run()


def test_every_column_is_there_for_every_defense_and_attack(finished):
    folder, summary = finished
    rows = read_rows(folder / "purification.csv")
    assert [(row["defense"], row["attack"]) for row in rows] == [("rounded", "pgd"), ("gain", "pgd")]
    for row in rows:
        assert row["cases"] == 2
        for score in SCORES:
            assert 0.0 <= row[f"{score}_low"] <= row[score] <= row[f"{score}_high"] <= 1.0
    assert [row["draws_per_gradient"] for row in rows] == [1, 2]
    assert summary["rows"] == rows
    assert (folder / "purification.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "purification.md").read_text().strip() == markdown_table(rows)


def test_scores_are_those_of_the_definitions(finished):
    folder, _ = finished
    record = json.loads((folder / "records" / "rounded" / "pgd_case_000.json").read_text())
    made = study(folder)
    model, attack, item = made.model, made.attacks["pgd"], made.dataset[0]
    image, label = item["image"][None].as_tensor(), item["label"][None].as_tensor()
    result = attack(model, image, label)
    inferer = made.defenses["rounded"]
    expected = {
        "clean_undefended": made.score(None, image, label),
        "clean": made.score(inferer, image, label),
        "undefended": made.score(None, result.adversarial, label),
        "unaware": made.score(inferer, result.adversarial, label),
    }
    longer = attack(model, image, label, start=result.parameters)
    scores = [expected["undefended"], made.score(None, longer.adversarial, label)]
    expected["undefended_longer"] = min(scores, key=lambda score: sum(one["dice"] for one in score.values()))
    for key, scores in expected.items():
        for organ, score in scores.items():
            assert record["scores"][key][organ]["dice"] == pytest.approx(score["dice"]), (key, organ)
        mean = sum(score["dice"] for score in scores.values()) / len(scores)
        assert record["mean"][key]["dice"] == pytest.approx(mean)
    assert {score["dice"] for score in record["scores"]["clean_undefended"].values()} == {1.0}
    assert record["mean"]["undefended"]["dice"] < 0.9
    assert record["reference"] == "label"
    assert record["success"] == (record["mean"]["adaptive"]["dice"] < 0.5 * record["mean"]["clean"]["dice"])
    assert record["measurements"]["noise_linf"]["value"] <= record["measurements"]["noise_linf"]["limit"] * 1.0001


def test_adaptive_attacker_is_never_worse_than_the_unaware_one(finished):
    folder, _ = finished
    for path in (folder / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        assert record["mean"]["adaptive"]["dice"] == min(record["candidates"].values())
        assert record["mean"]["adaptive"]["dice"] <= record["mean"]["unaware"]["dice"]
        assert set(record["candidates"]) == {"declared", "unaware"}


def test_adaptive_attack_uses_the_declared_backward_pass_and_averages_random_draws(tmp_path):
    made = study(tmp_path, adaptive_steps=5, random_steps=2)
    fixed = made.adaptive("pgd", "declared", random=False)
    assert isinstance(fixed.gradient, BackwardPassSubstitute) and fixed.steps == 5
    assert made.longer("pgd").steps == 5 and not isinstance(made.longer("pgd").gradient, BackwardPassSubstitute)
    assert study(tmp_path).adaptive("pgd", "declared", random=True).steps == 3
    several = study(tmp_path, random_steps={"pgd": 7}, adaptive_steps={"pgd": 4})
    assert [several.adaptive("pgd", "declared", random).steps for random in (True, False)] == [7, 4]
    assert study(tmp_path, adaptive_steps=5, random_steps={}).adaptive("pgd", "declared", random=True).steps == 5
    averaged = made.adaptive("pgd", "identity", random=True)
    assert isinstance(averaged.gradient, ExpectationOverTransformation)
    assert averaged.gradient.samples == 2 and averaged.steps == 2
    assert averaged.gradient.estimator.substitute == "identity"
    assert made.attacks["pgd"].steps == 3 and not isinstance(made.attacks["pgd"].gradient, BackwardPassSubstitute)


def test_backward_passes_that_come_to_the_same_are_tried_once(tmp_path):
    kinds = {"rounded": Rounded(0.05), "gain": RandomGain(), "median": MedianDenoise(), "gaussian": GaussianDenoise()}
    everything = ["declared", "surrogate", "identity"]
    made = study(tmp_path, defenses=place_purifiers(None, kinds), substitutes={"pgd": everything})
    found = {name: made._substitutes("pgd", name) for name in kinds}
    assert found == {
        "rounded": ["declared"] if type(kinds["rounded"]).surrogate is Purifier.surrogate else ["declared", "identity"],
        "gain": ["declared"],  # random
        "median": everything,  # exact, with a surrogate of its own
        "gaussian": ["declared", "surrogate"],  # whose surrogate is the identity
    }


def test_another_label_or_grid_is_another_case(finished):
    folder, _ = finished
    items = dataset(1)
    cell = Cell("case_000", "pgd", "rounded")
    path = folder / "records" / "rounded" / "pgd_case_000.json"
    known = json.loads(path.read_text())["fingerprint"]
    assert study(folder, dataset_items=items).fingerprint(cell) == known
    moved = {**items[0], "image": MetaTensor(items[0]["image"], affine=torch.diag(torch.tensor([2.0, 1, 1, 1])))}
    other = {**items[0], "label": 1 - items[0]["label"].clamp(max=1)}
    for item in (moved, other):
        assert study(folder, dataset_items=[item]).fingerprint(cell) != known


def test_finished_units_are_not_run_again_and_changed_ones_are(finished, monkeypatch):
    folder, summary = finished
    ran: list[tuple[str, str]] = []
    compute = PurificationStudy.compute
    monkeypatch.setattr(
        PurificationStudy, "compute", lambda s, cell, c: (ran.append((cell.case, cell.defense)), compute(s, cell, c))[1]
    )
    before = (folder / "purification.csv").read_text()
    assert study(folder).run() == summary
    assert ran == [] and (folder / "purification.csv").read_text() == before
    (folder / "records" / "gain" / "pgd_case_001.json").unlink()
    assert untimed(study(folder).run()) == untimed(summary)
    assert ran == [("case_001", "gain")]
    ran.clear()
    changed = place_purifiers(None, {"rounded": Rounded(0.07), "gain": RandomGain()})
    rows = study(folder, defenses=changed).run(selected="rounded")["rows"]
    assert ran == [("case_000", "rounded"), ("case_001", "rounded")]
    assert [row["defense"] for row in rows] == ["rounded", "gain"]  # the other's records still hold


def test_best_ranks_by_the_adaptive_column(tmp_path):
    made = study(tmp_path)
    rows = made.run()["rows"]
    ranked = [row["defense"] for row in sorted(rows, key=lambda row: -row["adaptive"])]
    assert made.best(2, "pgd") == ranked
    assert made.best(1, "pgd", ["gain"]) == ["gain"]


def test_one_case_has_no_interval_and_the_table_shows_none(tmp_path):
    rows = study(tmp_path, cases=1).run(selected=["rounded"])["rows"]
    assert rows[0]["adaptive_low"] == ""
    assert "[" not in markdown_table(rows)
    with open(tmp_path / "purification_cases.csv", newline="") as stream:
        assert [row["organ"] for row in csv.DictReader(stream)] == ["one", "two", "mean"]


def test_classes_that_no_label_holds_are_not_scored_and_named(tmp_path, capsys):
    """As data sets that label some organs: the network finds the other organ, rightly, and no label says so."""
    items = dataset(2)
    for item in items:
        item["label"] = item["label"] * (item["label"] == 1)
    said = "scored classes: one; not labeled in this data set: two"
    study(tmp_path, dataset_items=items).run(selected=["rounded"])
    assert said in capsys.readouterr().out
    record = json.loads((tmp_path / "records" / "rounded" / "pgd_case_000.json").read_text())
    assert list(record["scores"]["clean"]) == ["one"] and said in record["facts"]
    assert record["mean"]["clean_undefended"]["dice"] == 1.0
    told = study(tmp_path / "told", dataset_items=items, organs=["one", "two"])
    told.run(selected=["rounded"])
    record = json.loads((tmp_path / "told" / "records" / "rounded" / "pgd_case_000.json").read_text())
    assert record["mean"]["clean_undefended"]["dice"] == 0.5


class WithoutSecond:
    """A data set whose second case cannot be read until it is mended."""

    def __init__(self, items):
        self.items, self.loaded, self.broken = items, [], True
        self.data = [{"image": f"/data/scan_{index}.nii"} for index in range(len(items))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.loaded.append(index)
        if self.broken and index == 1:
            raise RuntimeError("cannot be read.")
        return self.items[index]


def test_a_case_that_cannot_be_read_fails_alone_and_is_tried_again(tmp_path):
    items = WithoutSecond(dataset(3))
    made = study(tmp_path, dataset_items=items)
    with pytest.raises(StudyError, match=r"2 of 6 cells failed, .*case_001 pgd .*cannot be read \(/data/scan_1.nii\)"):
        made.run()
    assert items.loaded == [0, 1, 2, 0, 1, 2]  # the labels, then each case once
    assert {row["cases"] for row in read_rows(tmp_path / "purification.csv")} == {2}
    failed = json.loads((tmp_path / "records" / "gain" / "pgd_case_001.json").read_text())
    assert failed["failed"] == "cannot be read (/data/scan_1.nii)."
    items.broken = False
    assert {row["cases"] for row in made.run()["rows"]} == {3}


def test_class_names_of_the_wrong_number_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="each of the network's 3 output channels"):
        study(tmp_path, class_names=("background", "one")).run()


def test_purifiers_are_placed_around_and_inside():
    scanner = ScannerSpaceInferer()
    placed = place_purifiers(scanner, {"a": Rounded()}, {"b": Rounded()})
    assert placed["a"].inferer is scanner
    assert placed["b"].inferer.inferer is scanner.inferer and scanner.inferer is not placed["b"].inferer
    with pytest.raises(TypeError, match="need a ScannerSpaceInferer"):
        place_purifiers(None, {}, {"b": Rounded()})
    with pytest.raises(ValueError, match="'a' occurs twice"):
        place_purifiers(scanner, {"a": Rounded()}, {"a": Rounded()})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"defenses": {"none": ScannerSpaceInferer()}}, TypeError, "PurifiedInferer in them"),
        ({"attacks": {"pgd": "pgd"}}, TypeError, "attacks must map"),
        ({"organs": ["heart"]}, ValueError, "organs must be among one, two, got 'heart'"),
        ({"samples": 0}, ValueError, "samples must be an integer >= 1"),
        ({"substitutes": ["magic"]}, ValueError, "substitutes must be one of"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        study(tmp_path, **options)


def test_unknown_selection_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no defense 'magic': choose among rounded, gain"):
        study(tmp_path).run(selected="magic")


def test_absent_organ_is_left_out_and_invented_one_counts_zero():
    label = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    scores = dice_of(torch.ones_like(label), label, {1: "one", 2: "two"})
    assert scores == {"one": {"dice": 0.0}, "two": {"dice": None}}
