# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's preprocessing as transforms: the same voxels, in places that are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import list_data_collate
from monai.transforms import Compose

pytest.importorskip("nnunetv2")

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.nnunet_folder import NNUNetPlans
from monai_adversarial.audit.targets.nnunet_postprocessing import Components, SegmentNNUNetd
from monai_adversarial.audit.targets.nnunet_preprocessing import (
    LabelNNUNetd,
    LoadNNUNetd,
    NormalizeNNUNetd,
    ResampleNNUNetd,
    case_properties,
)
from monai_adversarial.models.read_intensity import map_of_batch, read_intensity
from monai_adversarial.models.recorded_intensity import install_recorders
from tests.audit.targets.nnunet_parts import CONFIGURATION, STATISTICS, dataset_of, plans_of, write_case

MRI = {"normalization_schemes": ["ZScoreNormalization"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "SimpleITK": {},
    "as the axes come": {"transpose_forward": [0, 1, 2]},
    "x first": {"transpose_forward": [2, 0, 1]},
    "nibabel": {"image_reader_writer": "NibabelIO"},
    "nibabel, turned to RAS": {"image_reader_writer": "NibabelIOWithReorient"},
    "SimpleITK, turned to RAS": {"image_reader_writer": "SimpleITKIOWithReorient"},
    "thick slices apart": {"spacing": [10.5, 40.0, 9.0]},
    "slices of 2D": {"dimensions": 2},
    "MRI": MRI,
    "MRI in a mask": {**MRI, "use_mask_for_norm": [True]},
    "two channels": {
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False] * 2,
    },
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_case(tmp_path_factory.mktemp("case"), seed=5)


def plans_for(variant: str = "SimpleITK", **changes: Any) -> NNUNetPlans:
    made = plans_of(**{**VARIANTS[variant], **changes})
    channels = ("CT", "MR")[: len(made["configurations"][CONFIGURATION]["normalization_schemes"])]
    return NNUNetPlans(made, dataset_of(channels=channels), CONFIGURATION)


def pipeline(plans: NNUNetPlans) -> Compose:
    steps = [LoadNNUNetd("image", plans), NormalizeNNUNetd("image", plans), ResampleNNUNetd("image", plans)]
    return Compose([*steps, LabelNNUNetd("label", "image", plans)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_voxels_and_label_are_those_of_nnunet(variant: str, case: tuple[str, str]) -> None:
    plans = plans_for(variant)
    files = [case[0]] * plans.channels
    expected, label, properties = plans.preprocessor().run_case(
        files, case[1], plans.manager, plans.configuration, plans.dataset
    )
    item = pipeline(plans)({"image": files if plans.channels > 1 else files[0], "label": case[1]})
    if plans.intensity is not None:
        assert np.array_equal(item["image"].numpy(), expected)
    # The mean of float32 voxels depends, in its last digits, on how they lie in memory.
    assert np.allclose(item["image"].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(item["label"].numpy(), np.maximum(label, 0))
    known = case_properties(item["image"])
    for name in ("shape_before_cropping", "shape_after_cropping_and_before_resampling", "spacing"):
        assert list(known[name]) == list(properties[name])
    assert known["bbox_used_for_cropping"] == [list(map(int, ends)) for ends in properties["bbox_used_for_cropping"]]
    assert min(first for first, _ in known["bbox_used_for_cropping"]) > 0  # something was cropped on every axis


def write_coordinates(folder: Path, case: tuple[str, str]) -> list[str]:
    """Three images whose values are x, y and z in mm (+ 1000: none is 0), with margins of zeros."""
    image = nib.load(case[0])
    body = np.asarray(image.dataobj) != 0
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(body))
    places = np.stack(np.meshgrid(*(np.arange(n) for n in body.shape), indexing="ij"), axis=-1) @ image.affine[:3, :3].T
    files = []
    for axis in range(3):
        values = np.zeros(body.shape, np.float64)
        values[box] = (places + image.affine[:3, 3])[box][..., axis] + 1000.0
        files.append(str(folder / f"world_{axis}.nii.gz"))
        nib.save(nib.Nifti1Image(values, image.affine), files[-1])
    return files


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "MRI" not in name and name != "two channels"])
def test_affine_is_that_of_the_resampled_grid(variant: str, case: tuple[str, str], tmp_path: Path) -> None:
    files = write_coordinates(tmp_path, case)
    made = plans_of(**VARIANTS[variant], normalization_schemes=["NoNormalization"] * 3, use_mask_for_norm=[False] * 3)
    made["foreground_intensity_properties_per_channel"]["2"] = STATISTICS
    plans = NNUNetPlans(made, dataset_of(channels=("x", "y", "z")), CONFIGURATION)
    image = pipeline(plans)({"image": files})["image"]
    shape = image.shape[1:]
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"))
    places = torch.einsum("ab,b...->a...", image.affine[:3, :3], index) + image.affine[:3, 3, None, None, None]
    missed = (image.as_tensor().double() - 1000.0 - places).abs()
    # Splines keep straight lines but near the faces. Thick slices are not interpolated: each is repeated, or left out.
    inside = missed[:, 5:-5, 5:-5, 5:-5]
    if variant == "thick slices apart":
        thick = image.affine[:3, 1] / image.affine[:3, 1].norm()
        error = image.as_tensor().double() - 1000.0 - places
        along = torch.einsum("a,a...->...", thick, error)
        inside = (error - thick[:, None, None, None] * along)[:, 5:-5, :, 5:-5].abs()
        # The nearest slice is less than half an old slice away.
        assert float(along[5:-5, :, 5:-5].abs().max()) <= 0.5 * 11.0 + 1e-3
    assert inside.numel() > 500 and float(inside.max()) < 0.02
    assert float(inside.mean()) < 2e-3


@pytest.mark.parametrize("variant", ["SimpleITK", "x first", "nibabel, turned to RAS", "SimpleITK, turned to RAS"])
def test_label_through_the_affine_is_the_label_of_nnunet(variant: str, case: tuple[str, str]) -> None:
    item = pipeline(plans_for(variant))({"image": case[0], "label": case[1]})
    label = nib.load(case[1])
    shape = item["image"].shape[1:]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    to_file = np.linalg.inv(label.affine) @ item["image"].affine.numpy()
    near = np.rint(index @ to_file[:3, :3].T + to_file[:3, 3]).astype(int)
    near = np.clip(near, 0, np.array(label.shape) - 1)
    moved = np.asarray(label.dataobj)[tuple(np.moveaxis(near, -1, 0))]
    mine = item["label"][0].numpy()
    assert (moved == mine).mean() > 0.97
    # One voxel further along any axis is worse: the place is not right by chance.
    for axis in range(3):
        assert (np.roll(moved, 1, axis) == mine).mean() < (moved == mine).mean() - 0.01


def test_ct_normalization_is_an_exact_map_to_hu(case: tuple[str, str]) -> None:
    plans = plans_for()
    steps = pipeline(plans)
    read = read_intensity(steps)
    assert read.exact is not None and not read.depends_on_image
    assert read.exact.window == pytest.approx((-160.0, 240.0))
    raw = steps.transforms[0]({"image": case[0]})["image"].as_tensor()
    made = steps.transforms[1]({"image": steps.transforms[0]({"image": case[0]})["image"]})["image"].as_tensor()
    assert torch.allclose(read.exact(raw[None])[0], made, atol=1e-5)
    assert float(made.min()) == pytest.approx((-160.0 - 40.0) / 70.0)


def test_several_channels_of_fixed_maps_have_one_each() -> None:
    made = plans_of(normalization_schemes=["CTNormalization", "NoNormalization"], use_mask_for_norm=[False] * 2)
    found = NNUNetPlans(made, dataset_of(channels=("CT", "dose")), CONFIGURATION).intensity
    assert found is not None
    raw = torch.tensor([-1000.0, 40.0, 3000.0]).expand(1, 2, 3).clone()
    assert torch.allclose(found(raw)[0, 0], torch.tensor([-200.0 / 70, 0.0, 200.0 / 70]))
    assert torch.equal(found(raw)[0, 1], raw[0, 1])


def test_statistics_of_the_image_are_recorded(case: tuple[str, str]) -> None:
    plans = plans_for("two channels")
    assert plans.intensity is None
    steps = install_recorders(pipeline(plans))
    raw = steps.transforms[0]({"image": [case[0]] * 2})["image"].as_tensor()
    batch = list_data_collate([steps({"image": [case[0]] * 2})])["image"]
    found = map_of_batch(read_intensity(steps), batch)
    scale = torch.as_tensor(found.scale).flatten()
    assert scale.tolist() == pytest.approx([1 / 70, 1 / float(raw[1].std(correction=0))], rel=1e-3)


def test_what_the_mask_leaves_out_is_held(case: tuple[str, str]) -> None:
    steps = install_recorders(pipeline(plans_for("MRI in a mask")))
    batch = list_data_collate([steps({"image": case[0]})])["image"]
    found = map_of_batch(read_intensity(steps), batch)
    raw = steps.transforms[0]({"image": case[0]})["image"].as_tensor()
    inside = raw[raw != 0]
    assert float(torch.as_tensor(found.scale)) == pytest.approx(1 / float(inside.std(correction=0)), rel=1e-3)


@pytest.mark.parametrize("variant", ["SimpleITK", "x first", "nibabel", "nibabel, turned to RAS", "slices of 2D"])
@pytest.mark.parametrize("direction", [(-1, -1, 1), (1, 1, 1)])
def test_segmentation_comes_back_to_the_file(variant: str, direction: tuple[int, ...], tmp_path: Path) -> None:
    """A perfect answer is the label again, on the grid of the file, whichever way the file is stored."""
    image, label = write_case(tmp_path, seed=3, oblique=False)
    for path in (image, label):
        stored = nib.load(path)
        turned = stored.as_reoriented([[axis, sign] for axis, sign in zip((1, 0, 2), direction, strict=True)])
        nib.save(turned, path)
    plans = plans_for(variant)
    item = list_data_collate([pipeline(plans)({"image": image, "label": label})])
    item = {"image": item["image"][0], "label": item["label"][0]}
    item["pred"] = 20.0 * torch.nn.functional.one_hot(item["label"][0].long(), 3).movedim(-1, 0)
    found = SegmentNNUNetd("pred", "image", plans, Components())(item)["pred"]
    stored = nib.load(label)
    truth = torch.as_tensor(np.asarray(stored.dataobj))
    assert found.shape[1:] == truth.shape
    assert np.allclose(found.affine.numpy(), stored.affine, atol=1e-3)
    # What was resampled twice is not the same at the edges of organs.
    assert float((found.as_tensor()[0] == truth).float().mean()) > 0.97


def test_wrong_files_are_named(case: tuple[str, str], tmp_path: Path) -> None:
    steps = pipeline(plans_for())
    empty = nib.Nifti1Image(np.zeros((16, 16, 16), np.int16), np.eye(4))
    nib.save(empty, tmp_path / "air.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    nib.save(nib.Nifti1Image(np.ones((16, 16, 16, 2), np.int16), np.eye(4)), tmp_path / "two.nii.gz")
    for given, error, words in (
        ([case[0], case[0]], ValueError, "must be 1 file"),
        (tmp_path / "none.nii.gz", FileNotFoundError, "there is no image"),
        (tmp_path / "air.nii.gz", ValueError, "zero everywhere"),
        (tmp_path / "text.nii.gz", ValueError, "nnU-Net cannot read text.nii.gz"),
        (tmp_path / "two.nii.gz", ValueError, "has 2 channels"),
        (3, TypeError, "must be the path"),
    ):
        with pytest.raises(error, match=words):
            steps.transforms[0]({"image": given})
    wrong = tmp_path / "label.nii.gz"
    nib.save(empty, wrong)
    item = Compose(steps.transforms[:3])({"image": case[0], "label": str(wrong)})
    with pytest.raises(ValueError, match="must be on the image's grid"):
        steps.transforms[3](item)


def test_images_without_a_place_are_refused(case: tuple[str, str]) -> None:
    from monai_adversarial.audit.targets.nnunet_geometry import affine_as_read

    with pytest.raises(TargetError, match="knows no position"):
        affine_as_read({"spacing": [1.0, 1.0, 1.0]})
    with pytest.raises(ValueError, match="must have gone through"):
        case_properties(torch.zeros(1))
