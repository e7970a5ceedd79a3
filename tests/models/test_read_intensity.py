# SPDX-License-Identifier: Apache-2.0
"""The intensity map of live pipelines, with the pipelines themselves as oracles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CopyItemsd,
    EnsureChannelFirstd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    MapTransform,
    NormalizeIntensity,
    NormalizeIntensityd,
    OneOf,
    Orientationd,
    RandFlipd,
    RandGaussianNoised,
    RandomOrder,
    RandShiftIntensityd,
    ScaleIntensityd,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    ShiftIntensityd,
    Spacingd,
)

from monai_adversarial.models import ReadIntensity, check_agrees, map_of_batch, read_intensity
from monai_adversarial.utils.intensity import IntensityMap

WINDOW = IntensityMap.from_window(-57, 164)
SPLEEN = ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True)


def test_a_window_is_read_exactly_with_its_place() -> None:
    pipeline = Compose(
        [
            LoadImaged(["image", "label"]),
            EnsureChannelFirstd(["image", "label"]),
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Spacingd(["image", "label"], pixdim=(1.5, 1.5, 2.0)),
            SPLEEN,
            RandShiftIntensityd("image", 0.1),
            EnsureTyped("image"),
        ]
    )
    read = read_intensity(pipeline)
    assert read.exact == WINDOW and not read.depends_on_image and read.unknown is None
    assert read.indices == ((4,),)
    assert str(read) == "-57..164 HU -> 0..1 from preprocessing#4"
    # What is exact needs no record of the batch.
    assert map_of_batch(read, torch.zeros(1, 1, 2, 2, 2)) is read.exact


def test_nested_and_array_pipelines_and_single_transforms_are_read() -> None:
    nested = Compose([LoadImaged("image"), Compose([RandFlipd("image"), Compose([SPLEEN])])])
    assert str(read_intensity(nested, name="validate#preprocessing")) == (
        "-57..164 HU -> 0..1 from validate#preprocessing#1#1#0"
    )
    array = Compose([ScaleIntensityRange(-57, 164, 0, 1, clip=True)])
    assert read_intensity(array).exact == read_intensity(SPLEEN).exact == WINDOW
    assert read_intensity(SPLEEN).text == "-57..164 HU -> 0..1 from preprocessing"


def test_a_chain_is_one_map_that_does_what_the_pipeline_does() -> None:
    pipeline = Compose([ShiftIntensityd("image", -1024.0), SPLEEN, NormalizeIntensityd("image", 0.5, 0.2)])
    read = read_intensity(pipeline)
    image = torch.randint(0, 3000, (1, 6, 5, 4)).float()
    expected = torch.as_tensor(pipeline({"image": image.clone()})["image"])
    assert read.exact is not None
    assert torch.allclose(read.exact(image[None])[0], expected, rtol=0, atol=1e-5)
    assert read.indices == ((0,), (1,), (2,))
    assert read.text == "967..1188 HU -> -2.5..2.5 from preprocessing#0 and preprocessing#1 and preprocessing#2"


def test_other_keys_random_and_spatial_transforms_are_not_part_of_the_map() -> None:
    pipeline = Compose(
        [
            ScaleIntensityRanged("label", 0, 9, 0, 1),
            RandGaussianNoised("image"),
            OneOf([RandFlipd("image"), RandShiftIntensityd("image", 0.2)]),
            CopyItemsd("image", names="copy"),
            ScaleIntensityd("copy"),
        ]
    )
    read = read_intensity(pipeline)
    assert read.exact == IntensityMap(1.0, 0.0)
    assert read.text == "raw values (preprocessing leaves intensities as they are)"
    assert read_intensity(None).exact == IntensityMap(1.0, 0.0)
    # What the image is copied from counts.
    assert read_intensity(Compose([SPLEEN, CopyItemsd("image", names="copy")]), "copy").exact == WINDOW


@pytest.mark.parametrize("kind", [OneOf, RandomOrder])
def test_a_choice_among_intensity_transforms_is_unknown(kind: Any) -> None:
    read = read_intensity(Compose([kind([SPLEEN, NormalizeIntensityd("image")])]))
    assert read.exact is None
    assert read.unknown == (
        f"preprocessing#0 ({kind.__name__}) chooses at random among transforms that change intensities for good."
    )
    with pytest.raises(ValueError, match="chooses at random"):
        map_of_batch(read, torch.zeros(1, 1, 2, 2, 2))


def test_images_that_are_joined_have_a_map_where_all_have_the_same() -> None:
    same = ScaleIntensityRanged(["t1", "t2"], 0, 1000, 0, 1)
    assert read_intensity(Compose([same, ConcatItemsd(["t1", "t2"], name="image")])).exact == IntensityMap(1e-3, 0.0)
    one = ScaleIntensityRanged(["t1"], 0, 1000, 0, 1)
    read = read_intensity(Compose([one, ConcatItemsd(["t1", "t2"], name="image")]))
    assert read.unknown is not None and "before ConcatItemsd joins them (t1, t2)" in read.unknown


def test_what_depends_on_the_image_says_so() -> None:
    read = read_intensity(Compose([NormalizeIntensityd("image", nonzero=True), ScaleIntensityd("image", -1, 1)]))
    assert read.depends_on_image and read.exact is None and read.unknown is None
    assert read.text == (
        "fitted for each image at preprocessing#0 (NormalizeIntensityd, zeros stay zero) and "
        "preprocessing#1 (ScaleIntensityd)"
    )
    with pytest.raises(ValueError, match=r"no record of preprocessing#0 \(NormalizeIntensityd.*install_recorders"):
        map_of_batch(read, torch.zeros(1, 1, 2, 2, 2))


def test_subclasses_may_do_anything_and_are_fitted() -> None:
    class Inverted(ScaleIntensityRanged):
        def __call__(self, data: Any) -> Any:
            return {**data, "image": 1 - super().__call__(data)["image"]}

    read = read_intensity(Compose([Inverted("image", -57, 164, 0, 1, clip=True)]))
    assert read.depends_on_image
    assert read_intensity(Compose([Lambdad("image", lambda x: x / 2, overwrite="half")])).exact == IntensityMap(
        1.0, 0.0
    )


def test_a_typed_map_that_contradicts_the_pipeline_is_refused_with_both() -> None:
    read = read_intensity(Compose([SPLEEN]))
    assert check_agrees({"a_min": -57, "a_max": 164}, read) is read
    assert check_agrees(None, read) is read
    with pytest.raises(ValueError) as caught:
        check_agrees({"a_min": -1000, "a_max": 1000}, read)
    assert str(caught.value) == (
        "intensity is given as -1000..1000 HU -> 0..1, but preprocessing maps -57..164 HU -> 0..1 from "
        "preprocessing#0: leave intensity out, or give the map that the pipeline applies."
    )
    with pytest.raises(ValueError, match="HU \\* 0.00452.*not clipped, but preprocessing maps -57..164 HU -> 0..1"):
        check_agrees(ScaleIntensityRange(-57, 164, 0, 1), read)
    with pytest.raises(ValueError, match="-57..164 HU -> 0..1, but preprocessing maps HU as they are from|raw values"):
        check_agrees(WINDOW, read_intensity(Compose([RandFlipd("image")])))


def test_a_typed_map_stands_where_the_pipeline_has_none() -> None:
    read = ReadIntensity(unknown="nobody knows")
    assert check_agrees(NormalizeIntensity(40.0, 150.0), read) == IntensityMap(1 / 150, -40 / 150)


def test_a_custom_transform_may_say_its_map() -> None:
    """One that reads and scales in one step cannot be fitted: it has no image before it."""

    class ReadsAndScales(MapTransform):
        intensity_map = IntensityMap(0.01, 0.5, 0.0, 1.0)

        def __call__(self, data: Any) -> Any:
            return data

    class OnlyMoves(ReadsAndScales):
        intensity_map = IntensityMap(1.0, 0.0)

    read = read_intensity(Compose([ReadsAndScales("image"), OnlyMoves("image")]))
    assert read.exact == ReadsAndScales.intensity_map and read.indices == ((0,),)
    assert read_intensity(OnlyMoves("image")).steps == ()
