# SPDX-License-Identifier: Apache-2.0
"""Other libraries are given the network, the budget and the score that ours have."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from benchmarks.equal_cost_attacks import DISPLAY, FIELD, VOXELS, WARP, Contestant
from benchmarks.equal_cost_libraries import Job, library_contestants
from benchmarks.peers import PEERS
from benchmarks.peers.behind_window import BehindWindow
from benchmarks.spleen_surrogate import SpleenOfAbdomen
from benchmarks.strength import mean_dice
from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel


class Threshold(nn.Module):
    """Two classes of HU."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([50 - image, image - 50], dim=1) / 10


def _hu() -> tuple[AttackedModel, tuple[torch.Tensor, None]]:
    image = torch.linspace(-1000, 400, 512).view(1, 1, 8, 8, 8)
    return AttackedModel(Threshold(), image_units="HU"), (MetaTensor(image, affine=torch.eye(4)), None)


def test_a_scaled_network_answers_as_the_network_and_does_not_see_what_its_window_clips() -> None:
    image = torch.linspace(-0.2, 1.2, 64).view(1, 1, 4, 4, 4)
    network = nn.Identity()
    scaled = BehindWindow(network, image, 0.0, 1.0)
    clipped = (image <= 0) | (image >= 1)
    assert torch.allclose(scaled(scaled.clean), image)
    assert torch.equal(scaled(scaled.clean + 0.1)[clipped], image[clipped])
    assert torch.allclose(scaled(scaled.clean + 0.1)[~clipped], image[~clipped] + 0.1)


def test_a_radius_in_hu_is_one_in_the_values_that_a_library_sees() -> None:
    model, case = _hu()
    job = Job(model, case, 4.0, VOXELS)
    moved = job.network.seen(job.network.clean + job.epsilon) - job.network.seen(job.network.clean)
    assert float(moved.min()) == pytest.approx(4.0, abs=1e-2) and float(moved.max()) == pytest.approx(4.0, abs=1e-2)
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
    shown = AttackedModel(Threshold(), intensity=window, image_units="network")
    assert Job(shown, (torch.rand(1, 1, 4, 4, 4), None), 4.0, VOXELS).epsilon == pytest.approx(4 / 400)


def test_fields_of_a_network_without_a_window_have_the_one_in_which_it_is_shown() -> None:
    model, case = _hu()
    job = Job(model, case, 4.0, FIELD)
    assert (job.network.low, job.network.high) == DISPLAY
    assert job.between(64.0) == [64, 64, 64] and Job(model, case, 4.0, WARP).spacing == [1.0, 1.0, 1.0]


def test_the_score_is_that_of_our_attacks() -> None:
    model, image, label = example_case(16)
    result = PGD(8, "HU", steps=2)(model, image, label)
    job = Job(model, (image, label), 8.0, VOXELS)
    assert job.clean_dice == pytest.approx(float(result.clean_dice), abs=1e-6)
    assert model.intensity is not None and model.image_units == "HU"
    shown = model.intensity(torch.as_tensor(result.adversarial))
    assert mean_dice(model.network, shown, job.label) == pytest.approx(float(result.adversarial_dice), abs=1e-6)
    without = Job(model, (image, None), 8.0, VOXELS)
    assert without.clean_dice == 1.0  # its own prediction stands in for the label


def test_every_library_is_an_attack_or_a_line_and_keeps_its_budget() -> None:
    made, absent = library_contestants()
    missing = [peer.name for peer in PEERS if not peer.installed()]
    assert all(any(line.startswith(name) for line in absent) for name in missing)
    model, image, label = example_case(16)
    for one in made:
        assert isinstance(one, Contestant) and not one.ours
        clean, dice = one.run(model, (image, label), 8.0, 2, 0)
        assert dice <= clean + 0.05, one.name


def test_the_spleen_of_several_organs_is_one_against_all_others() -> None:
    logits = torch.randn(1, 5, 4, 4, 4)
    two = SpleenOfAbdomen(nn.Identity(), 2, (0.0, 1.0))(logits)
    assert torch.allclose(two.softmax(1)[:, 1], logits.softmax(1)[:, 2], atol=1e-6)
    seen: list[torch.Tensor] = []
    network = SpleenOfAbdomen(nn.Conv3d(1, 3, 1), 1, (-57.0, 164.0))
    network.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1))
    assert seen[0].flatten().tolist() == [-57.0, 164.0]
