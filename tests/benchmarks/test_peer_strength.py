# SPDX-License-Identifier: Apache-2.0
"""The number of passes to a Dice, and the verdicts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.peer_strength import EPSILON, Contestant, _judge, first_reaching
from benchmarks.peers.behind_window import BehindWindow
from benchmarks.tables import Column, Table


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 15])
@pytest.mark.parametrize("known", [(), (5, 10, 20)])
def test_the_smallest_number_of_passes_is_found(needed: int, known: tuple[int, ...]) -> None:
    assert first_reaching(lambda passes: 0.9 if passes < needed else 0.1, 0.5, 40, known) == needed


def test_above_sixteen_an_eighth_is_near_enough() -> None:
    for needed in range(16, 41):
        found = first_reaching(lambda passes, needed=needed: 0.9 if passes < needed else 0.1, 0.5, 40, (5, 10, 20))
        assert found is not None and needed <= found <= needed + needed // 8


def test_what_is_not_reached_is_not_made_up() -> None:
    asked = []
    assert first_reaching(lambda passes: asked.append(passes) or 0.9, 0.5, 40) is None
    assert max(asked) == 40


def test_known_numbers_are_where_the_search_begins() -> None:
    asked = []
    assert first_reaching(lambda passes: asked.append(passes) or (0.1 if passes >= 6 else 0.9), 0.5, 40, (5, 10)) == 6
    assert set(asked) <= {5, 6, 7, 8, 10}


def test_leaving_the_budget_is_an_error() -> None:
    image = torch.zeros(1, 1, 4, 4, 4)
    cheat = Contestant("cheat", "none", lambda case, passes: (case[0] + 2 * EPSILON, 1.0, 1.0))
    with pytest.raises(RuntimeError, match="cheat left its budget"):
        cheat.measure(torch.nn.Identity(), [(image, image.long())], 5)


def test_the_verdict_is_on_the_best_row_of_a_library() -> None:
    names = ("attack", "passes", "its Dice", "CPU seconds", "quartiles", "times ours", "target")
    table = Table("equal_strength", "", tuple(Column(name) for name in names))
    table.add("ours, PGD default", 5, 0.3, 1.0, "", 1.0, "")
    table.add("adv_lib PGD, cross-entropy", 21, 0.3, 9.0, "", 9.0, "")
    table.add("adv_lib APGD, cross-entropy", 9, 0.3, 4.0, "", 4.0, "")
    table.add("adv_lib APGD, Dice + cross-entropy", "not in 40", 0.5, None, "", None, "")
    _judge(table, "adv_lib", 5.0)
    assert table.column("target") == ["", "", ">= 5: MISSED", ""]
    _judge(table, "absent", 5.0)


def test_clipped_voxels_stay_as_they_are_for_other_libraries() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 3)
    behind = BehindWindow(torch.nn.Identity(), image)
    changed = (image + 0.1).requires_grad_(True)
    assert behind(changed).flatten().tolist() == pytest.approx([0.0, 0.6, 1.0])
    behind(changed).sum().backward()
    assert changed.grad is not None and changed.grad.flatten().tolist() == [0.0, 1.0, 0.0]
