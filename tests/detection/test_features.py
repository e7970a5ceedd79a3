# SPDX-License-Identifier: Apache-2.0
"""Features are what they are said to be, window by window, with exact gradients."""

from __future__ import annotations

import math

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.detection import GaussianDensity, NetworkFeatures, OrganFeatures, RadialSpectrum
from monai_adversarial.detection.answers import predictor_of
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.layers import encoder_layers
from tests.detection.conftest import tiny_network


def test_encoder_stages_and_bottleneck_of_a_u_net(windowed, cases) -> None:
    layers = encoder_layers(predictor_of(windowed, cases[0], cases[0]), cases[0])
    sizes, hooks = {}, []
    for name in layers:
        layer = windowed.network.get_submodule(name)
        hooks.append(layer.register_forward_hook(lambda m, i, o, name=name: sizes.update({name: tuple(o.shape[1:])})))
    windowed.network(torch.zeros(1, 1, 16, 16, 16))
    assert [sizes[name] for name in layers] == [(4, 8, 8, 8), (8, 4, 4, 4)]


def test_features_are_means_and_deviations_of_the_windows(windowed) -> None:
    image = 100 * torch.randn(1, 1, 16, 16, 28, generator=torch.Generator().manual_seed(0))
    name = "model.0.conv"
    found = NetworkFeatures(windowed, [name])(image, image)
    kept = []
    hook = windowed.network.get_submodule(name).register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    scaled = ((image + 160) / 500).clamp(0, 1)
    with torch.no_grad():
        for start in (0, 12):
            windowed.network(scaled[..., start : start + 16])
    hook.remove()
    both = torch.cat(kept).double().transpose(0, 1).flatten(1)
    expected = torch.cat([both.mean(dim=1), both.std(dim=1, correction=0)])
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_gradient_through_windows_is_that_of_backpropagation_and_of_differences() -> None:
    network = tiny_network().double()
    image = torch.rand(2, 1, 16, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = AttackedModel(network, SlidingWindowInferer((16, 16, 16), 3, 0.5))
    features = NetworkFeatures(model, ["model.0.conv", "model.1.submodule.0.conv"])
    moving = image.clone().requires_grad_()
    found = features(moving, image)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((found * weights).sum(), moving)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    ahead, behind = (
        float((features(image + sign * step * direction, image) * weights).sum().detach()) for sign in (1, -1)
    )
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


def test_a_network_that_is_called_once_needs_no_windows(cases) -> None:
    whole = AttackedModel(tiny_network())
    one_window = AttackedModel(tiny_network(), SlidingWindowInferer((16, 16, 16), 1))
    image = torch.cat(cases[:2]) / 500
    assert torch.allclose(NetworkFeatures(whole)(image, image), NetworkFeatures(one_window)(image, image), atol=1e-6)


@pytest.mark.parametrize("kind", [NetworkFeatures, OrganFeatures])
def test_layers_that_are_not_there_are_refused_at_once_with_near_names(kind, windowed) -> None:
    with pytest.raises(ValueError, match=r"layers must be names .* got 'model.0.conw': did you mean 'model.0.conv'"):
        kind(windowed, ["model.0.conv", "model.0.conw"])
    with pytest.raises(ValueError, match="got 'encoder': did you mean 'model' or 'model.0'"):
        GaussianDensity(windowed, layers=["encoder"])


def test_layers_of_networks_that_are_known_late_are_refused_on_the_first_image(windowed, cases) -> None:
    class Served:
        """Finds its network when it is asked."""

        def __call__(self, image):
            return windowed.network(image)

    features = NetworkFeatures(AttackedModel(Served()), ["encoder"])
    with pytest.raises(ValueError, match="got 'encoder': did you mean another network, this one has none"):
        features(cases[0], cases[0])


def test_a_wave_is_in_its_band() -> None:
    place = torch.arange(32) * 2 * math.pi
    image = torch.cos(place * 5 / 32).view(1, 1, 32, 1, 1).expand(1, 1, 32, 32, 32)  # 0.156 cycles per voxel
    found = RadialSpectrum(8)(image.float(), image)
    assert int(found[0].argmax()) == math.floor(5 / 32 * 16)
    assert float(found[0].sort().values[-2]) < float(found[0].max()) - 10
    with pytest.raises(ValueError, match="bands must be fewer than 40"):
        RadialSpectrum(40)(torch.rand(1, 1, 8, 8, 8), image)
