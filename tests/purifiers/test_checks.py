# SPDX-License-Identifier: Apache-2.0
"""Mistakes that would pass for a result: wrong units, a missing channel dimension, things that are no image."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, SaveImage

from monai_adversarial.attacks import PGD
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import (
    BiasFieldCorrection,
    BitDepthReduction,
    GaussianDenoise,
    MedianDenoise,
    MedianDenoised,
    N4BiasFieldCorrection,
    Purifier,
    RandResizeShift,
    TotalVariationDenoise,
    WaveletDenoise,
)
from tests.helpers import random_image, random_label, tiny_segmentation_network

WINDOW = {"a_min": -160, "a_max": 240}
COUNTING = [TotalVariationDenoise(), BitDepthReduction(), WaveletDenoise(noise=5.0), RandResizeShift(pad_value=-1000)]
NOT_COUNTING = [
    GaussianDenoise(spacing=2.0),
    MedianDenoise(),
    WaveletDenoise(),
    RandResizeShift(spacing=2.0),
    BiasFieldCorrection(domain="image"),
    N4BiasFieldCorrection(domain="image", spacing=2.0),
]


def scaled() -> torch.Tensor:
    return random_image((1, 12, 12, 12)) * 0.5 + 0.25


def hounsfield() -> torch.Tensor:
    return scaled() * 400 - 160


def name(purifier: Purifier) -> str:
    return type(purifier).__name__


@pytest.mark.parametrize("purifier", COUNTING, ids=name)
def test_scaled_image_and_amounts_in_hu_are_warned_of(purifier: Purifier) -> None:
    purifier.spacing = 2.0
    with pytest.warns(UserWarning, match=f"{name(purifier)} counts in HU, but the image lies within 0.25"):
        purifier(scaled())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        purifier(hounsfield())


@pytest.mark.parametrize("purifier", NOT_COUNTING, ids=name)
def test_purifiers_that_count_nothing_in_hu_take_any_image(purifier: Purifier) -> None:
    # recorded, not raised: ITK does not survive a warning that is raised while it is imported
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        purifier(scaled())
    assert not [one for one in caught if "counts in HU" in str(one.message)]


def test_map_that_did_not_scale_the_image_is_refused() -> None:
    purifier = TotalVariationDenoise(intensity=WINDOW)
    says = "was given intensity=, which maps HU to 0 to 1, but .*% of the image's voxels lie far outside"
    with pytest.raises(ValueError, match=says):
        purifier(hounsfield())
    with pytest.raises(ValueError, match=says):
        PurifiedInferer(None, purifier)(hounsfield()[None], tiny_segmentation_network())
    assert purifier(scaled()).shape == (1, 12, 12, 12)


def test_an_attack_that_maps_before_the_purifier_is_noticed() -> None:
    image, label = hounsfield()[None], random_label((1, 1, 12, 12, 12))
    attack, inferer = PGD(8, units="HU", steps=1), SlidingWindowInferer((12, 12, 12))

    def model(purifier: TotalVariationDenoise) -> AttackedModel:
        defended = PurifiedInferer(inferer, purifier)
        return AttackedModel(tiny_segmentation_network(), defended, image_units="HU", intensity=WINDOW)

    with pytest.warns(UserWarning, match="TotalVariationDenoise counts in HU"):
        attack(model(TotalVariationDenoise()), image, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(model(TotalVariationDenoise(intensity=WINDOW)), image, label)


def test_a_volume_without_channel_dimension_is_refused(tmp_path) -> None:
    SaveImage(tmp_path, output_postfix="", separate_folder=False, print_log=False)(
        MetaTensor(hounsfield(), affine=torch.eye(4), meta={"filename_or_obj": "scan.nii.gz"})
    )
    load = LoadImage()
    with pytest.raises(RuntimeError) as raised:
        Compose([load, MedianDenoise()])(tmp_path / "scan.nii.gz")
    assert "img must have a channel dimension first, got the whole volume (12, 12, 12)" in str(raised.value.__cause__)
    assert Compose([load, EnsureChannelFirst(), MedianDenoise()])(tmp_path / "scan.nii.gz").shape == (1, 12, 12, 12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MedianDenoise()({"image": scaled()}), "got dict; in a pipeline of dictionaries use MedianDenoised"),
        (lambda: MedianDenoised("image")({"image": "a.nii.gz"}), "img must be an array or a tensor, got str; load it"),
        (lambda: MedianDenoise()([1.0]), "img must be an array or a tensor, got list."),
        (lambda: PurifiedInferer(None, MedianDenoise())(np.zeros((1, 1, 4, 4)), None), "inputs must be a tensor"),
        (lambda: PurifiedInferer("SlidingWindowInferer", MedianDenoise()), "inferer must be .*, got str."),
        (lambda: PurifiedInferer(SlidingWindowInferer, MedianDenoise()), "got the class SlidingWindowInferer."),
        (lambda: PurifiedInferer(None, MedianDenoise), "got the class MedianDenoise."),
    ],
)
def test_what_is_no_image_and_no_inferer_is_named(make, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_dictionary_forms_show_their_arguments() -> None:
    assert re.match(r"MedianDenoised\(keys=\('image',\), MedianDenoise\(size=\(3,\)", repr(MedianDenoised("image")))
