# SPDX-License-Identifier: Apache-2.0
"""Searches by values alone, with random numbers of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import AdditiveNoise, Attack, BoundPerturbation, Search, SearchRun
from monai_adversarial.attacks.perturbations.base import Parameters


class RandomSearch(Search):
    """Keeps the best and tries a random point of the budget in each step."""

    uses_gradients = False

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        return RandomSearchRun(bound, steps)


class RandomSearchRun(SearchRun):
    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        self.best(parameters, values)
        return self.bound.random(self.generators)


class Steps(nn.Module):
    """Has no gradient: values are rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value = (image * self.scale).round() - 1.5
        return torch.cat([-value, value], dim=1).detach()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return image, (image > 0.4).long()


def attack(**options: object) -> Attack:
    return Attack(AdditiveNoise(0.1), search=RandomSearch(), steps=12, **options)  # type: ignore[arg-type]


def test_a_network_without_gradients_is_searched_by_queries(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch
    result = attack()(Steps(), image, label)
    assert (result.backwards, result.queries, result.forwards) == (0, 3 * 15, 3 * 15)
    assert bool((result.adversarial_dice < result.clean_dice).all())
    # The best of what was tried, the start included.
    assert torch.equal(result.objective, result.objective_history.amax(dim=0))
    assert result.objective_history.shape == (13, 3)
    assert bool(result.zero_gradient_fraction.isnan().all())


def test_samples_draw_the_same_whatever_the_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch
    together = attack()(Steps(), image, label).adversarial
    for row in range(3):
        alone = attack()(Steps(), image[row : row + 1], label[row : row + 1]).adversarial
        assert torch.equal(alone[0], together[row])
    reverse = attack()(Steps(), image.flip(0), label.flip(0)).adversarial
    assert torch.equal(reverse.flip(0), together)


def test_samples_draw_the_same_with_early_stop(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch
    # Solved samples leave the run at different steps: the others go on with their own random numbers.
    eager = attack(early_stop=True, success_threshold=0.9)
    together = eager(Steps(), image, label).adversarial
    for row in range(3):
        alone = eager(Steps(), image[row : row + 1], label[row : row + 1]).adversarial
        assert torch.equal(alone[0], together[row])


def test_restarts_draw_other_points(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch
    history = attack(restarts=2)(Steps(), image, label).objective_history
    assert history.shape == (26, 3) and not torch.equal(history[:13], history[13:])


def test_training_can_use_it(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch
    made = attack(random_start=False).perturb(Steps(), image, label, stream=3)
    again = attack(random_start=False).perturb(Steps(), image, label, stream=3)
    other = attack(random_start=False).perturb(Steps(), image, label, stream=4)
    assert torch.equal(made.adversarial, again.adversarial) and not torch.equal(made.adversarial, other.adversarial)
