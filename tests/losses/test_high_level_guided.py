# SPDX-License-Identifier: Apache-2.0
"""The loss of the high-level guided denoiser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.losses import HighLevelGuidedLoss
from tests.helpers import LinearNetwork, random_image, tiny_segmentation_network


def test_it_is_zero_for_the_clean_image_and_positive_for_another() -> None:
    loss = HighLevelGuidedLoss(tiny_segmentation_network())
    clean = random_image((2, 1, 8, 8, 8))
    assert float(loss(clean, clean)) == 0.0
    assert float(loss(clean + 0.02, clean)) > 0.0


def test_value_against_the_closed_form_of_a_linear_network() -> None:
    # logits -x and 3x: |difference| / |logits| is the same for both, 0.02 / 0.5; pixels add 0.1 * 0.02 / 0.01
    loss = HighLevelGuidedLoss(LinearNetwork((-1.0, 3.0)), pixel_weight=0.1, precision="float32")
    clean = torch.full((1, 1, 4, 4, 4), 0.5)
    assert float(loss(clean + 0.02, clean)) == pytest.approx(0.02 / 0.5 + 0.1 * 2.0, rel=1e-5)
    loss = HighLevelGuidedLoss(LinearNetwork((-1.0, 3.0)), pixel_weight=0, precision="float32")
    assert float(loss(clean + 0.02, clean)) == pytest.approx(0.02 / 0.5, rel=1e-5)


def test_gradients_reach_the_denoised_image_and_not_the_network() -> None:
    network = tiny_segmentation_network().train()
    before = [value.clone() for value in network.state_dict().values()]
    loss = HighLevelGuidedLoss(network, pixel_weight=0)
    assert not loss.train().network.training
    clean = random_image((1, 1, 8, 8, 8))
    denoised = (clean + 0.05).requires_grad_()
    loss(denoised, clean).backward()
    assert denoised.grad is not None and float(denoised.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_metatensors_are_taken_and_weights_loaded(tmp_path: Path) -> None:
    trained = tiny_segmentation_network(seed=1)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    loss = HighLevelGuidedLoss(tiny_segmentation_network(seed=2), tmp_path / "model.pt")
    clean, other = random_image(seed=0), random_image(seed=1)
    expected = HighLevelGuidedLoss(trained)(other, clean)
    assert torch.equal(loss(MetaTensor(other), MetaTensor(clean)), expected)


def test_bad_arguments_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixel_weight must be a finite number >= 0, got -1"):
        HighLevelGuidedLoss(tiny_segmentation_network(), pixel_weight=-1)
    with pytest.raises(FileNotFoundError, match="there are no weights at"):
        HighLevelGuidedLoss(tiny_segmentation_network(), tmp_path / "none.pt")
