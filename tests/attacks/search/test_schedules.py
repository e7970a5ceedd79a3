# SPDX-License-Identifier: Apache-2.0
"""Sizes of the steps of the smooth and geometric recipes."""

from __future__ import annotations

import pytest

from monai_adversarial.attacks import (
    AffineAttack,
    Attack,
    BiasFieldAttack,
    ElasticAttack,
    ExtremesFirst,
    SteepestAscent,
)


def sizes(attack: Attack) -> list[float]:
    search = attack.search.search if isinstance(attack.search, ExtremesFirst) else attack.search
    assert isinstance(search, SteepestAscent)
    return [search.step_at(step, 4) for step in range(4)]


@pytest.mark.parametrize(("recipe", "default"), [(AffineAttack, 1.0), (BiasFieldAttack, 2.0), (ElasticAttack, 1.0)])
def test_steps_fall_by_default_stay_where_a_size_is_given_and_fall_from_it_where_that_is_said(
    recipe: type[AffineAttack] | type[BiasFieldAttack] | type[ElasticAttack], default: float
) -> None:
    assert sizes(recipe()) == [default * share for share in (1.0, 0.75, 0.5, 0.25)]
    assert sizes(recipe(relative_step=3.0)) == [3.0] * 4
    assert sizes(recipe(relative_step=3.0, schedule="linear")) == [3.0, 2.25, 1.5, 0.75]
    with pytest.raises(ValueError, match="schedule must be one of"):
        recipe(relative_step=3.0, schedule="exponential")
    with pytest.raises(ValueError, match="got schedule='linear' without relative_step"):
        recipe(schedule="linear")
