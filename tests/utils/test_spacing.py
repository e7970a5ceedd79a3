# SPDX-License-Identifier: Apache-2.0
"""Voxel spacing from affines of volumes and of slices."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SqueezeDim

from monai_adversarial.utils.scene import spacing_of

AFFINE = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_cut_by_squeeze_dim_keeps_the_spacing_of_its_axes(axis: int) -> None:
    shape = [1, 4, 5, 6]
    shape[axis + 1] = 1
    flat = SqueezeDim(dim=axis + 1)(MetaTensor(torch.rand(shape), affine=AFFINE))
    spacing = spacing_of(flat[None])
    assert spacing is not None
    assert spacing.tolist() == [[length for k, length in enumerate((1.0, 2.0, 5.0)) if k != axis]]


def test_a_slice_whose_affine_has_the_axes_of_the_volume_has_no_known_spacing() -> None:
    cut = MetaTensor(torch.rand(1, 1, 5, 6), affine=AFFINE)
    with pytest.raises(ValueError, match=r"spacing must be finite and > 0 mm along every axis"):
        spacing_of(cut)
    unknown = spacing_of(cut, required=False)
    assert unknown is not None and bool(unknown.isnan().all())
    assert spacing_of(cut, 2.0).tolist() == [[2.0, 2.0]]  # type: ignore[union-attr]


def test_a_file_with_the_axes_of_the_image_is_believed_and_so_are_equal_lengths() -> None:
    file = MetaTensor(torch.rand(1, 1, 5, 6), affine=AFFINE, meta={"spatial_shape": torch.tensor([5, 6])})
    assert spacing_of(file).tolist() == [[1.0, 2.0]]  # type: ignore[union-attr]
    photo = MetaTensor(torch.rand(1, 1, 5, 6), affine=torch.eye(4, dtype=torch.float64) * 3)
    assert spacing_of(photo).tolist() == [[3.0, 3.0]]  # type: ignore[union-attr]


def test_oblique_axes_have_the_length_of_their_column() -> None:
    turned = AFFINE.clone()
    turned[:3, :3] = torch.linalg.qr(torch.rand(3, 3, dtype=torch.float64))[0] @ AFFINE[:3, :3]
    spacing = spacing_of(MetaTensor(torch.rand(1, 1, 4, 5, 6), affine=turned))
    torch.testing.assert_close(spacing, torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64))


def test_an_axis_that_was_added_has_no_length() -> None:
    flat = MetaTensor(torch.rand(1, 1, 5, 6, 1), affine=torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="pass spacing="):
        spacing_of(flat)
