# SPDX-License-Identifier: Apache-2.0
"""The trainer and the evaluator of the documentation's examples do what the examples rely on."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.data.example import ExampleNetwork
from monai_adversarial.data.example_engines import example_evaluator, example_trainer
from monai_adversarial.models import AttackedModel


def test_the_trainer_trains_the_network_once_on_a_windowed_image() -> None:
    network = ExampleNetwork()
    before = network.centers.detach().clone()
    trainer = example_trainer(network=network)
    trainer.run()
    assert trainer.state.iteration == 1 and not torch.equal(network.centers, before)
    image = trainer.state.output["image"]
    assert 0 <= float(image.min()) and float(image.max()) <= 1


@pytest.mark.parametrize("make", [example_trainer, example_evaluator])
def test_attacks_read_the_window_from_the_engine(make) -> None:
    model = AttackedModel.from_engine(make())
    assert model.intensity_for(torch.rand(1, 1, 16, 16, 16)).window == pytest.approx((-160.0, 340.0))


def test_a_size_below_16_is_an_error() -> None:
    with pytest.raises(ValueError, match="size must be an integer >= 16"):
        example_trainer(size=8)
