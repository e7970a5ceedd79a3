# SPDX-License-Identifier: Apache-2.0
"""Segmentations on grids."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.audit.segmentation import Segmentation, on_grid, same_grid


def _grid(spacing: float, shape: tuple[int, ...], origin: float = 0.0) -> Segmentation:
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = origin
    return Segmentation(torch.zeros(shape, dtype=torch.int32), affine=affine)


def test_nearest_voxel_of_another_grid() -> None:
    values = torch.arange(4**3, dtype=torch.int32).reshape(4, 4, 4)
    coarse = Segmentation(values, affine=_grid(2.0, (4, 4, 4), 0.5).affine)
    fine = on_grid(coarse, _grid(1.0, (8, 8, 8)))
    assert fine.shape == (8, 8, 8) and torch.equal(fine.values[::2, ::2, ::2], values)
    assert torch.equal(fine.values[1::2, 1::2, 1::2], values)


def test_flipped_axes_are_one_place() -> None:
    values = torch.arange(24, dtype=torch.int32).reshape(2, 3, 4)
    affine = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    affine[0, 3] = 1.0
    moved = on_grid(Segmentation(values, affine=affine), _grid(1.0, (2, 3, 4)))
    assert torch.equal(moved.values, values.flip(0))


def test_masks_stay_masks() -> None:
    masks = torch.zeros(2, 4, 4, 4, dtype=torch.int32)
    masks[:, 1] = 1
    moved = on_grid(Segmentation(masks, True, _grid(2.0, (4, 4, 4), 0.5).affine), _grid(1.0, (8, 8, 8)))
    assert moved.masks and moved.values.shape == (2, 8, 8, 8) and int(moved.values.sum()) == 2 * 2 * 64


def test_one_grid_is_left_alone() -> None:
    first, second = _grid(1.0, (4, 4, 4)), _grid(1.001, (4, 4, 4))
    assert same_grid(first, second) and on_grid(first, second) is first
    assert not same_grid(first, _grid(1.5, (4, 4, 4)))


def test_spacing_is_that_of_the_affine() -> None:
    assert _grid(2.5, (3, 3, 3)).spacing == [2.5, 2.5, 2.5]
    assert Segmentation(torch.zeros(3, 3)).spacing == [1.0, 1.0]


def test_grids_without_affine_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match="neither has an affine"):
        on_grid(Segmentation(torch.zeros(3, 3, 3)), Segmentation(torch.zeros(4, 4, 4)))
