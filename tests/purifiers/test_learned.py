# SPDX-License-Identifier: Apache-2.0
"""What all learned purifiers have in common."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.purifiers.autoencoder import AutoencoderDenoise
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.diffusion import DiffusionPurification
from monai_adversarial.purifiers.learned import LearnedPurifier
from tests.helpers import random_image
from tests.purifiers.learned_networks import LEARNED_PURIFIERS, WINDOW, make, small_network

CONTEXT = ImageContext(None, (1,))
BOTH = ImageContext(None, (1, 2))
every = pytest.mark.parametrize("kind", LEARNED_PURIFIERS)


@every
@pytest.mark.parametrize("sizes", [(9, 11, 8), (10, 13)])
def test_gradient_is_exact(kind: type[LearnedPurifier], sizes: tuple[int, ...]) -> None:
    purifier = make(kind, len(sizes))
    image = (random_image((1, 1, *sizes), dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    direction = random_image(tuple(image.shape), seed=1, dtype=torch.float64) - 0.5
    weights = random_image(tuple(image.shape), seed=2, dtype=torch.float64)

    def value(step: float) -> torch.Tensor:
        return (purifier.apply(image.detach() + step * direction, CONTEXT) * weights).sum()

    gradient = torch.autograd.grad((purifier.apply(image, CONTEXT) * weights).sum(), image)[0]
    numerical = (value(1e-6) - value(-1e-6)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(numerical), rel=1e-5)
    assert purifier.gradient == "exact"


@every
def test_gradcheck(kind: type[LearnedPurifier]) -> None:
    purifier = make(kind, 2)
    image = (random_image((1, 1, 4, 6), dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, CONTEXT), image)


@every
def test_channels_and_samples_are_independent(kind: type[LearnedPurifier]) -> None:
    purifier, image = make(kind), random_image((2, 2, 8, 8, 8))
    together = purifier.purify(image, BOTH)
    for sample in range(2):
        alone = purifier.purify(image[sample : sample + 1], BOTH.select([sample]))
        torch.testing.assert_close(alone[0], together[sample], rtol=1e-4, atol=1e-5)
    swapped = image.clone()
    swapped[:, 1] = random_image((2, 8, 8, 8), seed=9)
    torch.testing.assert_close(purifier.purify(swapped, BOTH)[:, 0], together[:, 0], rtol=1e-4, atol=1e-5)


@every
def test_images_in_hu_are_treated_like_images_in_network_values(kind: type[LearnedPurifier]) -> None:
    values = random_image((1, 1, 8, 8, 8)) * 0.9 + 0.05
    expected = make(kind).purify(values, CONTEXT)
    in_hu = make(kind, intensity=None).purify(values * 400 - 160, CONTEXT)
    torch.testing.assert_close((in_hu + 160) / 400, expected, rtol=1e-4, atol=1e-5)
    signed = make(kind, intensity={**WINDOW, "b_min": -1.0, "b_max": 1.0}).purify(values * 2 - 1, CONTEXT)
    torch.testing.assert_close((signed + 1) / 2, expected, rtol=1e-4, atol=1e-5)


def air_tissue_metal(shape: tuple[int, ...] = (1, 1, 8, 8, 8), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """HU: tissue within the default window of -160 to 240, air and metal in outer slabs."""
    image = random_image(shape, dtype=dtype) * 380 - 150
    image[..., :2] = -1000 + 300 * random_image((*shape[:-1], 2), seed=3, dtype=dtype)
    image[..., -2:] = 300 + 2000 * random_image((*shape[:-1], 2), seed=4, dtype=dtype)
    return image


@every
def test_voxels_outside_the_window_keep_their_value_and_those_within_stay_within(kind: type[LearnedPurifier]) -> None:
    image = air_tissue_metal()
    outside = (image < -160) | (image > 240)
    purifier = make(kind, intensity=None)
    out = purifier.purify(image, CONTEXT)
    assert 0.3 < float(outside.float().mean()) < 0.7
    assert torch.equal(out[outside], image[outside])
    assert float((out - image)[~outside].abs().mean()) > 0.1
    assert -160 <= float(out[~outside].min()) and float(out[~outside].max()) <= 240
    # How far outside does not matter to what is within.
    nearer = torch.where(outside, 40 + (image.clamp(-170, 250) - 40) * 1.01, image)
    assert torch.equal(purifier.purify(nearer, CONTEXT)[~outside], out[~outside])


class Overshooting(nn.Module):
    """Stretches the values about the middle of the window, far over its edges."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        return (x - 0.5) * 30 if timesteps is None else -100 * (x - 0.5)


@every
@pytest.mark.parametrize(
    ("intensity", "low", "high"),
    [(None, -160.0, 240.0), (WINDOW, 0.0, 1.0), ({**WINDOW, "b_min": -1.0, "b_max": 1.0}, -1.0, 1.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_network_leaves_the_range_of_the_window(
    kind: type[LearnedPurifier], intensity: Any, low: float, high: float, dtype: torch.dtype
) -> None:
    image = low + (high - low) * random_image((1, 1, 8, 8, 8), dtype=dtype)
    for strength in (1.0, 0.7):
        purifier = kind(network=Overshooting(), intensity=intensity, strength=strength, precision="float32")
        out = purifier.purify(image, CONTEXT)
        assert low <= float(out.min()) and float(out.max()) <= high
        assert float((out - image).abs().mean()) > 0.1 * (high - low)
        if strength == 1.0:  # the network's values -7 and 8 are clipped
            assert float(out.min()) == pytest.approx(low, abs=1e-4) and float(out.max()) == pytest.approx(high)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_edges_belong_to_the_window(kind: type[LearnedPurifier], dtype: torch.dtype) -> None:
    """Images that were clipped to the window are purified everywhere, whatever rounding does to its edges."""
    for intensity, low, high in (
        (None, -160, 240),
        (WINDOW, 0, 1),
        ({**WINDOW, "b_min": -0.3, "b_max": 0.7}, -0.3, 0.7),
    ):
        image = torch.full((1, 1, 8, 8, 8), low, dtype=dtype)
        image[..., 4:] = high
        network = Inverted(kind is DiffusionPurification)
        out = kind(network=network, intensity=intensity, precision="float32").purify(image, CONTEXT)
        assert float((out - image).abs().min()) > 0.1 * (high - low)


class Inverted(nn.Module):
    """White for black; as a denoiser, the noise that would leave it."""

    def __init__(self, diffusion: bool) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        return (x - 0.5) * 100 if self.diffusion else 1 - x


@every
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_gradcheck_across_the_window(kind: type[LearnedPurifier], strength: float) -> None:
    purifier = make(kind, 2, intensity=None, window=(-160.0, 240.0), strength=strength)
    image = air_tissue_metal((1, 1, 4, 8), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, CONTEXT), image, eps=1e-4, atol=1e-6)
    outside = (image < -160) | (image > 240)
    (gradient,) = torch.autograd.grad(purifier.purify(image, CONTEXT)[outside].sum(), image)
    assert torch.equal(gradient, outside.double())


@every
def test_strength_mixes_image_and_purified_image(kind: type[LearnedPurifier]) -> None:
    image = random_image((1, 1, 8, 8, 8)) * 0.9 + 0.05
    full, half, none = (make(kind, strength=s).purify(image, CONTEXT) for s in (1.0, 0.5, 0.0))
    assert float((full - image).abs().mean()) > 1e-4
    torch.testing.assert_close(half, (image + full) / 2)
    assert torch.equal(none, image)


@every
def test_the_network_is_a_frozen_copy(kind: type[LearnedPurifier]) -> None:
    network = small_network(kind).train()
    purifier = kind(network=network, intensity=WINDOW)
    image = random_image((1, 1, 8, 8, 8))
    before = purifier.purify(image, CONTEXT)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(purifier.purify(image, CONTEXT), before)
    for inner in (purifier._network, *purifier._copies.values()):
        assert not inner.training and not any(parameter.requires_grad for parameter in inner.parameters())


@every
def test_fast_arithmetic_stays_within_a_hounsfield_unit(kind: type[LearnedPurifier]) -> None:
    image = random_image((1, 1, 16, 16, 16)) * 0.1 + 0.45
    exact = make(kind, precision="float32").purify(image, CONTEXT)
    for precision in ("auto", "bfloat16"):
        fast = make(kind, precision=precision).purify(image, CONTEXT)
        assert fast.dtype == torch.float32
        assert float((fast - exact).abs().mean()) * 400 < 1.0


@every
def test_copies_and_pickles_purify_alike(kind: type[LearnedPurifier]) -> None:
    purifier, image = make(kind), random_image((1, 1, 8, 8, 8))
    expected = purifier.purify(image, CONTEXT)
    assert torch.equal(copy.deepcopy(purifier).purify(image, CONTEXT), expected)
    assert torch.equal(pickle.loads(pickle.dumps(purifier)).purify(image, CONTEXT), expected)
    assert len(repr(purifier)) < 400  # without the network


@every
def test_weights_from_a_file(kind: type[LearnedPurifier], tmp_path: Path) -> None:
    network, image = small_network(kind), random_image((1, 1, 8, 8, 8))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    fresh = small_network(kind)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    loaded = kind(tmp_path / "weights.pt", network=fresh, intensity=WINDOW, precision="float32")
    assert torch.equal(loaded.purify(image, CONTEXT), make(kind).purify(image, CONTEXT))
    assert all(bool((parameter == 0).all()) for parameter in fresh.parameters())


@every
def test_bad_arguments_are_one_sentence(kind: type[LearnedPurifier], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs weights=PATH of a trained network"):
        kind()
    with pytest.raises(FileNotFoundError, match="there are no weights at .*none.pt: train the network first"):
        kind(tmp_path / "none.pt")
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeError, match="cannot read .*other.pt as a checkpoint"):
        kind(tmp_path / "other.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match="belong to another network"):
        kind(tmp_path / "other.pt")
    with pytest.raises(TypeError, match="network must be a torch.nn.Module, got str"):
        kind(network="unet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength must be a number from 0 to 1, got 2"):
        make(kind, strength=2)
    with pytest.raises(ValueError, match="precision must be one of"):
        make(kind, precision="int8")
    with pytest.raises(ValueError, match=r"window must be finite and go from low to high \(HU\), got \(240, -160\)"):
        make(kind, window=(240, -160))
    for window in (None, (1, 2, 3, 4, 5), "abc", 400):
        with pytest.raises(ValueError, match=r"window must be two numbers \(low, high\) in HU, got "):
            make(kind, window=window)
    for weights in (0, [], True):
        with pytest.raises(TypeError, match="weights must be the path of a checkpoint, got ") as caught:
            kind(weights)  # type: ignore[arg-type]
        assert str(caught.value).endswith(f"got {weights!r}.")
    with pytest.raises(ValueError, match="has a network for 3 spatial dimensions, got an image with 2"):
        make(kind).purify(random_image((1, 1, 8, 8)), CONTEXT)


def test_a_network_of_another_dimension_is_one_sentence() -> None:
    """MONAI's networks say how many dimensions they are for, under two names."""
    for network in (UNet(2, 1, 1, (2, 4), (2,)), small_network(AutoencoderDenoise, 2)):
        with pytest.raises(ValueError, match="AutoencoderDenoise has a network for 2 spatial dimensions, got an image"):
            AutoencoderDenoise(network=network).purify(random_image((1, 1, 8, 8, 8)), CONTEXT)
    AutoencoderDenoise(network=UNet(2, 1, 1, (2, 4), (2,))).purify(random_image((1, 1, 8, 8)), CONTEXT)
