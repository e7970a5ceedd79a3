# SPDX-License-Identifier: Apache-2.0
"""Maps from HU to a network's values: MONAI's transforms as oracles, chains, per-sample maps, texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    Identityd,
    NormalizeIntensity,
    NormalizeIntensityd,
    ScaleIntensity,
    ScaleIntensityd,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    ShiftIntensity,
    ShiftIntensityd,
    ThresholdIntensity,
    ThresholdIntensityd,
)

from monai_adversarial.purifiers.gaussian import GaussianDenoise
from monai_adversarial.utils.intensity import as_intensity_map, as_one_map, map_of_transform
from monai_adversarial.utils.intensity_map import IntensityMap


def hounsfield(channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Whole HU from air to metal, zeros among them, (1, channel, spatial...)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1100, 1900, (1, channels, 7, 6, 5), generator=generator).float() * (
        torch.rand((1, channels, 7, 6, 5), generator=generator) > 0.2
    )


EXACT = [
    ScaleIntensityRange(-57, 164, 0, 1, clip=True),
    ScaleIntensityRange(-57, 164, -1, 1, clip=False),
    ScaleIntensityRange(-57, 164, b_min=0.1, clip=True),
    ScaleIntensityRange(-57, 164, b_max=0.7, clip=True),
    ScaleIntensityRange(-57, 164, b_min=-3.0),
    ScaleIntensityRange(-57, 164),
    ScaleIntensityRange(164, -57, 0, 1, clip=True),
    ScaleIntensityRange(-57, 164, 1, 0),
    pytest.param(ScaleIntensityRange(40, 40, 2, 3, clip=True), marks=pytest.mark.filterwarnings("ignore:Divide by")),
    ScaleIntensityRange(0, 255, 0, 1, dtype=torch.float64),
    NormalizeIntensity(40.0, 150.0),
    NormalizeIntensity(np.array(40.0), torch.tensor([150.0])),
    NormalizeIntensity(40.0, 0.0),
    NormalizeIntensity(40.0, 150.0, nonzero=True),
    ShiftIntensity(1024.0),
    ScaleIntensity(None, None, factor=-0.75),
    ThresholdIntensity(-100, above=True, cval=-100),
    ThresholdIntensity(300, above=False, cval=300),
]


@pytest.mark.parametrize("transform", EXACT)
def test_the_map_of_a_transform_does_what_it_does(transform: Any) -> None:
    image = hounsfield()
    found = map_of_transform(transform)
    assert found is not None and found.is_uniform
    expected = torch.as_tensor(transform(image[0].clone()))[None]
    room = 1e-6 * float(expected.abs().max())  # two float32 roundings in another order
    assert torch.allclose(found(image), expected.to(image), rtol=0, atol=room)


@pytest.mark.parametrize(
    "transform",
    [
        NormalizeIntensity([40.0, 1.0, -7.0], [150.0, 30.0, 0.0], channel_wise=True),
        NormalizeIntensity([40.0, 1.0, -7.0], [150.0, 30.0, 10.0], channel_wise=True, nonzero=True),
        NormalizeIntensity(torch.tensor([40.0, 1.0, -7.0]).view(3, 1, 1, 1), torch.tensor(150.0)),
    ],
)
def test_statistics_of_each_channel_give_a_map_of_each_channel(transform: NormalizeIntensity) -> None:
    image = hounsfield(channels=3)
    found = map_of_transform(transform)
    assert found is not None and not found.is_uniform
    expected = torch.as_tensor(transform(image[0].clone()))[None]
    assert torch.allclose(found(image), expected, rtol=1e-6, atol=1e-5)
    assert torch.allclose(found.channels([2, 0])(image[:, [2, 0]]), expected[:, [2, 0]], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("dictionary", "array"),
    [
        (ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True), ScaleIntensityRange(-57, 164, 0, 1, clip=True)),
        (NormalizeIntensityd("image", 40.0, 150.0), NormalizeIntensity(40.0, 150.0)),
        (ShiftIntensityd("image", 3.0), ShiftIntensity(3.0)),
        (ScaleIntensityd("image", None, None, 2.0), ScaleIntensity(None, None, 2.0)),
        (ThresholdIntensityd("image", 5.0, cval=5.0), ThresholdIntensity(5.0, cval=5.0)),
    ],
)
def test_dictionary_transforms_have_the_map_of_their_array_transform(dictionary: Any, array: Any) -> None:
    assert map_of_transform(dictionary) == map_of_transform(array) is not None


@pytest.mark.parametrize(
    "transform",
    [
        ScaleIntensity(0, 1),
        NormalizeIntensity(),
        NormalizeIntensity(subtrahend=40.0),
        ScaleIntensityRange(-57, 164, 1, 0, clip=True),  # torch.clamp(1, 0) is a constant image
        ScaleIntensityRange(0, 1, 0, 255, dtype=np.uint8),
        ThresholdIntensity(100, cval=0),
        ShiftIntensityd("image", 3.0, factor_key="mean"),
    ],
)
def test_what_depends_on_the_image_or_is_not_affine_has_no_exact_map(transform: Any) -> None:
    assert map_of_transform(transform) is None


def test_only_one_end_given_scales_as_monai_and_clips_there() -> None:
    found = as_intensity_map(ScaleIntensityRange(0, 100, b_min=0.25, clip=True))
    assert found is not None and found.high is None
    assert found(torch.tensor([[[-50.0, 50.0, 400.0]]])).tolist() == [[[0.25, 0.5, 4.0]]]


def test_identity_has_the_map_that_does_nothing() -> None:
    assert map_of_transform(Identityd("image")) == IntensityMap(1.0, 0.0)


def test_image_statistics_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"intensity=NormalizeIntensity is no fixed map: .* read_intensity\.$"):
        as_intensity_map(NormalizeIntensity(nonzero=True))
    with pytest.raises(TypeError, match="intensity must be an IntensityMap.*; got Compose"):
        from monai.transforms import Compose

        as_intensity_map(Compose([]))


@pytest.mark.parametrize(
    "pair",
    [
        (ScaleIntensityRange(-57, 164, 0, 1, clip=True), NormalizeIntensity(0.5, 0.25)),
        (ScaleIntensityRange(-57, 164, 0, 1, clip=True), ScaleIntensityRange(0, 1, 1, 0)),
        (ShiftIntensity(1024.0), ScaleIntensityRange(0, 2000, -1, 1, clip=True)),
        (ScaleIntensityRange(-100, 100, 0, 1, clip=True), ScaleIntensityRange(0.25, 2.0, 0, 1, clip=True)),
        (NormalizeIntensity(40.0, 150.0, nonzero=True), ScaleIntensityRange(-3, 3, -1, 1, clip=True)),
        (ShiftIntensity(-30.0), NormalizeIntensity(40.0, 150.0, nonzero=True)),
        (NormalizeIntensity(40.0, 150.0, nonzero=True), NormalizeIntensity(1.0, 2.0, nonzero=True)),
    ],
)
def test_a_chain_is_one_map(pair: tuple[Any, Any]) -> None:
    image = hounsfield()
    image[0, 0, 0, 0, 0] = 30.0
    first, second = (map_of_transform(transform) for transform in pair)
    assert first is not None and second is not None
    expected = torch.as_tensor(pair[1](pair[0](image[0].clone())))[None]
    assert torch.allclose(first.then(second)(image), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


def test_a_scalar_map_computes_what_it_always_did() -> None:
    image = hounsfield()
    found = IntensityMap.from_window(-57, 164)
    scale = 1 / 221
    assert torch.equal(found(image), (image * scale + (0.0 - -57 * scale)).clamp(0.0, 1.0))
    assert found.window == ((0.0 - found.offset) / scale, (1.0 - found.offset) / scale)


def test_each_sample_and_channel_can_have_its_own_map() -> None:
    image = torch.cat([hounsfield(2, seed=1), hounsfield(2, seed=2)])
    maps = [[IntensityMap.from_window(-100 * (1 + b), 200 + 50 * c) for c in range(2)] for b in range(2)]
    scale, offset = (torch.tensor([[getattr(m, name) for m in row] for row in maps]) for name in ("scale", "offset"))
    found = IntensityMap(scale[..., None, None, None], offset, torch.zeros(1, 1), torch.full((2, 2), 1.0))
    for b in range(2):
        for c in range(2):
            alone = maps[b][c](image[b : b + 1, c : c + 1])
            assert torch.allclose(found(image)[b : b + 1, c : c + 1], alone, rtol=0, atol=1e-6)
    assert torch.equal(found.select([1])(image[1:]), found(image)[1:])
    inside = (found(image) > 0) & (found(image) < 1)
    assert torch.allclose(found.inverse(found(image))[inside], image[inside], rtol=1e-4, atol=1e-2)
    window = found.window
    assert window is not None and torch.allclose(window[0], torch.tensor([[-100.0] * 2, [-200.0] * 2]).double())
    chained = found.then(IntensityMap(2.0, -1.0))
    assert torch.allclose(chained(image), found(image) * 2 - 1, rtol=0, atol=1e-5)
    assert found.fraction_outside(found(image)) == 0.0 and found.fraction_outside(image) > 0.5
    assert (
        str(found) == "sample 0 channel 0: -100..200 HU -> 0..1; sample 0 channel 1: -100..250 HU -> 0..1; "
        "sample 1 channel 0: -200..200 HU -> 0..1; sample 1 channel 1: -200..250 HU -> 0..1"
    )


def test_voxels_that_the_pipeline_holds_or_clips_are_not_reachable() -> None:
    found = IntensityMap(0.01, 0.5, 0.0, 1.0, held=0.25)
    image = torch.tensor([[[0.0, 0.25, 0.2500001, 0.3, 1.0, 0.9]]])
    assert found.reachable(image).tolist() == [[[False, False, False, True, False, True]]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (IntensityMap.from_window(-57, 164), "-57..164 HU -> 0..1"),
        (IntensityMap(-0.01, 0.5, 0.0, 1.0), "-50..50 HU -> 1..0"),
        (IntensityMap(0.01, -0.5), "HU * 0.01 - 0.5, not clipped"),
        (IntensityMap(0.01, 0.5, low=0.0), "HU * 0.01 + 0.5, at least 0"),
        (IntensityMap(1.0, 0.0), "HU as they are"),
        (
            IntensityMap(0.01, 0.5, -1, 1, held=0.0),
            "-150..50 HU -> -1..1, voxels of 0 HU held at 0",
        ),
    ],
)
def test_a_map_says_what_it_does(given: IntensityMap, text: str) -> None:
    assert str(given) == text


def test_maps_agree_when_they_give_the_same_values() -> None:
    found = IntensityMap.from_window(-57, 164)
    assert found.agrees_with(as_intensity_map(ScaleIntensityRange(-57.0, 164.0, 0, 1, clip=True)))  # type: ignore[arg-type]
    assert found.agrees_with(IntensityMap(torch.full((2, 1), found.scale), torch.full((2, 1), found.offset), 0.0, 1.0))
    for other in (
        IntensityMap.from_window(-1000, 1000),
        IntensityMap.from_window(-57, 165),
        IntensityMap.from_window(-57, 164, -1, 1),
        IntensityMap.from_window(-57, 164, clip=False),
    ):
        assert not found.agrees_with(other) and not other.agrees_with(found) and found != other


def test_what_is_no_map_is_refused() -> None:
    for scale in (0.0, float("nan"), torch.tensor([[1.0, 0.0]])):
        with pytest.raises(ValueError, match="scale of an IntensityMap must be finite and not 0"):
            IntensityMap(scale, 0.0)
    with pytest.raises(ValueError, match=r"offset of an IntensityMap must be a number or a tensor .* shape \(3,\)"):
        IntensityMap(1.0, torch.zeros(3))
    with pytest.raises(ValueError, match="needs b_max > b_min"):
        IntensityMap.from_window(0, 1, 1, 0)


def test_arguments_in_hu_need_one_increasing_map() -> None:
    assert as_one_map({"a_min": 0, "a_max": 1}) == IntensityMap(1.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="intensity must not invert the image here"):
        GaussianDenoise(1.0, intensity=IntensityMap(-1.0, 0.0))
    with pytest.raises(ValueError, match="intensity must be one map for all voxels and channels here"):
        as_one_map(NormalizeIntensity([1.0, 2.0], [1.0, 2.0], channel_wise=True))


def test_voxels_that_are_held_outside_the_window_were_scaled_by_the_map() -> None:
    found = IntensityMap(0.0025, 0.4, 0.5, 1.0, held=0.0)
    image = torch.tensor([[[[0.0, 0.5, 0.75, 1.0]]]])
    assert found.fraction_outside(image) == 0.0
    assert IntensityMap(0.0025, 0.4, 0.5, 1.0).fraction_outside(image) == 0.25
