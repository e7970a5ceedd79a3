# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from monai_adversarial.attacks.objectives import (
    OBJECTIVES,
    CrossEntropy,
    Dice,
    JensenShannon,
    MaskedCrossEntropy,
    Objective,
    get_objective,
)


def test_every_name_gives_its_objective() -> None:
    assert set(OBJECTIVES) == {
        "cross_entropy",
        "balanced_cross_entropy",
        "masked_cross_entropy",
        "balanced_masked_cross_entropy",
        "dice",
        "dice_ce",
        "annealed_dice",
        "segpgd",
        "cospgd",
        "jensen_shannon",
        "margin",
        "dlr",
    }
    for name, kind in OBJECTIVES.items():
        assert type(get_objective(name)) is kind and issubclass(kind, Objective)


@pytest.mark.parametrize(("name", "kind"), [("ce", CrossEntropy), ("mce", MaskedCrossEntropy), ("jsd", JensenShannon)])
def test_short_names(name: str, kind: type[Objective]) -> None:
    assert type(get_objective(name)) is kind


def test_an_objective_is_returned_as_it_is() -> None:
    objective = Dice(include_background=True)
    assert get_objective(objective) is objective


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'dice_ce'.*'mce'.*got 'diec'"):
        get_objective("diec")
    with pytest.raises(TypeError, match="got int"):
        get_objective(3)  # type: ignore[arg-type]


def test_the_settings_show_in_the_representation() -> None:
    assert (
        repr(get_objective("dice")) == "Dice(include_background=False, skip_absent=True, smooth=1e-05, sharpness=1.0)"
    )
