# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
import torch

from monai_adversarial.attacks.perturbations import jacobian_determinant, lowest_corner_determinant


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


def test_the_lowest_corner_is_that_of_linear_interpolation_inside_a_cell() -> None:
    displacement = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    lowest = lowest_corner_determinant(displacement)
    corner = []
    for sample in displacement:
        found = []
        for cell in itertools.product(*[range(n - 1) for n in sample.shape[1:]]):
            block = sample[(slice(None), *[slice(i, i + 2) for i in cell])]
            for where in [*itertools.product((0.0, 1.0), repeat=3), (0.5, 0.5, 0.5)]:

                def position(point: torch.Tensor, block: torch.Tensor = block) -> torch.Tensor:
                    value = block
                    for share in point:
                        value = value[:, 0] * (1 - share) + value[:, 1] * share
                    return value + point

                point = torch.tensor(where, dtype=torch.float64)
                found.append(float(torch.linalg.det(torch.autograd.functional.jacobian(position, point))))
        corner.append(min(found))
    torch.testing.assert_close(lowest, torch.tensor(corner, dtype=torch.float64))
    in_mm = displacement * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(lowest_corner_determinant(in_mm, torch.tensor([1.0, 2.0, 3.0])), lowest)


def test_an_axis_of_one_voxel_keeps_its_length() -> None:
    displacement = torch.zeros(1, 3, 4, 1, 3)
    displacement[:, 0] = torch.arange(4).view(1, 4, 1, 1) * 0.5
    torch.testing.assert_close(lowest_corner_determinant(displacement), torch.tensor([1.5]))
    torch.testing.assert_close(lowest_corner_determinant(torch.zeros(2, 2, 1, 1)), torch.ones(2))
