# SPDX-License-Identifier: Apache-2.0
"""SimBA: a basis, one direction per query, kept where it helps."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import AdditiveNoise, Attack, BiasField, RandomSearch, SimBA
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import NumpyNetwork, bright_boxes


def test_directions_are_an_orthogonal_basis_of_low_frequencies() -> None:
    image = torch.zeros((1, 1, 8, 6, 4))
    bound = AdditiveNoise(1.0, "l2").bind(Scene(image, (0,)))
    run = SimBA(frequencies=0.5).begin(bound, 10)
    count = 4 * 3 * 2
    basis = torch.cat([run._direction(torch.tensor([number])).flatten(1) for number in range(count)])  # type: ignore[attr-defined]
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[0], torch.full((8 * 6 * 4,), (8 * 6 * 4) ** -0.5))


@pytest.mark.parametrize("basis", ["dct", "voxel"])
def test_a_direction_is_tried_on_both_sides_and_kept_where_it_helps(basis: str) -> None:
    image = torch.zeros((2, 1, 4, 4, 4))
    bound = AdditiveNoise(1.0).bind(Scene(image, (0, 1)))
    steps = 40
    run = SimBA(basis, relative_step=0.25, frequencies=1.0).begin(bound, steps)
    goal = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    goal[1] = -goal[0]

    def value(noise: torch.Tensor) -> torch.Tensor:
        return (goal * noise).flatten(1).sum(dim=1)

    point, history = bound.zeros(), []
    for step in range(steps):
        history.append(value(point[0]))
        point = run.advance(point, (), history[-1], step)
    tried = torch.stack(history)
    assert torch.equal(value(point[0]), tried.amax(dim=0))
    # Of a linear function one of the two sides helps: at most two queries for each direction that is kept.
    kept = (tried.cummax(dim=0).values.diff(dim=0) > 0).sum(dim=0)
    assert bool((kept >= (steps - 2) // 2).all())


def test_voxels_are_changed_one_at_a_time() -> None:
    image, label = bright_boxes()
    result = Attack(AdditiveNoise(0.2), search=SimBA("voxel", 1.0), steps=40, random_start=False)(
        NumpyNetwork(), image, label
    )
    changed = (result.parameters[0] != 0).flatten(1).sum(dim=1)
    assert bool(((changed > 5) & (changed <= 40)).all())
    control = Attack(AdditiveNoise(0.2), search=RandomSearch(), steps=1, random_start=False)(
        NumpyNetwork(), image, label
    )
    assert bool((result.objective > control.objective).all())


@pytest.mark.parametrize("norm", ["l2", "rms", "linf"])
def test_the_budget_is_kept_in_every_norm(norm: str) -> None:
    result = Attack(AdditiveNoise(0.1, norm), search=SimBA(), steps=30)(NumpyNetwork(), *bright_boxes())
    measured = result.budgets[f"noise_{norm}"]
    assert bool((measured.values <= 0.1 + 1e-6).all()) and bool((measured.values > 0.02).all())


def test_other_perturbations_are_refused() -> None:
    with pytest.raises(ValueError, match="AdditiveNoise, got BiasField"):
        Attack(BiasField(0.3), search=SimBA(), steps=3)(NumpyNetwork(), *bright_boxes())
    with pytest.raises(ValueError, match="basis"):
        SimBA("wavelet")
