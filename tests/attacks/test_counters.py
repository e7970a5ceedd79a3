# SPDX-License-Identifier: Apache-2.0
"""forwards, backwards and queries count what their names say, for every estimator: against hooks on the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import (
    PGD,
    AttackResult,
    BackwardPassSubstitute,
    ExpectationOverTransformation,
    GradientEstimator,
)
from monai_adversarial.attacks.gradients.base import Evaluation, ObjectiveFunction
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.purifiers.examples import Doubled

BATCH = 3
IMAGE, LABEL = random_image((BATCH, 1, 6, 6, 6)), random_label((BATCH, 1, 6, 6, 6))


class NaturalEvolution(GradientEstimator):
    """Antithetic differences along random directions: forward passes only (NES, Ilyas et al. 2018)."""

    def __init__(self, pairs: int = 4, sigma: float = 0.01) -> None:
        self.pairs, self.sigma = pairs, sigma

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            values, ranks, logits = function(parameters)
            total = [torch.zeros_like(parameter) for parameter in parameters]
            for _ in range(self.pairs):
                noise = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
                ends = [
                    function(tuple(p + sign * self.sigma * n for p, n in zip(parameters, noise, strict=True)))[0]
                    for sign in (1, -1)
                ]
                slope = ends[0] - ends[1]
                for part, direction in zip(total, noise, strict=True):
                    part += direction * slope.view(-1, *[1] * (direction.ndim - 1))
        return Evaluation(values, ranks, tuple(total), logits, 1 + 2 * self.pairs, 0)


def counted(network: nn.Module) -> dict[str, int]:
    """Samples that went forward and backward."""
    passes = {"forward": 0, "backward": 0}

    def forward(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        passes["forward"] += output.shape[0]

    def backward(module: nn.Module, inputs: Any, outputs: Any) -> None:
        passes["backward"] += outputs[0].shape[0]

    network.register_forward_hook(forward)
    network.register_full_backward_hook(backward)
    return passes


def assert_counts(attack: Any, inferer: Any = None) -> tuple[Any, dict[str, int]]:
    network = tiny_segmentation_network()
    passes = counted(network)
    result = attack(AttackedModel(network, inferer), IMAGE, LABEL)
    assert (result.forwards, result.backwards) == (passes["forward"], passes["backward"])
    assert result.queries == passes["forward"] - passes["backward"]
    return result, passes


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("pairs", [1, 4])
def test_an_estimator_without_backward_passes_has_only_queries(steps: int, restarts: int, pairs: int) -> None:
    attack = PGD(0.1, steps=steps, restarts=restarts, gradient=NaturalEvolution(pairs))
    result, passes = assert_counts(attack)
    # The clean image, and where each run ends: the last of them is scored in the same pass.
    expected = BATCH * (1 + restarts * (steps * (1 + 2 * pairs) + 1) + scored_again(result))
    assert (result.forwards, result.backwards, result.queries) == (expected, 0, expected)


def scored_again(result: AttackResult) -> int:
    """Whether an earlier point than the last was the best of some sample, and took a scoring pass of its own."""
    return int(not torch.equal(result.objective_history[-1], result.objective))


def test_it_learns_a_direction() -> None:
    network = tiny_segmentation_network()
    small: dict[str, Any] = {"step_size": 0.025, "objective": "dice_ce"}  # what a noisy direction is good for
    attack = PGD(0.1, steps=8, gradient=NaturalEvolution(8), random_start=False, **small)
    history = attack(network, IMAGE, LABEL).objective_history
    assert bool((history[-1] > history[0]).all())


@pytest.mark.parametrize("restarts", [1, 2])
def test_exact_gradients(restarts: int) -> None:
    result, _ = assert_counts(PGD(0.1, steps=4, restarts=restarts))
    assert (result.backwards, result.queries) == (BATCH * 4 * restarts, BATCH * (1 + restarts + scored_again(result)))


@pytest.mark.parametrize("inner", [None, BackwardPassSubstitute()])
def test_expectation_over_transformation(inner: Any) -> None:
    attack = PGD(0.1, steps=3, gradient=ExpectationOverTransformation(5, inner))
    result, _ = assert_counts(attack, PurifiedInferer(None, Doubled()))
    assert result.backwards == BATCH * 3 * 5
    # clean and scored once; every draw of the point where the run ends
    assert result.queries == BATCH * (2 + 5)


@pytest.mark.parametrize("substitute", ["declared", "identity", "exact"])
def test_backward_pass_substitute(substitute: str) -> None:
    attack = PGD(0.1, steps=3, gradient=BackwardPassSubstitute(substitute))
    result, _ = assert_counts(attack, PurifiedInferer(None, Doubled()))
    assert (result.backwards, result.queries) == (BATCH * 3, BATCH * (2 + scored_again(result)))


@pytest.mark.parametrize("gradient", [None, NaturalEvolution(2), ExpectationOverTransformation(2)])
def test_early_stop_counts_the_samples_that_still_run(gradient: Any) -> None:
    attack = PGD(0.2, steps=6, restarts=2, early_stop=True, success_threshold=0.9, gradient=gradient)
    result, passes = assert_counts(attack)
    full, _ = assert_counts(PGD(0.2, steps=6, restarts=2, gradient=gradient))
    assert result.forwards < full.forwards


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_counts_each_of_its_samples(samples: int) -> None:
    network = tiny_segmentation_network()
    passes = counted(network)
    result = PGD(0.1, steps=3)(network, IMAGE[:samples], LABEL[:samples])
    # Which point is the best depends on the arithmetic of the processor.
    scores = 2 + scored_again(result)
    assert (result.forwards, result.backwards) == ((3 + scores) * samples, 3 * samples)
    assert result.queries == scores * samples
    assert passes == {"forward": (3 + scores) * samples, "backward": 3 * samples}
