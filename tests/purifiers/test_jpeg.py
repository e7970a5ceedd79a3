# SPDX-License-Identifier: Apache-2.0
"""JPEG against Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.jpeg import JPEGCompression, RandJPEGCompression
from monai_adversarial.utils.draws import random_draw
from tests.helpers import random_image

CONTEXT = ImageContext()


def scan_like(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Smooth structures, an edge and noise, in gray levels 0 to 255 (float64 whole numbers)."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.meshgrid([torch.linspace(0, 4, n, dtype=torch.float64) for n in shape], indexing="ij")
    image = 120 + sum(40 * torch.sin(axis * (k + 1)) for k, axis in enumerate(grid))
    image = torch.where(grid[-1] > 3, image + 60, image)
    return (image + 6 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 255).round()


def pillow(gray: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(gray.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(np.float64)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("shape", [(64, 48), (61, 43)])
def test_equals_pillow(quality, shape):
    gray = scan_like(shape)
    purifier, theirs = JPEGCompression(quality, window=(0, 255)), pillow(gray.numpy(), quality)
    assert np.array_equal(purifier.purify(gray[None, None], CONTEXT)[0, 0].numpy(), theirs)
    single = purifier.purify(gray[None, None].float(), CONTEXT)[0, 0].numpy()
    assert (single != theirs).mean() < 1e-3
    assert np.abs(theirs - gray.numpy()).mean() > 0.5


@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
def test_slices_of_volumes_are_coded_one_by_one(axis):
    gray = scan_like((20, 17, 12))
    ours = JPEGCompression(75, window=(0, 255), slice_axis=axis).purify(gray[None, None], CONTEXT)[0, 0]
    for index in range(gray.shape[axis]):
        assert np.array_equal(ours.select(axis, index).numpy(), pillow(gray.select(axis, index).numpy(), 75))


def test_a_gray_level_is_a_part_of_the_window():
    gray = scan_like((32, 32))
    expected = JPEGCompression(75, window=(0, 255)).purify(gray[None, None], CONTEXT) * (500 / 255) - 200
    ours = JPEGCompression(75).purify(gray[None, None] * (500 / 255) - 200, CONTEXT)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_voxels_outside_the_window_stay():
    image = random_image((1, 1, 16, 16)) * 100
    image[..., :5] = -1000
    assert torch.equal(JPEGCompression().purify(image, CONTEXT)[..., :5], image[..., :5])


def test_samples_and_channels_do_not_mix():
    image = torch.stack([scan_like((20, 17, 12), seed) for seed in range(4)]).reshape(2, 2, 20, 17, 12).float()
    purifier = JPEGCompression(75)
    together = purifier.purify(image, CONTEXT)
    for sample in range(2):
        for channel in range(2):
            part = (slice(sample, sample + 1), slice(channel, channel + 1))
            assert torch.allclose(together[part], purifier.purify(image[part], CONTEXT), atol=1e-3)


def test_the_surrogate_is_close_and_its_gradient_checks():
    purifier = JPEGCompression(50)
    image = (scan_like((9, 10))[None, None] + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: purifier.surrogate(x, CONTEXT), image)
    image = image.detach()
    change = (purifier.surrogate(image, CONTEXT) - purifier.purify(image, CONTEXT)).abs().mean()
    assert float(change) < float((image - purifier.purify(image, CONTEXT)).abs().mean())


def test_a_random_quality_depends_on_the_seed_alone():
    image = scan_like((1, 1, 32, 32)).expand(3, 1, 32, 32)
    purifier = RandJPEGCompression((10, 95))
    together = purifier.purify(image, ImageContext(seeds=(5, 6, 5)))
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    assert torch.equal(purifier.purify(image[:1], ImageContext(seeds=(6,)))[0], together[1])
    fixed = torch.stack([JPEGCompression(q).purify(image[:1], CONTEXT) for q in range(10, 96)])
    assert bool((fixed == together[1]).flatten(1).all(dim=1).any())


def test_a_random_quality_changes_with_the_draw_and_its_surrogate_follows():
    image = scan_like((1, 1, 32, 32))
    purifier, context = RandJPEGCompression((5, 95)), ImageContext(seeds=(5,))
    outputs, surrogates = [], []
    for draw in (0, 1, 0):
        with random_draw(draw):
            outputs.append(purifier.purify(image, context))
            surrogates.append(purifier.surrogate(image, context))
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    assert torch.equal(surrogates[0], surrogates[2])
    qualities = [
        [q for q in range(5, 96) if torch.equal(of(q), seen)]
        for of, seen in (
            (lambda q: JPEGCompression(q).purify(image, CONTEXT), outputs[0]),
            (lambda q: JPEGCompression(q).surrogate(image, CONTEXT), surrogates[0]),
        )
    ]
    assert set(qualities[0]) & set(qualities[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEGCompression(0), "quality must be an integer from 1 to 100"),
        (lambda: JPEGCompression(75.0), "quality must be an integer from 1 to 100"),  # type: ignore[arg-type]
        (lambda: JPEGCompression(slice_axis=3), "slice_axis must be a spatial axis"),
        (
            lambda: JPEGCompression(slice_axis=1.0),
            "slice_axis must be a spatial axis, an integer from -3 to 2, got 1.0",
        ),
        (lambda: JPEGCompression(window=(1, 0)), "window must be finite"),
        (lambda: RandJPEGCompression((90, 80)), "quality must be two integers"),
        (lambda: RandJPEGCompression(75), "quality must be two integers"),  # type: ignore[arg-type]
        (lambda: JPEGCompression().purify(torch.zeros(1, 1, 8), CONTEXT), "2 or 3 spatial dimensions, got 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
