# SPDX-License-Identifier: Apache-2.0
"""Attacks by queries on what cannot be differentiated: in float32, with every pass counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import AdditiveNoise, Attack, ElasticDeformation, HardDice, RandomSearch, SquareAttack
from monai_adversarial.models import AttackedModel
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_numpy_inside_is_called_in_float32(precision: str, probabilities: bool) -> None:
    network = NumpyNetwork(probabilities)
    model = AttackedModel(network, precision=precision, scoring_precision=precision)
    result = SquareAttack(0.1, queries=20)(model, *bright_boxes())
    assert bool((result.adversarial_dice < result.clean_dice - 0.05).all())
    assert (result.forwards, result.queries, result.backwards) == (2 * 22, 2 * 22, 0)
    assert network.calls == result.forwards


def test_images_in_float64_become_float32_for_another_runtime() -> None:
    image, label = bright_boxes()
    result = SquareAttack(0.1, queries=5)(NumpyNetwork(), image.double(), label)
    assert result.adversarial.dtype == torch.float64


def test_images_as_numpy_arrays_and_sliding_windows() -> None:
    image, label = bright_boxes()
    network = NumpyNetwork()
    model = AttackedModel(network, SlidingWindowInferer((8, 8, 8), sw_batch_size=2, overlap=0.5))
    result = SquareAttack(0.1, queries=10)(model, image.numpy(), label.numpy())
    assert isinstance(result.adversarial, np.ndarray)
    assert result.forwards == 2 * 12
    windows = 2**3
    assert network.calls == windows * result.forwards
    assert bool((result.adversarial_dice < result.clean_dice).all())


def test_a_torch_network_is_asked_in_the_scoring_precision() -> None:
    seen = []

    class Noting(SmoothThreshold):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer = super().forward(image)
            seen.append(self.mean(image).dtype)
            return answer

    model = AttackedModel(Noting(), precision="bfloat16")
    SquareAttack(0.1, queries=3)(model, *bright_boxes())
    assert set(seen) == {torch.float32}


def test_training_by_queries_ends_at_the_best_point_without_bfloat16() -> None:
    image, label = bright_boxes()
    attack = SquareAttack(0.1, queries=10)
    made = attack.perturb(AttackedModel(NumpyNetwork(), precision="bfloat16"), image, label)
    scored = attack(AttackedModel(NumpyNetwork()), image, label)
    assert torch.equal(made.adversarial, scored.adversarial)


def test_geometric_perturbations_are_searched_with_hard_labels() -> None:
    image, label = bright_boxes(size=16)
    deformation = ElasticDeformation(3.0, control_spacing=6.0)
    result = Attack(deformation, HardDice(), RandomSearch(), steps=6)(NumpyNetwork(), image, label, spacing=1.0)
    assert not torch.equal(result.label, label)
    # Each query was compared with the label that had moved along by nearest neighbor, as the outcome is scored.
    torch.testing.assert_close(1 - result.objective, result.adversarial_dice)
    assert len(result.objective_history.unique()) > 6


def test_what_is_asked_about_is_what_is_handed_back() -> None:
    image, label = bright_boxes()
    hounsfield = (image * 1000).round()
    model = AttackedModel(
        NumpyNetwork(),
        intensity={"a_min": 0.0, "a_max": 1000.0, "b_min": 0.0, "b_max": 1.0},
        image_units="HU",
        round_to_integer=True,
    )
    result = Attack(AdditiveNoise(60.5, units="HU"), search=RandomSearch(), steps=4)(model, hounsfield, label)
    assert torch.equal(result.adversarial, result.adversarial.round())
    # The best of the queries is the outcome, to the bit: rounding came before the question.
    assert torch.equal(result.objective, result.objective_history.amax(dim=0))
    assert torch.equal(result.objective_history[-1], result.objective)
