# SPDX-License-Identifier: Apache-2.0
"""Frequency refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.frequency_refinement import FrequencyRefinement
from monai_adversarial.utils.backward_pass import backward_pass
from tests.helpers import random_image

CONTEXT = ImageContext()
WINDOW = {"a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1}


def reference(image: np.ndarray, low_step: float, middle_step: float, high_step: float) -> np.ndarray:
    """The paper's loop over blocks, for whole blocks and one channel."""
    table = np.full((8,) * image.ndim, high_step)
    table[(slice(0, 4),) * image.ndim] = middle_step
    table[(slice(0, 2),) * image.ndim] = low_step
    out = np.empty_like(image)
    for start in np.ndindex(*(n // 8 for n in image.shape)):
        where = tuple(slice(8 * s, 8 * s + 8) for s in start)
        out[where] = idctn(np.round(dctn(image[where], norm="ortho") / table) * table, norm="ortho")
    return out


@pytest.mark.parametrize("shape", [(32,), (16, 24), (16, 8, 24)])
def test_equals_the_loop_over_blocks_of_scipy(shape):
    image = random_image((1, 1, *shape), dtype=torch.float64) * 400 - 150
    ours = FrequencyRefinement(steps=(20, 10, 60)).purify(image, CONTEXT)
    expected = reference(image[0, 0].numpy() + 200, 20, 10, 60) - 200
    assert np.allclose(ours[0, 0].numpy(), expected, atol=1e-8)
    assert float((ours - image).abs().mean()) > 1


def test_the_steps_of_the_paper_are_parts_of_the_window():
    image = random_image((1, 1, 16, 16), dtype=torch.float64) * 255
    ours = FrequencyRefinement("paper", window=(0, 255)).purify(image, CONTEXT)
    assert np.allclose(ours[0, 0].numpy(), reference(image[0, 0].numpy(), 30, 5, 80), atol=1e-8)


def test_removes_noise_from_a_smooth_image_of_any_shape():
    position = torch.linspace(0, 3, 21)
    clean = 100 * torch.sin(position)[:, None, None] * torch.cos(position)[None, :, None] * torch.ones(1, 1, 13)
    noisy = clean + 8 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    out = FrequencyRefinement().purify(noisy[None, None], CONTEXT)[0, 0]
    assert float((out - clean).square().mean()) < 0.25 * float((noisy - clean).square().mean())


def test_samples_and_channels_do_not_mix():
    image = random_image((2, 3, 12, 10, 9)) * 400 - 150
    purifier = FrequencyRefinement()
    together = purifier.purify(image, CONTEXT)
    for sample in range(2):
        for channel in range(3):
            part = (slice(sample, sample + 1), slice(channel, channel + 1))
            assert torch.allclose(together[part], purifier.purify(image[part], CONTEXT), atol=1e-3)


def test_voxels_outside_the_window_stay():
    image = random_image((1, 1, 16, 16)) * 100
    image[..., :5] = -1000
    image[..., 12:] = 1500
    out = FrequencyRefinement().purify(image, CONTEXT)
    assert torch.equal(out[..., :5], image[..., :5]) and torch.equal(out[..., 12:], image[..., 12:])
    assert not torch.equal(out[..., 5:12], image[..., 5:12])


def test_network_values_are_refined_as_the_hounsfield_units_they_stand_for():
    hounsfield = random_image((1, 1, 16, 16), dtype=torch.float64) * 300 - 100
    purifier = FrequencyRefinement(intensity=WINDOW)
    expected = (FrequencyRefinement().purify(hounsfield, CONTEXT) + 160) / 400
    assert torch.allclose(purifier.purify((hounsfield + 160) / 400, CONTEXT), expected, atol=1e-6)


def test_the_surrogate_is_close_and_its_gradient_checks():
    purifier = FrequencyRefinement(block_size=4)
    image = (random_image((1, 1, 6, 5), dtype=torch.float64) * 300 - 100).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: purifier.surrogate(x, CONTEXT), image)
    image = image.detach()
    change = (purifier.surrogate(image, CONTEXT) - purifier.purify(image, CONTEXT)).abs().mean()
    assert float(change) < float((image - purifier.purify(image, CONTEXT)).abs().mean())


def test_an_attacker_gets_the_gradient_of_the_surrogate():
    purifier = FrequencyRefinement()
    image = (random_image((1, 1, 16, 16)) * 300 - 100).requires_grad_()
    with backward_pass("declared"):
        (ours,) = torch.autograd.grad(purifier.apply(image, CONTEXT).square().sum(), image)
    value = purifier.purify(image.detach(), CONTEXT)
    (expected,) = torch.autograd.grad(purifier.surrogate(image, CONTEXT), image, 2 * value)
    assert torch.allclose(ours, expected) and float(ours.abs().max()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": (5, 10)}, "steps must be 'paper' or three"),
        ({"steps": 5.0}, "steps must be 'paper' or three numbers"),
        ({"steps": "papers"}, "steps must be 'paper' or three"),
        ({"steps": (5, -1, 10)}, "steps must be a finite number > 0"),
        ({"block_size": 2}, "block_size must be an integer >= 4"),
        ({"window": (3,)}, "window must be two numbers"),
        ({"window": (5, 5)}, "window must be finite and go from low to high"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrequencyRefinement(**arguments)
