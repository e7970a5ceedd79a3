# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/purifiers.md are the CSV files beside it, and they are honest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.purifier_docs import DOCS, TABLES, with_tables
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.transforms import PURIFIERS

PAGE = (DOCS / "purifiers.md").read_text(encoding="utf-8")


def test_tables_are_made_of_the_csv_files() -> None:
    assert with_tables(PAGE, DOCS) == PAGE
    assert all((DOCS / name).is_file() for name in TABLES.values())
    assert (DOCS / "images" / "purification.png").is_file()


@pytest.mark.parametrize("name", TABLES.values())
def test_no_defense_without_the_attacker_who_knows_it(name: str) -> None:
    for row in read_rows(DOCS / name):
        assert 0.0 <= row["adaptive"] <= row["unaware"] <= 1.0
        assert 0.0 <= row["adaptive_gradient"] <= 1.0
        if row["cases"] > 1:
            assert row["adaptive_low"] <= row["adaptive"] <= row["adaptive_high"]
        if row["defense"] in ("resize_shift", "rand_jpeg", "diffusion"):
            assert row["draws_per_gradient"] >= 20


def test_who_knows_the_purifier_takes_back_a_good_part_of_what_it_gave_by_noise() -> None:
    # Per case the table keeps the worse of both images, so that "not better" would hold for any attack. A purifier that
    # gives nothing back, as the bit depth does, leaves nothing to take: there the two are within a hundredth.
    for row in read_rows(DOCS / "purification.csv"):
        if row["attack"] == "pgd":
            assert row["adaptive_gradient"] < row["unaware"], row["defense"]
            given_back, left = row["unaware"] - row["undefended"], row["adaptive_gradient"] - row["undefended"]
            assert left < max(0.01, 0.6 * given_back), row["defense"]


def test_every_purifier_is_in_the_first_table_and_in_the_list() -> None:
    rows = read_rows(DOCS / "purification.csv")
    assert {row["attack"] for row in rows} == {"pgd", "bias_field", "elastic"}
    assert len({row["defense"] for row in rows}) == len(PURIFIERS)
    assert [name for name in PURIFIERS if f"`{name}`" not in PAGE] == []


def test_purifiers_that_cost_more_than_two_points_are_named() -> None:
    costly = {row["defense"] for row in read_rows(DOCS / "purification.csv") if row["clean_lost"] > 0.02}
    said = re.search(r"cost more than 0\.02 of clean Dice: (.*?)\.\n", PAGE)
    assert said is not None
    named = set() if said[1] == "none" else {name.strip().replace(" ", "_") for name in said[1].split(",")}
    assert named == costly


def test_bias_field_correction_restores_half_of_what_an_unaware_attack_took() -> None:
    rows = {(row["defense"], row["attack"]): row for row in read_rows(DOCS / "purification.csv")}
    row = rows["bias_field_correction", "bias_field"]
    assert row["unaware"] - row["undefended"] >= 0.5 * (row["clean_undefended"] - row["undefended"])


def test_readme_points_here() -> None:
    assert "docs/purifiers.md" in (Path(DOCS).parent / "README.md").read_text(encoding="utf-8")
