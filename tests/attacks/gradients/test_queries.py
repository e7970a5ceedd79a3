# SPDX-License-Identifier: Apache-2.0
"""Gradients estimated by queries: right where the answer is known, counted to the query, the same for each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    NES,
    PGD,
    RGF,
    SAGM,
    ZOO,
    AdditiveNoise,
    Attack,
    BiasField,
    CoarseGrid,
    CoordinateAdam,
    CoordinateZerothOrder,
    HopSkipJump,
    NaturalEvolution,
    QueryGradient,
    RandomGradientFree,
    RandomSearch,
    SAGMAttack,
    SelfAdaptiveMomentum,
    SimBADCT,
    SteepestAscent,
)
from monai_adversarial.attacks.gradients.queries import moves_for
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes

ESTIMATES: dict[str, Callable[..., Attack]] = {"NES": NES, "RGF": RGF, "ZOO": ZOO, "SAGMAttack": SAGMAttack}
RECIPES: dict[str, Callable[..., Attack]] = {**ESTIMATES, "SimBADCT": SimBADCT, "HopSkipJump": HopSkipJump}


class Linear:
    """``weights * parameters`` summed, which knows how often it was asked."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights, self.calls = weights, 0

    def __call__(self, parameters: tuple[torch.Tensor, ...], view: Any = None) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        values = (self.weights * parameters[0]).flatten(1).sum(dim=1)
        return values, values, None  # type: ignore[return-value]


def begun(estimator: QueryGradient, steps: int = 2) -> tuple[QueryGradient, tuple[torch.Tensor, ...]]:
    image = torch.rand((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    bound = AdditiveNoise(0.1).bind(Scene(image, (3, 4)))
    return estimator.begin(bound, steps), bound.zeros()


def weights() -> torch.Tensor:
    return torch.randn((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("estimator", "least"),
    [(NaturalEvolution(4000, 0.1), 0.95), (RandomGradientFree(4000, 0.1), 0.95), (SAGM(200, 0.1), 0.5)],
)
def test_directions_agree_with_the_gradient_of_a_linear_function(estimator: QueryGradient, least: float) -> None:
    run, zeros = begun(estimator)
    function = Linear(weights())
    found = run.evaluate(function, zeros)
    cosine = torch.nn.functional.cosine_similarity(found.gradients[0].flatten(1), function.weights.flatten(1))
    assert bool((cosine > least).all()), cosine
    assert function.calls == found.forwards == 1 + estimator.samples
    if not isinstance(estimator, SAGM):  # whose size has no meaning
        size = found.gradients[0].flatten(1).norm(dim=1) / function.weights.flatten(1).norm(dim=1)
        torch.testing.assert_close(size, torch.ones(2), rtol=0.15, atol=0)


def test_coordinates_are_exact_for_a_linear_function_and_all_of_them_are_asked() -> None:
    run, zeros = begun(CoordinateZerothOrder(128, 0.01))
    function = Linear(weights())
    found = run.evaluate(function, zeros)
    torch.testing.assert_close(found.gradients[0], function.weights, rtol=1e-3, atol=1e-3)


def test_coordinates_that_moved_are_drawn_more_often() -> None:
    run, zeros = begun(CoordinateZerothOrder(2, 0.01))
    moved = zeros[0].clone()
    moved[:, :, :2, :2, :2] = 0.1
    counts = torch.zeros_like(moved)
    for _ in range(200):
        run._step = 0
        counts += run.evaluate(Linear(torch.ones_like(moved)), (moved,)).gradients[0] != 0
    near, far = counts[:, :, :3, :3, :3].mean(), counts[:, :, 3, 3, 3].mean()
    assert float(near) > 3 * float(far)


def test_coarse_grids_come_before_fine_ones() -> None:
    image = torch.rand((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    bound = CoarseGrid(AdditiveNoise(0.1), (2, 4)).bind(Scene(image, (3,)))
    run = CoordinateZerothOrder(4).begin(bound, steps=5)
    asked = []
    for _ in range(4):
        values = run.evaluate(lambda parts, view=None: _sum(parts), bound.zeros())
        asked.append([bool((gradient != 0).any()) for gradient in values.gradients])
    assert asked == [[True, False], [True, False], [False, True], [False, True]]


def _sum(parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor, None]:
    total = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
    return total, total, None


@pytest.mark.parametrize("queries", [7, 24, 61])
@pytest.mark.parametrize("name", list(RECIPES))
def test_queries_are_counted_and_kept_exactly(name: str, queries: int) -> None:
    network = NumpyNetwork()
    result = RECIPES[name](0.5, queries=queries)(network, *bright_boxes())
    assert network.calls == result.forwards == 2 * (queries + 2)
    assert (result.backwards, result.queries) == (0, result.forwards)
    assert bool(result.zero_gradient_fraction.isnan().all())


@pytest.mark.parametrize("name", [*ESTIMATES, "SimBADCT"])
def test_each_is_stronger_than_random_search_and_no_stronger_than_the_gradient(name: str) -> None:
    model, (image, label) = AttackedModel(SmoothThreshold()), bright_boxes()
    by_queries = RECIPES[name](0.1, queries=150)(model, image, label)
    control = Attack(AdditiveNoise(0.1), search=RandomSearch(), steps=150)(model, image, label)
    white_box = PGD(0.1, steps=20)(model, image, label)
    assert bool((by_queries.adversarial_dice < control.adversarial_dice - 0.02).all())
    assert bool((white_box.adversarial_dice <= by_queries.adversarial_dice + 1e-6).all())


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    image, label = bright_boxes()
    attack = RECIPES[name](0.5, queries=40)
    both = attack(NumpyNetwork(), image, label)
    for sample in range(2):
        alone = attack(NumpyNetwork(), image[sample : sample + 1], label[sample : sample + 1])
        torch.testing.assert_close(alone.adversarial[0], both.adversarial[sample])


def test_more_budget_and_more_queries_do_not_make_it_weaker() -> None:
    image, label = bright_boxes()
    by_budget = [NES(e, queries=100)(NumpyNetwork(), image, label).objective for e in (0.03, 0.06, 0.12)]
    by_queries = [NES(0.06, queries=q)(NumpyNetwork(), image, label).objective for q in (42, 420)]
    assert bool((by_budget[0] < by_budget[1]).all() and (by_budget[1] < by_budget[2]).all())
    assert bool((by_queries[0] < by_queries[1]).all())


def test_samples_that_are_solved_are_not_asked_about_again() -> None:
    image, label = bright_boxes()
    network = NumpyNetwork()
    result = NES(0.3, queries=200, early_stop=True)(network, image, label)
    assert bool(result.success.all()) and network.calls == result.forwards < 2 * 150


def test_what_is_asked_about_is_the_finished_image() -> None:
    """Rounded to whole HU, as it is saved."""
    image, label = bright_boxes()
    seen: list[torch.Tensor] = []
    inner = NumpyNetwork()

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch * 1000)
        return inner(batch)

    model = AttackedModel(network, intensity={"a_min": 0, "a_max": 1000}, image_units="HU", round_to_integer=True)
    NES(50, "HU", queries=30)(model, (image * 1000).round(), label)
    assert len(seen) == 32
    assert all(float((one - one.round()).abs().max()) < 1e-2 for one in seen)


@pytest.mark.parametrize(
    "attack",
    [
        Attack(BiasField(0.3), gradient=NaturalEvolution(8), search=SteepestAscent(0.5), steps=8),
        Attack(BiasField(0.3), gradient=CoordinateZerothOrder(8), search=CoordinateAdam(0.5), steps=8),
        Attack(
            CoarseGrid(AdditiveNoise(0.1, "rms"), 3),
            gradient=SAGM(8),
            search=SelfAdaptiveMomentum(0.5),
            steps=8,
        ),
    ],
)
def test_any_perturbation_can_be_searched(attack: Attack) -> None:
    result = attack(NumpyNetwork(), *bright_boxes())
    assert bool((result.adversarial_dice < result.clean_dice).all())
    assert result.forwards == 2 * (attack.gradient.passes(8)[0] + 2) == 2 * (7 * 9 + 1 + 2)


def test_a_search_by_estimates_trains_too() -> None:
    image, label = bright_boxes()
    attack = NES(0.1, queries=60)
    network = NumpyNetwork()
    made = attack.perturb(network, image, label)
    assert torch.equal(made.adversarial, attack(NumpyNetwork(), image, label).adversarial)


@pytest.mark.parametrize(("queries", "samples"), [(1000, 20), (50, 20), (22, 20), (21, 20), (3, 20), (7, 4)])
def test_moves_share_all_queries(queries: int, samples: int) -> None:
    steps = moves_for(queries, samples)
    estimator = NaturalEvolution(samples, queries=queries)
    around = [estimator.asked_around(step, steps) for step in range(steps)]
    assert sum(around) + steps == queries == estimator.passes(steps)[0]
    assert around[-1] == 0 and min(around[:-1]) >= 1


def test_what_is_told_wrongly_is_refused() -> None:
    image, label = bright_boxes()
    with pytest.raises(ValueError, match="queries"):
        NES(0.1, queries=2)
    with pytest.raises(ValueError, match="radius"):
        NaturalEvolution(radius=0.0)
    with pytest.raises(ValueError, match="samples must be at least 4"):
        SAGM(3)
    with pytest.raises(ValueError, match="crossover"):
        SAGM(crossover=1.5)
    with pytest.raises(ValueError, match="at least 2 for each step but the last, 19 for steps=10, got 5"):
        Attack(AdditiveNoise(0.1), gradient=NaturalEvolution(queries=5), steps=10)(NumpyNetwork(), image, label)
    with pytest.raises(ValueError, match="lowest"):
        SelfAdaptiveMomentum(lowest=2.0)


def test_momentum_that_adapts_is_between_its_ends() -> None:
    """Opposing gradients weigh the velocity least, agreeing ones most: a closed form of the first two steps."""
    image = torch.rand((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    bound = AdditiveNoise(0.1).bind(Scene(image, (3, 4)))
    run = SelfAdaptiveMomentum(0.1, lowest=0.3, highest=1.0).begin(bound, 2)
    ones = torch.ones_like(image)
    run.advance(bound.zeros(), (ones,), torch.zeros(2), 0)
    second = torch.stack([ones[0], -ones[1]])
    run.advance(bound.zeros(), (second,), torch.zeros(2), 1)
    velocity = run.points["velocity"][0]
    torch.testing.assert_close(velocity[0], 2 * ones[0])  # 1.0 * 1 + 1
    torch.testing.assert_close(velocity[1], -0.7 * ones[1])  # 0.3 * 1 - 1
