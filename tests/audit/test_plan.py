# SPDX-License-Identifier: Apache-2.0
"""Plans: what they are made of, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_adversarial.audit import load_plan, plan_names
from monai_adversarial.audit.plan import FAMILIES
from tests.audit.pipeline import PLAN


def _plan(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PLAN), **changes}


@pytest.mark.parametrize("units", ["HU", "percentile"])
@pytest.mark.parametrize("name", plan_names())
def test_shipped_plans_make_attacks(name: str, units: str) -> None:
    plan = load_plan(name, units)
    assert plan.rows[0].name == "clean" and len(plan.rows) > 5 and plan.description
    for row in plan.rows[1:]:
        assert row.attack is not None and row.family in FAMILIES and row.title and row.description
        if row.family in ("gradient", "queries", "transfer"):
            assert row.attack.perturbation.units == units and row.budget["value"] > 0


def test_each_value_of_over_is_a_row_of_one_series() -> None:
    rows = {row.name: row for row in load_plan(PLAN).rows}
    assert list(rows) == ["clean", "pgd_5", "pgd_40", "elastic"]
    assert rows["pgd_5"].series == rows["pgd_40"].series == "pgd" and rows["elastic"].series is None
    assert rows["pgd_40"].attack.perturbation.epsilon == 40
    assert rows["pgd_40"].budget["text"] == "40 HU" and rows["elastic"].budget["text"] == "4 mm"
    assert rows["elastic"].geometric and not rows["pgd_5"].geometric


def test_without_a_map_budgets_are_a_share_of_the_range() -> None:
    rows = load_plan(PLAN, units="percentile").rows
    assert [row.name for row in rows] == ["clean", "pgd_0.05", "elastic"]
    assert rows[1].attack.perturbation.units == "percentile"


def test_rows_that_need_gradients_are_named_as_not_tested() -> None:
    plan = load_plan(PLAN, differentiable=False)
    assert [row.name for row in plan.rows] == ["clean"]
    assert plan.left_out == ["PGD: the target has no gradients.", "Elastic: the target has no gradients."]


def test_rows_that_are_not_asked_for_are_named() -> None:
    plan = load_plan(PLAN, rows="elastic")
    assert [row.name for row in plan.rows] == ["clean", "elastic"]
    assert plan.left_out == ["PGD, 5 HU: not asked for.", "PGD, 40 HU: not asked for."]
    assert [row.name for row in load_plan(PLAN, rows=["pgd"]).rows] == ["clean", "pgd_5", "pgd_40"]


def test_seed_reaches_every_attack() -> None:
    assert {row.attack.seed for row in load_plan(PLAN, seed=7).rows[1:]} == {7}


WRONG = {
    "a mistyped key of the plan": ({"rowz": {}}, "no key 'rowz' (did you mean 'rows'?)"),
    "a mistyped key of a row": ({"rows": {"a": {"family": "clean", "titel": "A"}}}, "did you mean 'title'?"),
    "an unknown family": ({"rows": {"a": {"family": "magic"}}}, "family of row 'a' must be one of clean, noise"),
    "no rows": ({"rows": {}}, "rows of the plan must map names to rows"),
    "no attack": ({"rows": {"a": {"family": "gradient"}}}, "row 'a' lacks the key 'attack'"),
    "an attack without target": (
        {"rows": {"a": {"family": "gradient", "attack": {"epsilon": 4}}}},
        "must be a component with _target_",
    ),
    "an argument that the attack does not have": (
        {
            "rows": {
                "a": {"family": "gradient", "attack": {"_target_": "monai_adversarial.attacks.PGD", "epsilonn": 4}},
            }
        },
        "attack of row 'a' cannot be made",
    ),
    "a component that is no attack": (
        {"rows": {"a": {"family": "gradient", "attack": {"_target_": "torch.nn.ReLU"}}}},
        "must be a monai_adversarial.attacks.Attack, got ReLU",
    ),
    "no list of values": (
        {
            "rows": {
                "a": {
                    "family": "gradient",
                    "attack": {"_target_": "monai_adversarial.attacks.PGD"},
                    "over": {"epsilon": 4},
                }
            }
        },
        "must give a list of values for 'epsilon'",
    ),
    "a tolerance of 0": ({"surface_tolerance_mm": 0}, "surface_tolerance_mm must be > 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_plan_must_not_have_is_one_sentence(what: str) -> None:
    changes, sentence = WRONG[what]
    with pytest.raises(ValueError) as error:
        load_plan(_plan(**changes))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_row_that_the_plan_lacks_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no row 'elastc' .did you mean 'elastic'"):
        load_plan(PLAN, rows="elastc")


def test_plans_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(PLAN, sort_keys=False), encoding="utf-8")
    assert [row.name for row in load_plan(file).rows] == [row.name for row in load_plan(PLAN).rows]
    file.write_text("rows: [", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot read the plan"):
        load_plan(file)
    with pytest.raises(FileNotFoundError, match="there is no plan qiuck: it must be quick"):
        load_plan("qiuck")
