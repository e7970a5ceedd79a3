# SPDX-License-Identifier: Apache-2.0
"""Consistency of two predictions: values, contours, and the mask of what a warp left valid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_adversarial.losses.consistency import ConsistencyLoss


def logits(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spatial", [(7,), (5, 6), (4, 5, 6)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_value_against_scipy(spatial, activation):
    clean, adversarial = logits((2, 3, *spatial), 0), logits((2, 3, *spatial), 1)
    p, q = ((z.softmax(1) if activation == "softmax" else z.sigmoid()).numpy() for z in (clean, adversarial))
    mse = ((p - q) ** 2).sum(axis=1).mean()
    first = 1 if activation == "softmax" else 0
    contours = []
    for sample in range(2):
        for channel in range(first, 3):
            for axis in range(len(spatial)):
                # scipy's filter is not normalized: smoothing of sum 4 along each other axis, difference of 2
                scale = 4.0 / 4.0 ** (len(spatial) - 1)
                edges = [scale * ndimage.sobel(x[sample, channel], axis, mode="nearest") for x in (p, q)]
                contours.append(np.mean((edges[0] - edges[1]) ** 2))
    for weights in ((1.0, 0.5), (1.0, 0.0), (0.0, 2.0)):
        found = ConsistencyLoss(*weights, activation=activation)(clean, adversarial)
        assert float(found) == pytest.approx(weights[0] * mse + weights[1] * np.mean(contours), rel=1e-10)


@pytest.mark.parametrize("spatial", [(8, 8), (8, 8, 8)])
def test_what_lies_outside_the_mask_does_not_count(spatial):
    clean, adversarial = logits((2, 3, *spatial), 0), logits((2, 3, *spatial), 1)
    mask = torch.zeros(2, 1, *spatial)
    mask[:, :, 2:, 1:6] = 1
    loss = ConsistencyLoss()
    expected = loss(clean, adversarial, mask=mask)
    spoiled = torch.where(mask > 0, adversarial, 5.0 - 3.0 * adversarial)
    torch.testing.assert_close(loss(clean, spoiled, mask=mask), expected)
    torch.testing.assert_close(loss(clean, adversarial, mask=mask.bool()), expected)
    assert not torch.allclose(loss(clean, spoiled), loss(clean, adversarial))


def test_the_mean_is_over_the_valid_voxels_and_a_full_mask_changes_nothing():
    clean, adversarial = logits((1, 2, 6, 6), 0), logits((1, 2, 6, 6), 1)
    half = torch.zeros(1, 1, 6, 6)
    half[..., :3, :] = 1
    found = ConsistencyLoss(1.0, 0.0)(clean, adversarial, mask=half)
    torch.testing.assert_close(found, ConsistencyLoss(1.0, 0.0)(clean[..., :3, :], adversarial[..., :3, :]))
    full = torch.ones(1, 1, 6, 6)
    torch.testing.assert_close(ConsistencyLoss()(clean, adversarial, mask=full), ConsistencyLoss()(clean, adversarial))


def test_an_empty_mask_is_loss_zero_with_zero_gradient():
    clean, adversarial = logits((1, 2, 5, 5), 0), logits((1, 2, 5, 5), 1).requires_grad_()
    value = ConsistencyLoss()(clean, adversarial, mask=torch.zeros(1, 1, 5, 5))
    value.backward()
    assert float(value.detach()) == 0.0 and float(adversarial.grad.abs().sum()) == 0.0


def test_a_shifted_edge_costs_contour_where_a_uniform_change_does_not():
    clean = torch.full((1, 1, 8, 8), -4.0)
    clean[..., 4:] = 4.0
    shifted, uniform = clean.roll(1, dims=-1), torch.zeros(1, 1, 8, 8)
    contour = ConsistencyLoss(0.0, 1.0)
    assert float(contour(clean, shifted)) > 0.5
    assert float(contour(uniform, uniform + 1.0)) == pytest.approx(0.0, abs=1e-10)
    assert float(ConsistencyLoss(1.0, 0.0)(uniform, uniform + 1.0)) > 0.05


def test_volumes_of_one_slice_have_no_edge_across_it():
    clean, adversarial = logits((1, 2, 6, 6, 1), 0), logits((1, 2, 6, 6, 1), 1)
    flat = ConsistencyLoss(0.0, 1.0)(clean[..., 0], adversarial[..., 0])
    torch.testing.assert_close(ConsistencyLoss(0.0, 1.0)(clean, adversarial), flat * 2 / 3)
