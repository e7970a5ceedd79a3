# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks.perturbations import jacobian_determinant


@pytest.mark.parametrize("shape", [(7,), (6, 7), (5, 6, 7)])
def test_linear_maps_have_their_matrix_determinant(shape: tuple[int, ...]) -> None:
    n = len(shape)
    matrix = torch.eye(n, dtype=torch.float64) + 0.3 * torch.randn(n, n, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(*[torch.arange(k, dtype=torch.float64) for k in shape], indexing="ij"))
    displacement = torch.einsum("ij,j...->i...", matrix - torch.eye(n, dtype=torch.float64), points)[None]
    determinant = jacobian_determinant(displacement)
    assert determinant.shape == (1, *shape)
    torch.testing.assert_close(determinant, torch.full_like(determinant, float(torch.linalg.det(matrix))))


def test_spacing_makes_voxels_and_mm_agree() -> None:
    displacement = torch.randn(2, 3, 5, 6, 7, dtype=torch.float64)
    spacing = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    in_mm = displacement * spacing.view(1, 3, 1, 1, 1)
    torch.testing.assert_close(jacobian_determinant(in_mm, spacing), jacobian_determinant(displacement))


def test_a_fold_is_negative() -> None:
    displacement = torch.zeros(1, 2, 5, 5)
    displacement[0, 0, 2] = 3.0
    displacement[0, 0, 3] = -3.0
    assert float(jacobian_determinant(displacement).min()) < 0


def test_one_slice_is_a_plane() -> None:
    assert torch.equal(jacobian_determinant(torch.zeros(1, 3, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="displacement must have shape"):
        jacobian_determinant(torch.zeros(1, 3, 4, 4))
