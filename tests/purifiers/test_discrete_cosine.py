# SPDX-License-Identifier: Apache-2.0
"""Block DCT against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from monai_adversarial.purifiers.discrete_cosine import (
    blockwise_dct,
    pad_to_blocks,
    quantize,
    repeat_edges,
    soft_quantize,
    tile_blocks,
)
from tests.helpers import random_image

CASES = [((2, 1, 24), (8,)), ((2, 3, 16, 24), (8, 8)), ((1, 2, 16, 8, 24), (8, 8, 8)), ((1, 1, 8, 5, 12), (4, 1, 6))]


def blocks_of(array: np.ndarray, block: tuple[int, ...]):
    lead = array.ndim - len(block)
    for start in np.ndindex(*(n // b for n, b in zip(array.shape[lead:], block, strict=True))):
        yield (Ellipsis, *(slice(s * b, s * b + b) for s, b in zip(start, block, strict=True)))


@pytest.mark.parametrize(("shape", "block"), CASES)
@pytest.mark.parametrize("inverse", [False, True])
def test_equals_scipy_in_every_block(shape, block, inverse):
    image = random_image(shape) * 2000 - 1000
    ours = blockwise_dct(image, block, inverse).numpy()
    axes = range(-len(block), 0)
    for where in blocks_of(image.numpy(), block):
        theirs = (idctn if inverse else dctn)(image.numpy()[where].astype(np.float64), norm="ortho", axes=axes)
        assert np.abs(ours[where] - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(("shape", "block"), CASES)
def test_the_inverse_undoes_it(shape, block):
    image = random_image(shape, dtype=torch.float64)
    assert torch.allclose(blockwise_dct(blockwise_dct(image, block), block, inverse=True), image)


def test_is_differentiable():
    image = random_image((1, 1, 8, 4, 4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: blockwise_dct(x, (4, 2, 4)), image)


def test_half_precision_around_it_changes_nothing():
    image = random_image((1, 1, 16, 16)) * 2000
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blockwise_dct(image, (8, 8)), blockwise_dct(image.clone(), (8, 8)))
        assert blockwise_dct(image, (8, 8)).dtype == torch.float32


def test_partial_blocks_are_refused():
    with pytest.raises(ValueError, match="whole blocks"):
        blockwise_dct(torch.zeros(1, 1, 12, 16), (8, 8))


def test_padding_repeats_the_edge():
    image = random_image((2, 1, 5, 8, 3))
    padded = pad_to_blocks(image, (4, 4, 4))
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 3), (0, 0), (0, 1)), mode="edge")
    assert np.array_equal(padded.numpy(), expected)
    both = repeat_edges(image, (1, 0, 2), (0, 3, 1))
    assert np.array_equal(both.numpy(), np.pad(image.numpy(), ((0, 0), (0, 0), (1, 0), (0, 3), (2, 1)), mode="edge"))


def test_tables_repeat_over_blocks():
    table = torch.arange(4.0).reshape(2, 2)
    tiled = tile_blocks(table, (1, 1, 4, 6))
    assert tiled.shape == (4, 6) and torch.equal(tiled[2:, 4:], table)


def test_soft_rounding_is_rounding_smoothed_by_a_normal_distribution():
    steps, spread = torch.tensor(10.0, dtype=torch.float64), 3.0
    values = torch.linspace(-25, 25, 41, dtype=torch.float64, requires_grad=True)
    noise = torch.distributions.Normal(0.0, spread).icdf((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    expected = torch.stack([quantize(value.detach() + noise, steps).mean() for value in values])
    soft = soft_quantize(values, steps, spread)
    assert float((soft.detach() - expected).abs().max()) < 0.02
    assert torch.autograd.gradcheck(lambda v: soft_quantize(v, steps, spread), values)
    (slope,) = torch.autograd.grad(soft.sum(), values)
    assert float(slope[20]) < 0.7 < 1.3 < float(slope[24])  # at 0: rounded away; at 5: about to move to the next step


def test_soft_rounding_of_fine_steps_is_the_identity():
    values = torch.linspace(-25, 25, 41)
    assert torch.allclose(soft_quantize(values, torch.tensor(2.0), 3.0), values, atol=1e-4)
