# SPDX-License-Identifier: Apache-2.0
"""Square attack: stripes, cubes, the paper's schedule, strength at equal queries."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import (
    AdditiveNoise,
    Attack,
    BiasField,
    RandomSearch,
    SquareAttack,
    SquareSearch,
)
from monai_adversarial.attacks.search.square import share_at
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes


def begin(region: torch.Tensor | None = None, share: float = 0.05, steps: int = 50) -> tuple:
    image = torch.full((2, 1, 10, 12, 14), 0.5)
    bound = AdditiveNoise(0.1).bind(Scene(image, (1, 2), region=region))
    return bound, SquareSearch(share).begin(bound, steps)


@pytest.mark.parametrize(
    ("step", "halvings"), [(1, 0), (10, 0), (11, 1), (50, 1), (51, 2), (201, 3), (501, 4), (1001, 5), (8001, 9)]
)
def test_the_share_halves_as_in_the_paper(step: int, halvings: int) -> None:
    assert share_at(step, 10_000, 0.8) == 0.8 / 2**halvings


def test_the_schedule_scales_with_the_number_of_queries() -> None:
    assert share_at(51, 1000, 0.8) == share_at(510, 10_000, 0.8)


def test_it_begins_with_stripes_along_the_first_axis() -> None:
    bound, run = begin()
    (noise,) = run.first(bound.zeros())
    torch.testing.assert_close(noise.abs(), torch.full_like(noise, 0.1))
    assert torch.equal(noise, noise[:, :, :1].expand_as(noise))
    assert 0.3 < float((noise > 0).float().mean()) < 0.7


def test_a_step_changes_one_cube_that_covers_the_share() -> None:
    bound, run = begin(share=0.1, steps=5)
    start = run.first(bound.zeros())
    (moved,) = run.advance(start, (), torch.zeros(2), 0)
    for sample in range(2):
        changed = (moved != start[0])[sample, 0]
        assert bool(changed.any())
        box = changed.nonzero()
        edges = box.amax(dim=0) - box.amin(dim=0) + 1
        edge = round((share_at(1, 5, 0.1) * 10 * 12 * 14) ** (1 / 3))
        assert int(edges.max()) <= edge
        inside = moved[sample, 0][tuple(slice(int(a), int(a + n)) for a, n in zip(box.amin(dim=0), edges, strict=True))]
        assert len(inside.unique()) == 1


def test_no_query_is_lost_on_the_same_image() -> None:
    bound, run = begin(share=1e-4, steps=10)
    best = run.first(bound.zeros())
    for step in range(9):
        moved = run.advance(best, (), torch.full((2,), float(step)), step)
        assert bool((moved[0] != best[0]).flatten(1).any(dim=1).all())
        best = moved


def test_cubes_lie_where_voxels_may_change() -> None:
    region = torch.zeros((2, 1, 10, 12, 14), dtype=torch.bool)
    region[0, :, 2:5, 3:7, 4:9] = True
    region[1, :, 6:9, 1:4, 10:13] = True
    bound, run = begin(region, share=0.3, steps=10)
    best = run.first(bound.zeros())
    for step in range(9):
        moved = run.advance(best, (), torch.full((2,), float(step)), step)
        changed = moved[0] != best[0]
        assert bool(changed.flatten(1).any(dim=1).all()) and not bool((changed & ~region).any())
        best = moved


def test_it_beats_random_search_at_equal_queries() -> None:
    image, label = bright_boxes(batch=3)
    square = SquareAttack(0.07, queries=60)(NumpyNetwork(), image, label)
    random = Attack(AdditiveNoise(0.07), search=RandomSearch(), steps=60)(NumpyNetwork(), image, label)
    assert square.forwards == random.forwards == 3 * 62
    assert bool((square.adversarial_dice < random.adversarial_dice - 0.1).all())


def test_more_queries_are_never_weaker_by_the_objective() -> None:
    image, label = bright_boxes()
    result = SquareAttack(0.05, queries=40)(NumpyNetwork(), image, label)
    assert torch.equal(result.objective, result.objective_history.amax(dim=0))
    assert float(result.budgets["noise_linf"].values.max()) <= 0.05 + 1e-6


def test_samples_do_not_depend_on_their_batch() -> None:
    image, label = bright_boxes(batch=3)
    attack = SquareAttack(0.05, queries=15)
    together = attack(NumpyNetwork(), image, label).adversarial
    for row in range(3):
        alone = attack(NumpyNetwork(), image[row : row + 1], label[row : row + 1]).adversarial
        assert torch.equal(alone[0], together[row])


def test_solved_samples_leave_it() -> None:
    image, label = bright_boxes(batch=3)
    eager = SquareAttack(0.2, queries=60, early_stop=True, success_threshold=0.6)
    network = NumpyNetwork()
    result = eager(network, image, label)
    assert bool(result.success.all()) and result.forwards < 3 * 62
    assert network.calls == result.forwards
    alone = eager(NumpyNetwork(), image[1:2], label[1:2])
    assert torch.equal(alone.adversarial[0], result.adversarial[1])


def test_a_region_of_the_whole_image_changes_nothing_for_gradients() -> None:
    image, label = bright_boxes()
    result = SquareAttack(0.1, queries=10)(SmoothThreshold(), image, label, region=torch.ones_like(label).bool())
    assert bool((result.adversarial_dice < result.clean_dice).all())


@pytest.mark.parametrize("perturbation", [AdditiveNoise(0.1, norm="l2"), BiasField(0.2)])
def test_another_budget_is_refused(perturbation: object) -> None:
    image, label = bright_boxes()
    with pytest.raises(ValueError, match="SquareSearch changes voxels within an L-infinity ball"):
        Attack(perturbation, search=SquareSearch(), steps=2)(SmoothThreshold(), image, label, spacing=1.0)  # type: ignore[arg-type]
