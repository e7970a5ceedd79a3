# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.utils.separable_resampling import AxisInterpolation, resample_axes


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    positions=st.lists(st.floats(-3, 12), min_size=1, max_size=20),
    axis=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_equals_numpy_interpolation_and_its_gradient_is_the_adjoint(size, positions, axis, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = [2, 3, 4]
    shape[axis] = size
    image = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    result = AxisInterpolation(size, positions)(image, axis)
    expected = np.apply_along_axis(
        lambda line: np.interp(positions, np.arange(size), line), axis, image.detach().numpy()
    )
    np.testing.assert_allclose(result.detach().numpy(), expected, atol=1e-12)
    # <A x, y> = <x, A* y>
    cotangent = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    gradient = torch.autograd.grad(result, image, cotangent)[0]
    left, right = (result * cotangent).sum(), (image * gradient).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_first_and_second_derivatives_pass_gradcheck():
    axes = [AxisInterpolation(4, np.arange(6) * 0.6), None, AxisInterpolation(5, np.arange(3) * 1.7)]
    image = torch.randn(1, 2, 4, 3, 5, dtype=torch.float64).requires_grad_()
    assert resample_axes(image, axes).shape == (1, 2, 6, 3, 3)
    assert torch.autograd.gradcheck(lambda x: resample_axes(x, axes), image)
    assert torch.autograd.gradgradcheck(lambda x: resample_axes(x, axes).pow(2), image)


def test_autocast_does_not_round_hounsfield_units():
    image = torch.linspace(-1000, 3000, 64).reshape(1, 1, 4, 4, 4)
    axes = [AxisInterpolation(4, np.arange(7) * 0.5)] * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = resample_axes(image, axes)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, resample_axes(image.double(), axes).float())


def test_wrong_size_is_refused():
    with pytest.raises(ValueError, match="must have 4 samples"):
        AxisInterpolation(4, [0.0])(torch.zeros(1, 1, 5), 2)


def test_an_infinite_sample_reaches_those_beside_it_only():
    # A product with a matrix would be faster still, and make NaN of a whole line.
    image = torch.zeros(1, 1, 6, 6, 6)
    image[0, 0, 1, 1, 1] = -torch.inf
    for axis in (2, 3, 4):
        result = AxisInterpolation(6, np.arange(11) * 0.5)(image, axis)
        assert not result.isnan().any() and int(result.isinf().sum()) == 3
