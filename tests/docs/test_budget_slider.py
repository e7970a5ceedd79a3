# SPDX-License-Identifier: Apache-2.0
"""docs/budget_slider.md has the figures of its record, and a picture for each budget."""

from __future__ import annotations

import json

from benchmarks import budget_slider
from benchmarks.doc_tables import replace_table


def test_the_budget_page_has_the_figures_of_its_record() -> None:
    record = json.loads(budget_slider.RECORD.read_text(encoding="utf-8"))
    text = budget_slider.PAGE.read_text(encoding="utf-8")
    assert replace_table(text, "budgets", budget_slider.table(record)) == text
    budgets = [row["budget_HU"] for row in record["rows"]]
    assert f"const budgets = {budgets};" in text and f'max="{len(budgets) - 1}"' in text
    assert all((budget_slider.FRAMES / f"{budget:02d}.png").exists() for budget in budgets)
    dice = [row["dice"] for row in record["rows"]]
    assert dice == sorted(dice, reverse=True) and dice[0] > 0.8 and dice[-1] < 0.3
    assert all(row["random_dice"] > 0.8 for row in record["rows"])
