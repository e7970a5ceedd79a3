# SPDX-License-Identifier: Apache-2.0
"""Purifiers in MONAI pipelines: after attacks, before the network, and inverted on its output."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from monai_adversarial.transforms import (
    AdvBiasFieldd,
    MedianDenoised,
    RandResizeShiftd,
    TotalVariationDenoised,
    WaveletDenoised,
)
from tests.helpers import tiny_segmentation_network


@pytest.fixture
def scan(tmp_path: Path) -> str:
    """A NIfTI file in LPS orientation with a bright ball off its center."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (28, 24, 20)], indexing="ij"))
    ball = ((grid - np.array([17, 10, 9]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 36
    voxels = 40 + 100 * ball + np.random.default_rng(0).normal(0, 10, ball.shape)
    nib.Nifti1Image(voxels.astype(np.int16), np.diag([-2.0, -2.0, 3.0, 1.0])).to_filename(tmp_path / "scan.nii.gz")
    return str(tmp_path / "scan.nii.gz")


def preprocessing(*more) -> Compose:
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(2.0, 2.0, 2.0)),
            *more,
            ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True),
        ]
    )


def test_adversarial_transform_then_purifier(scan):
    attack = AdvBiasFieldd("image", tiny_segmentation_network(), max_gain=0.2, steps=2)
    attacked = preprocessing(attack)({"image": scan})["image"]
    purified = preprocessing(attack, WaveletDenoised("image", noise=10.0))({"image": scan})["image"]
    assert attacked.shape == purified.shape
    assert not torch.equal(attacked.as_tensor(), purified.as_tensor())
    assert [info["class"] for info in purified.applied_operations] == [
        info["class"] for info in attacked.applied_operations
    ]


def test_purifier_reduces_noise_where_the_scan_is_flat(scan):
    plain = preprocessing()({"image": scan})["image"].as_tensor()
    purified = preprocessing(TotalVariationDenoised("image", weight=10.0))({"image": scan})["image"].as_tensor()
    corner = (slice(None), slice(18, 28), slice(0, 12), slice(0, 12))
    assert float(purified[corner].std()) < 0.6 * float(plain[corner].std())


def test_output_is_inverted_as_without_the_purifier(scan):
    """Purifiers that move nothing leave no trace that Invertd would have to undo."""
    made = {}
    for name, more in (("plain", ()), ("purified", (MedianDenoised("image"),))):
        steps = preprocessing(*more)
        data = steps({"image": scan})
        data["pred"] = MetaTensor((plain_ball(data["image"])).float())
        invert = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=True)
        made[name] = invert(data)["pred"]
    assert made["plain"].shape == (1, 28, 24, 20)
    assert torch.equal(made["plain"].affine, made["purified"].affine)
    assert dice(made["plain"], made["purified"]) > 0.95


def plain_ball(image: torch.Tensor) -> torch.Tensor:
    """What a perfect network finds in the image."""
    return torch.as_tensor(image) > 0.62


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = torch.as_tensor(a) > 0.5, torch.as_tensor(b) > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_prediction_on_a_moved_image_is_brought_back(scan):
    moved = RandResizeShiftd("image", scale=(1.15, 1.15), shift=6.0)
    moved.set_random_state(1)
    steps, plain = preprocessing(moved), preprocessing()
    reference = plain({"image": scan})
    wanted = Invertd("pred", transform=plain, orig_keys="image", nearest_interp=True)(
        {**reference, "pred": MetaTensor(plain_ball(reference["image"]).float())}
    )["pred"]
    data = steps({"image": scan})
    assert dice(plain_ball(data["image"]), plain_ball(reference["image"])) < 0.85
    data["pred"] = MetaTensor(plain_ball(data["image"]).float())
    found = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=True)(data)["pred"]
    assert found.shape == (1, 28, 24, 20)
    assert dice(found, wanted) > 0.9


def test_items_of_a_batch_invert_each_with_its_own_draw(scan):
    from monai.data import DataLoader, Dataset

    moved = RandResizeShiftd("image", scale=(0.9, 1.1), shift=6.0).set_random_state(0)
    steps = preprocessing(moved)
    batch = next(iter(DataLoader(Dataset([{"image": scan}] * 2, steps), batch_size=2)))
    assert not torch.equal(batch["image"][0].as_tensor(), batch["image"][1].as_tensor())
    batch["pred"] = (batch["image"] > 0.62).float()
    invert = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=True)
    first, second = (invert(item)["pred"] for item in decollate_batch(batch))
    assert dice(first, second) > 0.85
