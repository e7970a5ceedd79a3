# SPDX-License-Identifier: Apache-2.0
"""Rounding to steps in HU against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_adversarial.purifiers.bit_depth import BitDepthReduction, BitDepthReductiond
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.utils.backward_pass import backward_pass
from tests.helpers import random_image

NO_CONTEXT = ImageContext()
WINDOW = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}


@pytest.mark.parametrize("shape", [(2, 1, 9), (2, 2, 7, 9), (2, 1, 5, 7, 9)])
def test_equals_rounding_in_numpy(shape):
    image = 3000.0 * random_image(shape) - 1024.0
    out = BitDepthReduction(12.5).purify(image, NO_CONTEXT)
    np.testing.assert_allclose(out.numpy(), np.rint(image.numpy() / 12.5) * 12.5, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(step=st.floats(0.5, 100.0), seed=st.integers(0, 1000))
def test_moves_no_voxel_by_more_than_half_a_step_and_twice_is_once(step, seed):
    image = 4000.0 * random_image((1, 1, 64), seed, torch.float64) - 1024.0
    purifier = BitDepthReduction(step)
    out = purifier.purify(image, NO_CONTEXT)
    assert float((out - image).abs().max()) <= 0.5 * step + 1e-9
    torch.testing.assert_close(purifier.purify(out, NO_CONTEXT), out)


def test_a_small_change_is_undone_where_it_crosses_no_border_and_becomes_a_step_where_it_does():
    purifier = BitDepthReduction(16.0)
    image = torch.tensor([[[32.0, 39.0]]])
    out = purifier.purify(image + 7.0, NO_CONTEXT)
    assert out.tolist() == [[[32.0, 48.0]]]
    assert purifier.purify(image, NO_CONTEXT).tolist() == [[[32.0, 32.0]]]


def test_the_same_in_network_values():
    image = 400.0 * random_image((1, 1, 6, 6, 6), dtype=torch.float64) - 160.0
    plain = BitDepthReduction(7.0)
    mapped = BitDepthReduction(7.0, intensity=WINDOW)
    out = mapped.purify((image + 160.0) / 400.0, NO_CONTEXT)
    torch.testing.assert_close(out * 400.0 - 160.0, plain.purify(image, NO_CONTEXT))


def test_it_is_attacked_straight_through_and_says_so():
    purifier = BitDepthReduction()
    image = (100.0 * random_image((1, 1, 4, 4))).requires_grad_()
    weights = random_image((1, 1, 4, 4), seed=1)
    with pytest.raises(RuntimeError, match="BackwardPassSubstitute"):
        purifier.apply(image, NO_CONTEXT)
    with backward_pass("declared"):
        out = purifier.apply(image, NO_CONTEXT)
    (out * weights).sum().backward()
    assert torch.equal(image.grad, weights)
    assert torch.equal(out.detach(), purifier.purify(image.detach(), NO_CONTEXT))


@pytest.mark.parametrize("step", [0.0, -4.0, float("inf"), "wide"])
def test_bad_step(step):
    with pytest.raises(ValueError, match="step must be a finite number > 0"):
        BitDepthReduction(step)


def test_dictionary_form():
    image = MetaTensor(100.0 * random_image((1, 4, 4, 4)))
    out = BitDepthReductiond(keys="image", step=10.0)({"image": image, "label": 1})
    assert torch.equal(out["image"], BitDepthReduction(10.0)(image)) and out["label"] == 1
