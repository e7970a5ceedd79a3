# SPDX-License-Identifier: Apache-2.0
"""Landscapes hold the loss of the images that they say, and their flags tell masked gradients from others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack, LossLandscape, loss_landscape
from monai_adversarial.attacks.flags import PAGE
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image


class Steep(nn.Module):
    """Two classes whose logits are linear in the voxel."""

    def __init__(self, rounded: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.rounded = rounded

    def forward(self, image):
        seen = image + (torch.round(image * 4) / 4 - image).detach() if self.rounded else image
        return torch.cat([-self.scale * (seen - 0.5), self.scale * (seen - 0.5)], dim=1)


def attacked(network: nn.Module, epsilon: float = 0.2, batch: int = 2):
    image = random_image((batch, 1, 6, 6, 6))
    model = AttackedModel(network, output_values="logits", precision="float32")
    return PGD(epsilon, steps=4)(model, image, (image > 0.5).long())


def test_values_are_the_loss_on_the_plane() -> None:
    network = Steep()
    result = attacked(network)
    found = loss_landscape(result, points=5, reach=2.0)
    change = result.adversarial - result.image
    label = result.label[:, 0].long()
    assert found.steps.tolist() == [-2, -1, 0, 1, 2]
    with torch.no_grad():
        for place, step in enumerate(found.steps.tolist()):
            losses = nn.functional.cross_entropy(network(result.image + step * change), label, reduction="none")
            torch.testing.assert_close(found.values[:, 2, place].float(), losses.flatten(1).mean(dim=1))
    assert bool((found.rise > found.random_rise).all()) and found.flags == []
    assert torch.equal(found.center, found.values[:, 2, 2])
    largest = found.values.flatten(1).amax(dim=1)
    torch.testing.assert_close(found.sharpness, (largest - found.center) / (1 + found.center))


def test_a_sample_has_the_same_landscape_in_every_batch() -> None:
    result = attacked(Steep())
    both = loss_landscape(result, points=5)
    alone = replace(
        result,
        image=result.image[1:],
        adversarial=result.adversarial[1:],
        clean_label=result.clean_label[1:],
        label=result.label[1:],
    )
    torch.testing.assert_close(loss_landscape(alone, points=5).values[0], both.values[1])
    assert not torch.equal(loss_landscape(result, points=5, seed=1).values, both.values)


def test_an_attack_that_is_worse_than_chance_is_flagged() -> None:
    result = attacked(Steep())
    weak = replace(result, adversarial=2 * result.image - result.adversarial)  # away from the worst
    (flag,) = loss_landscape(weak, points=5).flags
    assert flag.name == "random_direction" and "in 2 of 2 samples" in flag.text
    assert flag.page == f"{PAGE}#random-direction"


def test_plateaus_and_jagged_ways_are_flagged() -> None:
    steps = torch.linspace(-1, 1, 9, dtype=torch.float64)
    flat = (10 * (steps - 0.6)).sigmoid().expand(1, 9, 9) ** 4
    assert [flag.name for flag in LossLandscape(flat, steps, "dice").flags] == ["plateau"]
    fine = torch.linspace(-1, 1, 41, dtype=torch.float64)
    convex = fine.clamp(min=0).square().expand(1, 41, 41)  # as of many networks: a sixteenth at a quarter of the way
    assert LossLandscape(convex, fine, "dice").flags == []
    waves = (1 + steps + (torch.arange(9) % 2)).expand(1, 9, 9)
    assert "jagged_way" in [flag.name for flag in LossLandscape(waves, steps, "dice").flags]
    straight = (1 + steps).expand(1, 9, 9)
    assert LossLandscape(straight, steps, "dice").flags == []


def test_rounding_in_front_of_the_network_shows_as_a_plateau() -> None:
    network = Steep(rounded=True)
    image = torch.full((1, 1, 6, 6, 6), 0.52)
    image[..., :3] = 0.27
    model = AttackedModel(network, output_values="logits", precision="float32")
    result = PGD(0.2, steps=4)(model, image, (image > 0.5).long())
    assert "plateau" in [flag.name for flag in loss_landscape(result).flags]
    network.rounded = False
    assert loss_landscape(result).flags == []


def test_the_picture_is_written(tmp_path) -> None:
    found = loss_landscape(PGD(8, units="HU", steps=3)(*example_case(16)), points=5)
    found.save(tmp_path / "landscape.png")
    assert (tmp_path / "landscape.png").read_bytes()[:4] == b"\x89PNG"
    plane, lines = found.figure().axes[:2]
    assert lines.lines[0].get_ydata().tolist() == found.values[0, 2].tolist()
    assert lines.lines[1].get_ydata().tolist() == found.values[0, :, 2].tolist()


def test_what_has_no_plane_is_refused() -> None:
    result = attacked(Steep())
    with pytest.raises(ValueError, match="points must be odd"):
        loss_landscape(result, points=6)
    with pytest.raises(ValueError, match="reach must be at least 1"):
        loss_landscape(result, reach=0.5)
    with pytest.raises(ValueError, match="leave the anatomy where it is"):
        loss_landscape(ElasticAttack(6.0, steps=1)(*example_case(16)))
    with pytest.raises(ValueError, match="changed every image"):
        loss_landscape(replace(result, adversarial=result.image.clone()))
    with pytest.raises(TypeError, match="result must be an AttackResult"):
        loss_landscape(result.adversarial)
