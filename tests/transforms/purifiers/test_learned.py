# SPDX-License-Identifier: Apache-2.0
"""What all learned purifiers have in common."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from monai_adversarial.transforms.purifiers.context import ImageContext
from monai_adversarial.transforms.purifiers.learned import LearnedPurifier
from tests.transforms.purifiers.learned_networks import LEARNED_PURIFIERS, WINDOW, make, small_network
from tests.utils import random_image

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


@every
def test_what_is_outside_the_window_keeps_its_distance_from_it(kind: type[LearnedPurifier]) -> None:
    image = torch.full((1, 1, 8, 8, 8), 40.0)
    image[..., 4:] = 1500.0
    purifier = make(kind, intensity=None)
    clipped = purifier.purify(image.clamp(max=240.0), CONTEXT)
    torch.testing.assert_close(purifier.purify(image, CONTEXT)[..., 4:], clipped[..., 4:] + 1260.0)
    torch.testing.assert_close(purifier.purify(image, CONTEXT)[..., :4], clipped[..., :4])


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
    with pytest.raises(ValueError, match="a_max > a_min"):
        make(kind, window=(240, -160))
    with pytest.raises(ValueError, match="has a network for 3 spatial dimensions, got an image with 2"):
        make(kind).purify(random_image((1, 1, 8, 8)), CONTEXT)
