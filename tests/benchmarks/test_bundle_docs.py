# SPDX-License-Identifier: Apache-2.0
"""The tables of the CT bundle's page are those of its JSON file, which holds what the bundle's configs wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.bundle_docs import BUNDLE, KEPT, ORGANS, PAGE, attack_table, dice_table, kept, with_tables


def test_the_page_is_made_of_its_json_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, json.loads(KEPT.read_text(encoding="utf-8"))) == page, "python -m benchmarks.bundle_docs"


def test_the_json_file_is_of_the_configs_of_today() -> None:
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    assert len(found["dice"]) == yaml.safe_load((BUNDLE / "configs" / "evaluate.yaml").read_text())["phantom_count"]
    config = yaml.safe_load((BUNDLE / "configs" / "attack.yaml").read_text(encoding="utf-8"))
    assert list(found["attacks"]) == config["selected"]
    for name, attack in found["attacks"].items():
        said = dict(config["attacks"][name])
        assert attack["configuration"]["steps"] == said.pop("steps")
        assert said.pop("_target_").endswith(f".{attack['configuration']['type']}")
        said = {key: value for key, value in said.items() if key != "window"}
        assert {key: attack["configuration"]["perturbation"][key] for key in said} == said


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What the two configs write, of two cases and one attack for each row of the page."""
    header = ",".join(["filename", *(f"class{index}" for index in range(len(ORGANS))), "mean"])
    lines = [",".join(["None", *[dice] * len(ORGANS), dice]) for dice in ("0.5", "0.75")]
    (tmp_path / "val_mean_dice_raw.csv").write_text("\n".join([header, *lines]) + "\n")
    (tmp_path / "attack").mkdir()
    perturbations = {"pgd": {"epsilon": 8.0}, "bias_field": {"max_gain": 0.3}, "elastic": {"max_displacement": 5.0}}
    attacks = {name: {"configuration": {"steps": 4, "perturbation": one}} for name, one in perturbations.items()}
    (tmp_path / "attack" / "summary.json").write_text(json.dumps({"attacks": attacks}))
    rows = [
        f"{case},{attack},{organ},{clean},{clean},{clean / 2}"
        for attack in attacks
        for case, clean in (("a", 0.5), ("b", 0.75))
        for organ in ("liver", "mean")
    ]
    columns = "case,attack,organ,clean_dice,random_dice,adversarial_dice"
    (tmp_path / "attack" / "results.csv").write_text("\n".join([columns, *rows]) + "\n")
    return tmp_path


def test_tables_show_what_the_configs_wrote(written: Path) -> None:
    found = kept(written)
    assert dice_table(found).splitlines()[2] == "| " + "0.625 | " * len(ORGANS) + "**0.625** |"
    assert attack_table(found).splitlines()[2:4] == [
        "| `pgd`, 4 steps | 8 HU per voxel (L-infinity) | 0.625 [0.500, 0.750] | 0.625 [0.500, 0.750] "
        "| **0.312** [0.250, 0.375] |",
        "| `bias_field`, 4 steps, mean kept | 30 % gain in the window | 0.625 [0.500, 0.750] | 0.625 [0.500, 0.750] "
        "| **0.312** [0.250, 0.375] |",
    ]
