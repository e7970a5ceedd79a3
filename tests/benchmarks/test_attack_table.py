# SPDX-License-Identifier: Apache-2.0
"""Tables of attacks: pages are what their files say, and a wrong order of attacks is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import (
    attack_table,
    equal_cost,
    peer_auto_pgd,
    peer_minimal,
    primal_dual,
    surface_objective,
    survey_claims,
    targeted,
    xray_campaign,
)
from benchmarks.attack_table import Row, checks, table
from benchmarks.attack_table_entries import ENTRIES, Setting
from benchmarks.doc_tables import DOCS
from benchmarks.equal_cost_attacks import CONTESTANTS, Contestant, loop
from benchmarks.steps_to_dice import Network
from monai_adversarial.attacks import AdditiveNoise, ElasticAttack
from monai_adversarial.data.example import example_case

ROW = Row("net", 0, "PGD", "white box", 4.0, "4 HU", 0.9, 0.3, "label", 12, 10, 1.0)
RANDOM = replace(ROW, attack="random search", family="queries", dice=0.85)
SQUARE = replace(ROW, attack="square attack", family="queries", dice=0.6)
ENSEMBLE = replace(ROW, attack="AutoAttack3D", dice=0.2)
SOUND = [ROW, RANDOM, SQUARE, ENSEMBLE]


@pytest.mark.parametrize(
    "module",
    [
        attack_table,
        equal_cost,
        peer_auto_pgd,
        peer_minimal,
        primal_dual,
        surface_objective,
        survey_claims,
        targeted,
        xray_campaign,
    ],
)
def test_page_is_what_its_file_says(module) -> None:  # type: ignore[no-untyped-def]
    text = (DOCS / module.PAGE).read_text(encoding="utf-8")
    assert module.with_table(text, DOCS) == text


def test_a_sound_order_holds() -> None:
    assert all(holds for _, holds, _ in checks(SOUND))
    assert len(checks(SOUND)) == 3


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        (replace(ROW, dice=0.1), "the ensemble"),
        (replace(SQUARE, dice=0.19), "by queries"),
        (replace(SQUARE, dice=0.85), "below random search"),
    ],
)
def test_a_weaker_attacker_that_is_ahead_is_named(wrong: Row, claim: str) -> None:
    rows = [wrong if row.attack == wrong.attack else row for row in SOUND]
    failed = [text for text, holds, _ in checks(rows) if not holds]
    assert any(claim in text for text in failed)


def test_means_over_cases_and_budgets_of_another_kind_have_their_cells() -> None:
    other = replace(ROW, attack="elastic", family="other budget", budget_hu=float("nan"), budget="5 mm", dice=0.7)
    text = table([ROW, replace(ROW, case=1, dice=0.5), other], "net")
    assert "| PGD | white box | voxels, L-infinity | 0.400 |  | 12 + 10 |" in text
    assert "| elastic | other budget | 5 mm | 0.700 |  | 12 + 10 |" in text


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_can_be_made(entry) -> None:  # type: ignore[no-untyped-def]
    attack = entry.make(4.0, Setting(10, 50, lambda: example_case(16)[0]))
    assert attack.perturbation is not None
    assert entry.in_hu != bool(entry.budget)


@pytest.mark.parametrize("perturbation", [AdditiveNoise(8, units="HU"), ElasticAttack(6.0).perturbation])
def test_loop_of_ten_lines_attacks(perturbation) -> None:  # type: ignore[no-untyped-def]
    model, image, label = example_case(16)
    torch.manual_seed(0)
    clean, dice = loop(perturbation, model, image, label, 6, True, "dice")
    assert dice < clean - 0.03


def test_rows_that_some_cases_lack_are_measured() -> None:
    """Of an attack that was interrupted between two cases the cases that are there are not measured again."""
    model, image, label = example_case(16)
    network = Network("net", 4.0, lambda: (model, [(image, label)] * 3))
    measured = [replace(ROW, attack="FGSM", case=case, budget_hu=4.0) for case in range(2)]
    measured += [replace(ROW, attack="FGSM", case=case, budget_hu=8.0) for case in range(3)]
    entry = next(one for one in ENTRIES if one.name == "FGSM")
    found = list(attack_table.rows([network], lambda _: Setting(1, 1), measured, [entry]))
    assert [(row.budget_hu, row.case) for row in found] == [(4.0, 2)]


def test_attacks_of_equal_cost_that_are_there_or_not_asked_for_are_not_measured() -> None:
    model, image, label = example_case(16)
    network = Network("net", 4.0, lambda: (model, [(image, label)]))
    one = Contestant("one", "voxels", True, lambda model, case, budget, passes, seed: (0.9, 0.1 * passes))
    two = replace(one, name="two")
    known = list(equal_cost.rows([network], passes=[5], contestants=[one]))
    assert [(row.attack, row.passes, row.dice) for row in known] == [("one", 5, 0.5)]
    found = list(equal_cost.rows([network], known, passes=[5, 6], contestants=[one, two]))
    assert [(row.attack, row.passes) for row in found] == [("two", 5), ("one", 6), ("two", 6)]


def test_the_mean_of_several_starts_counts_and_one_start_is_measured_again() -> None:
    model, image, label = example_case(16)
    network = Network("net", 4.0, lambda: (model, [(image, label)]))
    one = Contestant("one", "voxels", True, lambda model, case, budget, passes, seed: (0.9, (0.2, 0.3, 0.7)[seed]))
    known = list(equal_cost.rows([network], passes=[5], contestants=[one]))
    assert [(row.dice, row.starts) for row in known] == [(0.2, 1)]
    (row,) = equal_cost.rows([network], known, passes=[5], contestants=[one], starts=3)
    assert (row.dice, row.starts) == (0.4, 3)
    assert not list(equal_cost.rows([network], [row], passes=[5], contestants=[one], starts=2))


def test_another_seed_is_another_start_of_loops_and_of_our_attacks() -> None:
    model, image, label = example_case(16)
    for one in (c for c in CONTESTANTS if c.group == "elastic"):
        first, again, other = (one.run(model, (image, label), 4.0, 2, seed) for seed in (0, 0, 1))
        assert first == again and first != other, one.name


def test_attacks_that_are_compared_have_as_many_starts() -> None:
    cells: dict[tuple[str, str, int], set[int]] = {}
    for row in equal_cost.read(DOCS / equal_cost.TABLE):
        cells.setdefault((row.network, row.group, row.passes), set()).add(row.starts)
    assert cells and all(len(starts) == 1 for starts in cells.values())


def test_norms_that_are_there_are_not_measured_and_those_missing_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image, label = example_case(16)
    monkeypatch.setattr(primal_dual, "_cases", lambda network, count: (model, [(image, label)] * count))
    known = [{"network": "net", "norm": "linf", "steps": 3}]
    (row,) = primal_dual.rows("net", ["linf", "l2"], [3], 2, known)
    assert (row["norm"], row["cases"], row["fmn_passes"]) == ("l2", 2, row["pdpgd_passes"])
    assert row["fmn"] > 0 and row["pdpgd"] > 0
