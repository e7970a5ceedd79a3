# SPDX-License-Identifier: Apache-2.0
"""The denoising autoencoder and the high-level guided denoiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.networks.denoising_unet import DenoisingUNet
from monai_adversarial.purifiers.autoencoder import AutoencoderDenoise, AutoencoderDenoised
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.high_level_guided import HighLevelGuidedDenoise, HighLevelGuidedDenoised
from tests.helpers import random_image
from tests.purifiers.learned_networks import WINDOW, small_network


class Shift(nn.Module):
    """Adds a constant, and remembers what it was given."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image.detach()
        return image + 0.01


@pytest.mark.parametrize("kind", [AutoencoderDenoise, HighLevelGuidedDenoise])
def test_result_is_what_the_network_returns(kind: type[AutoencoderDenoise]) -> None:
    network = small_network(kind).eval()
    image = random_image((1, 1, 9, 8, 7))
    with torch.no_grad():
        expected = network(image).clamp(0.0, 1.0)  # the window is not left
    out = kind(network=network, intensity=WINDOW, precision="float32").purify(image, ImageContext())
    torch.testing.assert_close(out, expected)


def test_any_image_to_image_network_will_do() -> None:
    image = torch.tensor([-1000.0, 40.0, 1000.0]).view(1, 1, 3)
    purifier: Any = AutoencoderDenoise(network=Shift())
    # air and metal, outside the window, stay as they are
    torch.testing.assert_close(purifier.purify(image, ImageContext()), image + torch.tensor([0.0, 4.0, 0.0]))
    (inner,) = purifier._copies.values()
    torch.testing.assert_close(inner.seen.flatten(), torch.tensor([0.0, 0.5, 1.0]))


def test_a_few_steps_of_training_take_noise_away() -> None:
    torch.manual_seed(0)
    network = DenoisingUNet(2, (8, 8), num_res_units=1).train()
    generator = torch.Generator().manual_seed(0)
    clean = torch.zeros(4, 1, 16, 16) + torch.linspace(0.3, 0.7, 16)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)

    def noisy() -> torch.Tensor:
        return clean + 0.025 * torch.randn(clean.shape, generator=generator)

    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(noisy()), clean).backward()
        optimizer.step()
    given = noisy()
    out = AutoencoderDenoise(network=network, intensity=WINDOW).purify(given, ImageContext())
    assert float((out - clean).std()) < 0.7 * float((given - clean).std())


def test_dictionary_forms_have_their_own_names() -> None:
    assert AutoencoderDenoised.__name__ == "AutoencoderDenoised"
    assert HighLevelGuidedDenoised.__name__ == "HighLevelGuidedDenoised"
    item = {"image": random_image((1, 8, 8, 8))}
    form: Any = HighLevelGuidedDenoised("image", network=small_network(HighLevelGuidedDenoise), intensity=WINDOW)
    assert form(item)["image"].shape == (1, 8, 8, 8)
