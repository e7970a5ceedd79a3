# SPDX-License-Identifier: Apache-2.0
"""Target makers: what they make on boxes whose answer is known, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_adversarial.attacks.targets import (
    dilated_organ,
    drawn_mask,
    empty_organ,
    eroded_organ,
    grown_by_volume,
    other_organ,
    shifted_organ,
    shrunk_by_volume,
    swapped_left_right,
)
from tests.helpers import TEST_NDARRAYS, as_metatensor

SPACING = (1.0, 2.0, 3.0)


def boxes() -> torch.Tensor:
    """Two samples: organ 1 is a box, organ 2 lies beside it."""
    label = torch.zeros(2, 1, 14, 12, 10, dtype=torch.uint8)
    label[:, :, 3:9, 3:9, 3:7] = 1
    label[:, :, 9:12, 3:9, 3:7] = 2
    label[1, 0, 0, 0, 0] = 3
    return label


def one_hot(label: torch.Tensor, classes: int = 4) -> torch.Tensor:
    return (label == torch.arange(classes).view(1, -1, 1, 1, 1)).to(torch.uint8)


MAKERS: dict[str, Callable[..., Any]] = {
    "empty": lambda s: empty_organ(s, 1),
    "other": lambda s: other_organ(s, 1, 2),
    "swapped": lambda s: swapped_left_right(s, 1, 2),
    "shifted": lambda s: shifted_organ(s, 1, (-2, 2, 3), spacing=SPACING),
    "eroded": lambda s: eroded_organ(s, 1, 2.0, spacing=SPACING),
    "dilated": lambda s: dilated_organ(s, 1, 2.0, spacing=SPACING),
    "grown": lambda s: grown_by_volume(s, 1, 0.3, spacing=SPACING),
    "shrunk": lambda s: shrunk_by_volume(s, 1, 0.3, spacing=SPACING),
}


@pytest.mark.parametrize("name", MAKERS)
def test_forms_and_types_of_a_segmentation_agree(name: str) -> None:
    make, label = MAKERS[name], boxes()
    before = label.clone()
    wanted = make(label)
    assert torch.equal(label, before)  # the given one is left alone
    assert wanted.dtype == label.dtype and not torch.equal(wanted, label)
    for kind in TEST_NDARRAYS:
        given = kind(label.numpy())
        found = make(given)
        assert type(found) is type(given)
        np.testing.assert_array_equal(np.asarray(found), wanted.numpy())
    hot = make(one_hot(label))
    assert torch.equal(hot, one_hot(wanted))
    # Samples do not depend on each other.
    assert torch.equal(make(label[1:]), wanted[1:])


def test_empty_organ_leaves_the_others() -> None:
    wanted = empty_organ(boxes(), 1)
    assert not (wanted == 1).any()
    assert torch.equal(wanted == 2, boxes() == 2) and torch.equal(wanted == 3, boxes() == 3)


def test_other_organ_and_swapped_left_right_relabel() -> None:
    wanted = other_organ(boxes(), 1, 2)
    assert torch.equal(wanted == 2, (boxes() == 1) | (boxes() == 2)) and not (wanted == 1).any()
    swapped = swapped_left_right(boxes(), 1, 2)
    assert torch.equal(swapped == 1, boxes() == 2) and torch.equal(swapped == 2, boxes() == 1)
    assert torch.equal(swapped_left_right(swapped, 1, 2), boxes())


def test_shifted_organ_moves_by_mm() -> None:
    wanted = shifted_organ(boxes(), 1, (2.4, -3.6, 3.0), spacing=SPACING)  # 2, -2 and 1 voxels
    expected = torch.zeros_like(boxes(), dtype=torch.bool)
    expected[:, :, 5:11, 1:7, 4:8] = True
    assert torch.equal(wanted == 1, expected)
    assert torch.equal(wanted == 2, (boxes() == 2) & ~expected)  # the shifted organ covers the other
    by_affine = shifted_organ(as_metatensor(boxes()), 1, (2.4, -3.6, 3.0))
    assert isinstance(by_affine, MetaTensor) and torch.equal(by_affine.as_tensor(), wanted)


def test_a_shift_that_loses_a_part_warns_and_one_that_loses_all_is_refused() -> None:
    with pytest.warns(UserWarning, match="moves 66.7% of organ 1 out of the volume"):
        wanted = shifted_organ(boxes(), 1, (-7, 0, 0), spacing=SPACING)
    assert int((wanted[0] == 1).sum()) == 2 * 6 * 4
    with pytest.raises(ValueError, match="moves all of organ 1 out of the volume"):
        shifted_organ(boxes(), 1, (-9, 0, 0), spacing=SPACING)
    with pytest.raises(ValueError, match="at least half a voxel"):
        shifted_organ(boxes(), 1, (0.4, 0.9, 1.4), spacing=SPACING)


@pytest.mark.parametrize("distance", [1.0, 2.0, 2.3])
def test_erosion_and_dilation_are_balls_in_mm(distance: float) -> None:
    """Against SciPy's morphology with the ball as the structuring element."""
    label = boxes()
    label[label == 2] = 0
    mask = label[0, 0].numpy() == 1
    reach = [math.floor(distance / step) for step in SPACING]
    grid = np.meshgrid(*[np.arange(-r, r + 1) * s for r, s in zip(reach, SPACING, strict=True)], indexing="ij")
    ball = sum(axis**2 for axis in grid) <= distance**2 + 1e-9
    dilated = dilated_organ(label, 1, distance, spacing=SPACING)
    np.testing.assert_array_equal(dilated[0, 0].numpy() == 1, ndimage.binary_dilation(mask, ball))
    eroded = eroded_organ(label, 1, distance, spacing=SPACING)
    np.testing.assert_array_equal(eroded[0, 0].numpy() == 1, ndimage.binary_erosion(mask, ball))


def test_dilation_respects_other_organs_unless_told() -> None:
    assert torch.equal(dilated_organ(boxes(), 1, 2.0, spacing=SPACING) == 2, boxes() == 2)
    over = dilated_organ(boxes(), 1, 2.0, spacing=SPACING, over_organs=True)
    assert int((over == 2).sum()) < int((boxes() == 2).sum())


def test_volumes_are_met_to_the_voxel_and_taken_at_the_surface() -> None:
    voxel = math.prod(SPACING) / 1000
    for count in (1, 17, 60):
        grown = grown_by_volume(boxes(), 1, count * voxel, spacing=SPACING)
        shrunk = shrunk_by_volume(boxes(), 1, count * voxel, spacing=SPACING)
        for sample in range(2):
            mask = boxes()[sample, 0] == 1
            more, less = grown[sample, 0] == 1, shrunk[sample, 0] == 1
            assert int(more.sum()) - int(mask.sum()) == count and bool(more[mask].all())
            assert int(mask.sum()) - int(less.sum()) == count and not bool(less[~mask].any())
            # No voxel that was left out is nearer than one that was taken.
            free = (boxes()[sample, 0] == 0).numpy()
            distance = ndimage.distance_transform_edt(~mask.numpy(), sampling=SPACING)
            taken = (more & ~mask).numpy()
            assert distance[taken].max() <= distance[free & ~taken].min() + 1e-9


def test_masks_that_overlap_change_in_their_channel_alone() -> None:
    masks = torch.zeros(1, 2, 8, 8, 8)
    masks[:, 0, 1:5], masks[:, 1, 2:6] = 1, 1
    wanted = dilated_organ(masks, 0, 1.0, spacing=1.0)
    assert torch.equal(wanted[:, 1], masks[:, 1])
    assert wanted[:, 0, 0:6].all() and not wanted[:, 0, 6:].any()
    assert not empty_organ(masks, 0)[:, 0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: empty_organ(s, 5), "organ 5 is not in the segmentation of sample 0"),
        (lambda s: empty_organ(s, 3), "organ 3 is not in the segmentation of sample 0"),
        (lambda s: empty_organ(s, 0), "organ must be an integer >= 1"),
        (lambda s: empty_organ(s * 0.5, 1), "must hold whole numbers"),
        (lambda s: empty_organ(s[0, 0, 0], 1), "1 to 3 spatial dimensions"),
        (lambda s: empty_organ(one_hot(s), 4), "organ must be a class from 1 to 3"),
        (lambda s: other_organ(s, 1, 1), "must be two organs, got 1 for both"),
        (lambda s: swapped_left_right(s, 1, 4), "right 4 is not in the segmentation"),
        (lambda s: eroded_organ(s, 1, 50.0, spacing=1.0), "use empty_organ"),
        (lambda s: eroded_organ(s, 1, 0.5, spacing=1.0), "equals the given one"),
        (lambda s: dilated_organ(s, 1, 0.5, spacing=1.0), "equals the given one"),
        (lambda s: dilated_organ(s, 1, -1.0, spacing=1.0), "distance must be a finite number > 0"),
        (lambda s: dilated_organ(s, 1, 1.0), "spacing is missing"),
        (lambda s: grown_by_volume(s, 1, 0.0004, spacing=1.0), "at least half a voxel"),
        (lambda s: grown_by_volume(s, 1, 10.0, spacing=1.0), "around organ 1"),
        (lambda s: shrunk_by_volume(s, 1, 0.144, spacing=1.0), "all or more than the 0.144 ml of organ 1"),
        (lambda s: shifted_organ(s, 1, (1.0, 2.0), spacing=1.0), "shift must give 3 lengths"),
        (lambda s: shifted_organ(s, 1, (math.nan, 2.0, 1.0), spacing=1.0), "shift must be finite"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(boxes())


def test_drawn_mask_reads_a_file_on_the_same_grid(tmp_path: Path) -> None:
    affine = np.diag([*SPACING, 1.0])
    drawing = np.zeros((14, 12, 10), np.uint8)
    drawing[2:5, 2:5, 2:5] = 1
    file = tmp_path / "drawing.nii.gz"
    nib.save(nib.Nifti1Image(drawing, affine), file)
    given = as_metatensor(boxes()[:1])
    wanted = drawn_mask(file, given, organ=1)
    np.testing.assert_array_equal(wanted[0, 0].numpy() == 1, drawing == 1)
    assert torch.equal(wanted.as_tensor() == 2, boxes()[:1] == 2)
    whole = drawn_mask(file, given)
    np.testing.assert_array_equal(whole[0, 0].numpy(), drawing)
    assert torch.equal(drawn_mask(file, one_hot(boxes()[:1]), organ=1), one_hot(wanted.as_tensor()))


def test_drawn_mask_refuses_what_is_not_on_the_grid(tmp_path: Path) -> None:
    given = as_metatensor(boxes()[:1])

    def saved(name: str, drawing: np.ndarray, affine: np.ndarray) -> Path:
        nib.save(nib.Nifti1Image(drawing, affine), tmp_path / name)
        return tmp_path / name

    affine, drawing = np.diag([*SPACING, 1.0]), np.ones((14, 12, 10), np.float32)
    moved = affine.copy()
    moved[0, 3] = 0.5
    with pytest.raises(FileNotFoundError, match="does not exist"):
        drawn_mask(tmp_path / "missing.nii.gz", given)
    with pytest.raises(ValueError, match="corners lie up to 0.5 mm off"):
        drawn_mask(saved("moved.nii.gz", drawing, moved), given)
    with pytest.raises(ValueError, match=r"\(14, 12, 10\) voxels, got \(1, 13, 12, 10\)"):
        drawn_mask(saved("cut.nii.gz", drawing[1:], affine), given)
    with pytest.raises(ValueError, match="all of its voxels are 0"):
        drawn_mask(saved("empty.nii.gz", drawing * 0, affine), given)
    with pytest.raises(ValueError, match="whole numbers"):
        drawn_mask(saved("half.nii.gz", drawing / 2, affine), given)
    with pytest.raises(ValueError, match="equals the segmentation"):
        drawn_mask(saved("same.nii.gz", boxes()[0, 0].numpy(), affine), given)
    with pytest.raises(ValueError, match="classes 0 to 3, got 7"):
        drawn_mask(saved("seven.nii.gz", 7 * drawing, affine), one_hot(boxes()[:1]))
    with pytest.raises(ValueError, match="one sample"):
        drawn_mask(tmp_path / "same.nii.gz", boxes())
