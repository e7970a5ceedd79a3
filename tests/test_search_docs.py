# SPDX-License-Identifier: Apache-2.0
"""The table of docs/search.md is the CSV file beside it, and the default is what it says there."""

from __future__ import annotations

import inspect

from benchmarks.doc_tables import DOCS
from benchmarks.steps_to_dice import ATTACKS, PAGE, REFERENCE, REFERENCE_STEPS, TABLE, Row, read, summary, with_table
from monai_adversarial.attacks import PGD, AnnealedDice

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
ROWS = read(DOCS / TABLE)
NETWORKS = {row.network for row in ROWS}


def found(network: str, attack: str) -> dict[int, Row]:
    return {row.steps: row for row in ROWS if (row.network, row.attack) == (network, attack)}


def test_the_table_is_made_of_the_csv_file() -> None:
    assert with_table(TEXT, DOCS) == TEXT
    for network in NETWORKS:
        old, new = (found(network, attack) for attack in ATTACKS)
        assert set(old) == set(new) and REFERENCE_STEPS in old


def test_the_rows_were_measured_with_the_attacks_of_today() -> None:
    """Constants of the default stand on the page; whoever changes them measures again."""
    default, constant = (ATTACKS[name](8, 5) for name in ("default", REFERENCE))
    assert repr(default) == repr(PGD(8, "HU", steps=5))
    assert (default.search.relative_step, default.search.schedule) == (2.0, "linear")
    assert (constant.search.relative_step, constant.search.schedule) == (0.25, "constant")
    settings = inspect.signature(AnnealedDice).parameters
    assert f"k from {settings['first_sharpness'].default:g} to {settings['last_sharpness'].default:g}" in TEXT
    assert f"{settings['cross_entropy_weight'].default:g} times" in TEXT


def test_no_network_is_stronger_against_the_default_than_against_constant_steps() -> None:
    for network in NETWORKS:
        old, new = (found(network, attack) for attack in (REFERENCE, "default"))
        assert all(new[steps].dice <= old[steps].dice for steps in old)
        assert new[10].dice <= old[REFERENCE_STEPS].dice


def test_the_summary_says_when_a_dice_is_not_reached() -> None:
    def row(attack: str, steps: int, dice: float, seconds: float) -> Row:
        return Row("one", 8.0, attack, steps, 0.9, dice, seconds, steps, steps)

    rows = [row(REFERENCE, 3, 0.8, 2.0), row(REFERENCE, 20, 0.5, 10.0), row("default", 3, 0.6, 3.0)]
    *_, old, new = summary(rows).splitlines()
    assert old.endswith("| 0.800 | 0.500 | 20 | 10.0, 1.00 |") and new.endswith("| 0.600 |  | not reached |  |")
    *_, new = summary([*rows, row("default", 4, 0.5, 2.5)]).splitlines()
    assert new.endswith("| 0.600 | 0.500 |  | 4 | 2.5, 0.25 |")
