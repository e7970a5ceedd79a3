# SPDX-License-Identifier: Apache-2.0
"""Restarts at binomial distances: nothing runs more often than it must."""

from __future__ import annotations

from math import comb

import pytest

from monai_adversarial.utils.recomputation import restart_distance


@pytest.mark.parametrize("restarts", [1, 2, 3, 5])
@pytest.mark.parametrize("stages", [2, 5, 12, 24, 50])
def test_the_first_restart_lies_where_both_parts_can_be_done_in_the_fewest_rounds(stages, restarts):
    distance = restart_distance(stages, restarts)
    rounds = next(r for r in range(stages) if comb(restarts + r, restarts) >= stages)
    assert 1 <= distance < stages
    # The part before is run once more with all restarts, the part after it in the same run with one less.
    assert distance <= max(1, comb(restarts + rounds - 1, restarts))
    assert stages - distance <= comb(restarts + rounds - 1, restarts - 1)


def most_runs(stages: int, restarts: int) -> int:
    """How often the stage that runs most often runs, if the schedule is followed."""
    if stages <= 1:
        return stages
    if restarts == 0:
        return stages
    distance = restart_distance(stages, restarts)
    return max(1 + most_runs(distance, restarts), most_runs(stages - distance, restarts - 1))


@pytest.mark.parametrize(("stages", "restarts", "most"), [(24, 23, 2), (28, 6, 3), (15, 4, 3), (28, 2, 7), (5, 0, 5)])
def test_runs_of_the_schedule(stages, restarts, most):
    assert most_runs(stages, restarts) == most
