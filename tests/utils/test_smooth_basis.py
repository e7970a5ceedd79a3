# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.utils.smooth_basis import (
    bspline_matrix,
    evaluate_separable,
    legendre_exponents,
    legendre_matrix,
    linear_matrix,
    number_of_controls,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.3, 6.0), st.floats(2.0, 90.0))
def test_bsplines_are_non_negative_and_add_up_to_one(length: int, spacing: float, control_spacing: float) -> None:
    matrix = bspline_matrix(length, spacing, control_spacing)
    assert matrix.shape == (length, number_of_controls(length, spacing, control_spacing))
    assert float(matrix.min()) >= 0
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(length, dtype=torch.float64))


def test_bsplines_reproduce_a_line_and_its_slope() -> None:
    length, spacing, control_spacing = 30, 1.5, 10.0
    controls = torch.arange(number_of_controls(length, spacing, control_spacing), dtype=torch.float64) * control_spacing
    line = bspline_matrix(length, spacing, control_spacing) @ controls
    torch.testing.assert_close(line.diff(), torch.full((length - 1,), spacing, dtype=torch.float64))
    slope = bspline_matrix(length, spacing, control_spacing, derivative=True) @ controls
    torch.testing.assert_close(slope, torch.ones(length, dtype=torch.float64))


def test_bspline_derivative_is_that_of_the_values() -> None:
    controls = torch.randn(number_of_controls(20, 2.0, 9.0), dtype=torch.float64)
    fine = 20001
    values = bspline_matrix(20, 2.0, 9.0, points=fine) @ controls
    slope = bspline_matrix(20, 2.0, 9.0, points=fine, derivative=True) @ controls
    numeric = (values[2:] - values[:-2]) / (2 * 38.0 / (fine - 1))
    assert float((numeric - slope[1:-1]).abs().max()) < 1e-5


def test_bsplines_are_mirror_symmetric() -> None:
    matrix = bspline_matrix(17, 1.7, 8.0)
    torch.testing.assert_close(matrix, matrix.flip(0, 1))


@pytest.mark.parametrize("shape", [(9,), (6, 7), (5, 6, 7)])
def test_separable_evaluation_equals_the_sum_of_products(shape: tuple[int, ...]) -> None:
    coefficients = torch.randn(2, 3, *[4] * len(shape), dtype=torch.float64)
    matrices = [legendre_matrix(n, 3) for n in shape]
    letters = "xyz"[: len(shape)]
    upper = "def"[: len(shape)]
    terms = ",".join(u + low for u, low in zip(upper, letters, strict=True))
    expected = torch.einsum(f"bc{letters},{terms}->bc{upper}", coefficients, *matrices)
    torch.testing.assert_close(evaluate_separable(coefficients, matrices), expected)


def test_separable_evaluation_ignores_autocast() -> None:
    coefficients = torch.randn(1, 4, 4, 4)
    matrices = [legendre_matrix(8, 3).float() for _ in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        field = evaluate_separable(coefficients, matrices)
    assert field.dtype == torch.float32
    assert torch.equal(field, evaluate_separable(coefficients, matrices))


def test_separable_evaluation_passes_gradcheck() -> None:
    coefficients = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    matrices = [legendre_matrix(4, 2), legendre_matrix(5, 2)]
    assert torch.autograd.gradcheck(lambda c: evaluate_separable(c, matrices), (coefficients,))


def test_legendre_matrix_is_numpys() -> None:
    expected = np.polynomial.legendre.legvander(np.linspace(-1, 1, 11), 4)
    np.testing.assert_allclose(legendre_matrix(11, 4).numpy(), expected)


@pytest.mark.parametrize(("degree", "dimensions", "count"), [(3, 3, 20), (2, 3, 10), (4, 3, 35), (3, 2, 10), (0, 3, 1)])
def test_legendre_terms_have_bounded_total_degree(degree: int, dimensions: int, count: int) -> None:
    exponents = legendre_exponents(degree, dimensions)
    assert len(exponents) == len(set(exponents)) == count
    assert max(sum(e) for e in exponents) == degree


@pytest.mark.parametrize(("length", "nodes"), [(9, 9), (9, 4), (1, 1), (8, 2)])
def test_linear_matrix_interpolates_from_end_to_end(length: int, nodes: int) -> None:
    matrix = linear_matrix(length, nodes)
    ramp = torch.linspace(0, 1, nodes, dtype=torch.float64)
    torch.testing.assert_close(matrix @ ramp, torch.linspace(0, 1, length, dtype=torch.float64))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(length, dtype=torch.float64))
    if length == nodes:
        assert torch.equal(matrix, torch.eye(length, dtype=torch.float64))
