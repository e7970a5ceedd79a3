# SPDX-License-Identifier: Apache-2.0
"""HopSkipJump: noise that succeeds becomes smaller, from decisions alone."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, AdditiveNoise, Attack, BiasField, HopSkipJump, HopSkipJumpSearch
from monai_adversarial.models import AttackedModel
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes
from tests.helpers import LinearNetwork


def size(result: object, norm: str) -> torch.Tensor:
    return result.budgets[f"noise_{norm}"].values  # type: ignore[attr-defined]


@pytest.mark.parametrize("norm", ["rms", "l2", "linf"])
def test_the_noise_becomes_smaller_and_still_succeeds(norm: str) -> None:
    epsilon = {"rms": 0.5, "l2": 20.0, "linf": 0.8}[norm]
    short, long = (
        HopSkipJump(epsilon, queries=queries, norm=norm, search=HopSkipJumpSearch(30, grid=4))(
            NumpyNetwork(), *bright_boxes()
        )
        for queries in (30, 500)
    )
    assert bool(short.success.all()) and bool(long.success.all())
    assert bool((size(long, norm) < 0.7 * size(short, norm)).all())


def test_only_decisions_are_seen() -> None:
    """Two networks that decide alike lead to the same noise, whatever their logits."""

    class Louder(NumpyNetwork):
        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return 3 * super().__call__(image)

    made = [HopSkipJump(0.5, queries=60)(network, *bright_boxes()) for network in (NumpyNetwork(), Louder())]
    assert torch.equal(made[0].adversarial, made[1].adversarial)
    assert set(made[0].objective_history.unique().tolist()) == {0.0, 1.0}


def test_one_voxel_on_a_line_has_a_closed_form() -> None:
    """A threshold at 0: the nearest image on the other side is at the distance of the value itself."""
    image = torch.full((1, 1, 1, 1, 2), -0.3)
    label = torch.zeros_like(image, dtype=torch.long)
    label[..., 0], image[..., 0] = 1, 0.2
    network = LinearNetwork((-1.0, 1.0))
    search = HopSkipJumpSearch(20, grid=None, bisections=12)
    result = HopSkipJump(2.0, queries=400, norm="l2", search=search)(network, image, label)
    assert bool(result.success)
    # Turning the one foreground voxel off ends its Dice; it takes a change of 0.2 of that voxel alone.
    torch.testing.assert_close(size(result, "l2"), torch.tensor([0.2], dtype=torch.float64), rtol=0.02, atol=0)


def test_it_begins_where_it_is_told() -> None:
    image, label = bright_boxes()
    model = AttackedModel(SmoothThreshold())
    begun = PGD(0.5, steps=5)(model, image, label)
    search = HopSkipJumpSearch(20, grid=4, starts=0)
    result = HopSkipJump(0.5, queries=200, search=search)(model, image, label, start=begun.parameters)
    assert bool(result.success.all())
    assert bool(
        (
            size(result, "rms")
            < 0.9
            * (
                begun.budgets["rms_change"].values
                if "rms_change" in begun.budgets
                else begun.parameters[0].flatten(1).norm(dim=1) / 12**1.5
            )
        ).all()
    )


def test_without_a_start_nothing_is_called_a_success() -> None:
    result = HopSkipJump(0.001, queries=30)(NumpyNetwork(), *bright_boxes())
    assert not bool(result.success.any()) and bool((result.objective == 0).all())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="AdditiveNoise, got BiasField"):
        Attack(BiasField(0.3), search=HopSkipJumpSearch(), steps=3)(NumpyNetwork(), *bright_boxes())
    with pytest.raises(ValueError, match="early_stop"):
        HopSkipJump(1.0, early_stop=True)
    with pytest.raises(ValueError, match="training does not ask"):
        HopSkipJump(1.0).perturb(NumpyNetwork(), *bright_boxes())
    with pytest.raises(ValueError, match="norm"):
        AdditiveNoise(1.0, norm="l3")
