# SPDX-License-Identifier: Apache-2.0
"""Maps fitted image by image: MONAI's transforms as oracles, through loaders, batches, inverses and caches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.transforms import (
    AdjustContrastd,
    ClipIntensityPercentilesd,
    Compose,
    HistogramNormalized,
    Invertd,
    Lambdad,
    MapTransform,
    NormalizeIntensity,
    NormalizeIntensityd,
    OneOf,
    RandFlipd,
    RandSpatialCropd,
    ScaleIntensity,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    SpatialPadd,
    StdShiftIntensityd,
    ThresholdIntensityd,
)

from monai_adversarial.models import (
    AttackedModel,
    UnknownIntensity,
    check_agrees,
    install_recorders,
    map_of_batch,
    read_intensity,
)
from monai_adversarial.utils.intensity import IntensityMap

#: float32 arithmetic of a pipeline and of a map, as a share of the output's range
CLOSE = 1e-5


def volume(channels: int = 1, seed: int = 0, zeros: bool = False, size: int = 12) -> torch.Tensor:
    """Noise of another mean and spread for each seed and channel, (channel, spatial...), whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    spread = 50 + 300 * torch.rand((channels, 1, 1, 1), generator=generator)
    mean = 100 + 200 * torch.rand((channels, 1, 1, 1), generator=generator)
    image = torch.randn((channels, size, size + 1, size + 2), generator=generator).mul(spread).add(mean).round()
    if zeros:
        image[:, : size // 3] = 0
    return image


def batch_of(pipeline: Compose, volumes: list[torch.Tensor], workers: int = 0) -> MetaTensor:
    """The collated batch that a loader makes."""
    items = [{"image": MetaTensor(one.clone())} for one in volumes]
    loader = DataLoader(Dataset(items, pipeline), batch_size=len(items), num_workers=workers)
    (batch,) = loader
    return batch["image"]


def halved(image: torch.Tensor) -> torch.Tensor:
    """A custom normalization."""
    return (image - image.mean()) / (2 * image.std())


class Custom(MapTransform):
    """A custom intensity transform."""

    def __call__(self, data: Any) -> Any:
        """Scale between own percentiles."""
        low, high = np.percentile(np.asarray(data["image"]), [3, 97])
        return {**data, "image": ((data["image"] - low) / (high - low)).clamp(0, 1)}


FITTED: list[list[Callable[..., Any]]] = [
    [ScaleIntensityd("image")],
    [ScaleIntensityd("image", channel_wise=True)],
    [NormalizeIntensityd("image")],
    [NormalizeIntensityd("image", nonzero=True, channel_wise=True)],
    [NormalizeIntensityd("image", subtrahend=40.0)],
    [NormalizeIntensityd("image", nonzero=True), ScaleIntensityd("image", -1, 1)],
    [ScaleIntensityRangePercentilesd("image", 1, 99, 0, 1, clip=True, channel_wise=True)],
    [ScaleIntensityRangePercentilesd("image", 5, 95, 0, 1, relative=True)],
    [ScaleIntensityRangePercentilesd("image", 5, 95, None, None)],
    [ClipIntensityPercentilesd("image", 2, 98), NormalizeIntensityd("image", channel_wise=True)],
    [ClipIntensityPercentilesd("image", None, 90), ScaleIntensityd("image", 1, -1)],
    [StdShiftIntensityd("image", 1.5)],
    [Lambdad("image", halved)],
    [Custom("image")],
    [ScaleIntensityRanged("image", -500, 900, 0, 1, clip=True), NormalizeIntensityd("image")],
]


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("transforms", FITTED, ids=lambda t: "+".join(type(one).__name__ for one in t))
def test_the_fitted_map_of_a_batch_does_what_the_pipeline_did(transforms: list[Any], channels: int) -> None:
    volumes = [volume(channels, seed, zeros=seed == 1) for seed in range(2)]
    plain = torch.stack([torch.as_tensor(Compose(transforms)({"image": one.clone()})["image"]) for one in volumes])
    pipeline = install_recorders(Compose(transforms))
    read = read_intensity(pipeline)
    assert read.depends_on_image
    batch = batch_of(pipeline, volumes)
    assert torch.equal(batch.as_tensor(), plain)  # recorded, not changed
    found = map_of_batch(read, batch)
    assert found.scale.shape == (2, channels)  # type: ignore[union-attr]
    again = found(torch.stack(volumes))
    assert torch.allclose(again, plain, rtol=0, atol=CLOSE * float(plain.max() - plain.min()))


def test_whole_body_ct_has_hu_and_its_zeros_are_marked() -> None:
    pipeline = Compose([NormalizeIntensityd("image", nonzero=True), ScaleIntensityd("image", minv=-1.0, maxv=1.0)])
    install_recorders(pipeline)
    raw = volume(zeros=True)
    batch = batch_of(pipeline, [raw])
    found = map_of_batch(read_intensity(pipeline), batch)
    inside = raw[raw != 0]
    # Normalized by mean and spread of the others, then the whole range, zeros included, to -1..1.
    ends = [min(0.0, float((inside.min() - inside.mean()) / inside.std(correction=0)))]
    ends.append(max(0.0, float((inside.max() - inside.mean()) / inside.std(correction=0))))
    assert float(found.scale) == pytest.approx(2 / (ends[1] - ends[0]) / float(inside.std(correction=0)), rel=1e-5)
    assert torch.equal(~found.reachable(batch.as_tensor())[0], raw == 0)
    assert "voxels of 0 HU held at" in str(found)


def test_records_survive_workers_and_spatial_steps_before_between_and_after() -> None:
    pipeline = Compose(
        [
            Spacingd("image", pixdim=(0.8, 1.1, 1.0)),
            NormalizeIntensityd("image", channel_wise=True),
            RandFlipd("image", prob=0.5),
            ScaleIntensityRangePercentilesd("image", 1, 99, -1, 1, clip=True),
            RandSpatialCropd("image", (8, 8, 8), random_size=False),
            SpatialPadd("image", (10, 10, 10)),
        ]
    )
    pipeline.set_random_state(0)
    install_recorders(pipeline)
    volumes = [volume(4, seed) for seed in (3, 4)]
    alone = map_of_batch(read_intensity(pipeline), batch_of(pipeline, volumes))
    # A random flip changes the order of a sum, and nothing else.
    workers = map_of_batch(read_intensity(pipeline), batch_of(pipeline, volumes, workers=2))
    assert workers.agrees_with(alone, 1e-6) and workers.scale.shape == (2, 4)  # type: ignore[union-attr]
    # The map of a volume does not depend on its neighbors in the batch.
    second = map_of_batch(read_intensity(pipeline), batch_of(pipeline, volumes[1:]))
    assert alone.select([1]).agrees_with(second, 1e-6) and not alone.select([0]).agrees_with(second)


def test_the_fit_before_a_crop_is_that_of_the_whole_volume() -> None:
    pipeline = install_recorders(Compose([ScaleIntensityd("image"), RandSpatialCropd("image", (4, 4, 4))]))
    raw = volume()
    found = map_of_batch(read_intensity(pipeline), batch_of(pipeline, [raw]))
    assert float(found.scale) == pytest.approx(1 / float(raw.max() - raw.min()), rel=1e-6)


class LoadsAndScalesd(MapTransform):
    """A custom transform that loads and scales in one step: there is no image before it that a map could start from."""

    def __call__(self, data: Any) -> Any:
        return {**data, "image": MetaTensor(volume() / 1000)}


def test_a_custom_loader_that_may_scale_leaves_the_map_unknown() -> None:
    pipeline = install_recorders(Compose([LoadsAndScalesd("image"), ScaleIntensityd("image")]))
    read = read_intensity(pipeline)
    batch = list_data_collate([pipeline({"image": "scan.nii.gz"})])["image"]
    with pytest.raises(UnknownIntensity, match="LoadsAndScalesd"):
        map_of_batch(read, batch)


def test_recorders_are_installed_once_and_change_nothing_else() -> None:
    pipeline = Compose(
        [
            NormalizeIntensityd("image"),
            Compose([Lambdad("image", halved), RandFlipd("image"), OneOf([RandFlipd("image")])]),
        ]
    )
    plain = pickle.loads(pickle.dumps(pipeline))
    plain.set_random_state(7)
    assert install_recorders(pipeline) is pipeline
    once = list(pipeline.transforms)
    install_recorders(pipeline)
    assert list(pipeline.transforms) == once
    recorded = pickle.loads(pickle.dumps(pipeline))
    recorded.set_random_state(7)
    for seed in range(4):
        before, after = ({"image": MetaTensor(volume(seed=seed))} for _ in range(2))
        assert torch.equal(plain(before)["image"].as_tensor(), recorded(after)["image"].as_tensor())


def test_recorded_pipelines_invert_and_cache_as_before() -> None:
    def pipeline() -> Compose:
        return Compose(
            [
                Lambdad(["image", "label"], torch.neg, inv_func=torch.neg),
                NormalizeIntensityd("image"),
                RandFlipd("image", 1.0),
            ]
        )

    recorded, plain = install_recorders(pipeline()), pipeline()
    item = {"image": MetaTensor(volume()), "label": MetaTensor(volume(seed=9))}
    answers = []
    for steps in (recorded, plain):
        made = steps({key: value.clone() for key, value in item.items()})
        made["pred"] = made["image"].clone()
        answers.append(Invertd("pred", steps, orig_keys="image", nearest_interp=False)(made)["pred"])
    assert torch.equal(torch.as_tensor(answers[0]), torch.as_tensor(answers[1]))
    cached = [CacheDataset([item], steps, progress=False) for steps in (recorded, plain)]
    counts = [len(one._cache[0]["image"].applied_operations) for one in cached]
    assert counts[0] == counts[1]
    assert torch.equal(cached[0]._cache[0]["image"].as_tensor(), cached[1]._cache[0]["image"].as_tensor())
    assert "recorded_intensity#1" in cached[0]._cache[0]["image"].meta


def test_a_single_transform_is_returned_recorded_and_arrays_work() -> None:
    recorded = install_recorders(ScaleIntensity(0, 2))
    raw = volume()
    made = recorded(MetaTensor(raw.clone()))
    found = map_of_batch(read_intensity(recorded), made[None])
    assert torch.allclose(found(raw[None])[0], made.as_tensor(), rtol=0, atol=1e-5)
    steps = install_recorders(Compose([NormalizeIntensity(nonzero=True), ScaleIntensity()]))
    made = steps(MetaTensor(volume(zeros=True)))
    assert torch.allclose(
        map_of_batch(read_intensity(steps), made[None])(volume(zeros=True)[None])[0],
        made.as_tensor(),
        rtol=0,
        atol=1e-5,
    )


def test_decollated_and_collated_again_the_record_is_there() -> None:
    pipeline = install_recorders(Compose([ScaleIntensityd("image")]))
    batch = batch_of(pipeline, [volume(seed=s) for s in range(3)])
    one = decollate_batch(batch)[2]
    found = map_of_batch(read_intensity(pipeline), batch)
    assert map_of_batch(read_intensity(pipeline), one[None]) == found.select([2])


@pytest.mark.parametrize(
    "transform",
    [
        HistogramNormalized("image"),
        AdjustContrastd("image", gamma=1.05),
        ClipIntensityPercentilesd("image", 5, 95, sharpness_factor=0.05),
        ScaleIntensityd("image", 0, 255, dtype=np.uint8),
        Lambdad("image", torch.abs),
    ],
)
def test_what_is_no_clipped_affine_map_is_unknown_and_named(transform: Any) -> None:
    pipeline = install_recorders(Compose([transform]))
    batch = batch_of(pipeline, [volume()])
    says = rf"preprocessing#0 \({type(transform).__name__}\) is no clipped affine map of its input: the best fit misses"
    with pytest.raises(ValueError, match=says):
        map_of_batch(read_intensity(pipeline), batch)


def test_steps_that_only_move_or_cut_voxels_or_add_guidance_leave_the_map() -> None:
    for moved in (
        lambda image: image.flip(1),
        lambda image: image[:, 2:9],
        lambda image: torch.cat([image, torch.zeros_like(image)]),
    ):
        pipeline = install_recorders(Compose([Lambdad("image", moved), ScaleIntensityRanged("image", 0, 100, 0, 1)]))
        found = map_of_batch(read_intensity(pipeline), batch_of(pipeline, [volume()]))
        assert found == IntensityMap(torch.tensor([[0.01]], dtype=torch.float64), torch.zeros(1, 1))
    resized = install_recorders(Compose([Lambdad("image", lambda image: image[:, 1:] * 0.5)]))
    with pytest.raises(ValueError, match="the best fit cannot be made"):
        map_of_batch(read_intensity(resized), batch_of(resized, [volume()]))


def test_voxels_set_to_a_constant_are_held_whatever_they_were() -> None:
    pipeline = install_recorders(Compose([ThresholdIntensityd("image", 150, cval=0)]))
    raw = volume()
    batch = batch_of(pipeline, [raw])
    found = map_of_batch(read_intensity(pipeline), batch)
    assert float(found.scale) == pytest.approx(1.0, rel=1e-9)
    assert torch.equal(found.reachable(batch.as_tensor())[0], raw > 150)


def test_a_channel_without_contrast_is_held() -> None:
    pipeline = install_recorders(Compose([NormalizeIntensityd("image", nonzero=True, channel_wise=True)]))
    raw = volume(2)
    raw[1] = 0
    batch = batch_of(pipeline, [raw])
    reachable = map_of_batch(read_intensity(pipeline), batch).reachable(batch.as_tensor())
    assert torch.equal(reachable[0], raw != 0) and not bool(reachable[0, 1].any())


def test_channels_made_later_share_a_global_map_and_no_other() -> None:
    doubled = Lambdad("image", lambda image: torch.cat([image, image[:1]]))
    steps = install_recorders(Compose([ScaleIntensityd("image"), doubled]))
    found = map_of_batch(read_intensity(steps), batch_of(steps, [volume(2)]))
    raw = volume(2)
    assert float(torch.as_tensor(found.scale).flatten()[0]) == pytest.approx(1 / float(raw.max() - raw.min()), rel=1e-5)
    steps = install_recorders(Compose([ScaleIntensityd("image", channel_wise=True), doubled]))
    with pytest.raises(ValueError, match="maps the 2 channels of its image differently, and the batch has 3"):
        map_of_batch(read_intensity(steps), batch_of(steps, [volume(2)]))


def test_a_large_volume_is_fitted_from_some_of_its_voxels() -> None:
    pipeline = install_recorders(
        Compose([ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True), NormalizeIntensityd("image")])
    )
    raw = volume(size=48)
    batch = batch_of(pipeline, [raw])
    found = map_of_batch(read_intensity(pipeline), batch)
    assert torch.allclose(found(raw[None]), batch.as_tensor(), rtol=0, atol=1e-5)


def test_a_typed_map_is_compared_with_every_batch() -> None:
    pipeline = install_recorders(Compose([Lambdad("image", lambda image: (image - 40) / 200)]))
    batch = batch_of(pipeline, [volume()])
    right = check_agrees(IntensityMap(1 / 200, -0.2), read_intensity(pipeline))
    assert map_of_batch(right, batch).agrees_with(IntensityMap(1 / 200, -0.2))  # type: ignore[arg-type]
    wrong = check_agrees({"a_min": -57, "a_max": 164}, read_intensity(pipeline))
    with pytest.raises(
        ValueError, match=r"intensity is given as -57..164 HU -> 0..1, but preprocessing maps HU \* 0.005"
    ):
        AttackedModel(torch.nn.Identity(), intensity=wrong).intensity_for(batch)


@pytest.mark.parametrize("reaches", [True, False])
def test_a_typed_map_may_know_edges_that_no_voxel_reaches(reaches: bool) -> None:
    pipeline = install_recorders(Compose([Lambdad("image", lambda image: ((image + 57) / 221).clip(0, 1))]))
    raw = volume() if reaches else volume().clip(-50, 150)
    batch = batch_of(pipeline, [raw])
    right = check_agrees({"a_min": -57, "a_max": 164}, read_intensity(pipeline))
    assert map_of_batch(right, batch).agrees_with(IntensityMap.from_window(-57, 164), 1e-3)
    for wrong in ({"a_min": -100, "a_max": 200}, {"a_min": -1000, "a_max": 1000}):
        with pytest.raises(ValueError, match="intensity is given as"):
            map_of_batch(check_agrees(wrong, read_intensity(pipeline)), batch)
    narrow = IntensityMap(1 / 221, 57 / 221, low=0.4, high=0.5)  # clips what the pipeline does not
    with pytest.raises(ValueError, match="intensity is given as"):
        map_of_batch(check_agrees(narrow, read_intensity(pipeline)), batch)


def test_a_model_has_the_map_of_its_batch() -> None:
    pipeline = install_recorders(Compose([ScaleIntensityd("image", channel_wise=True)]))
    batch = batch_of(pipeline, [volume(3, seed) for seed in range(2)])
    read = read_intensity(pipeline)
    model = AttackedModel(torch.nn.Identity(), intensity=read)
    assert model.image_units == "network" and model.intensity_for(batch) == map_of_batch(read, batch)
    part = model.replace(image_channels=(2, 0))
    assert part.intensity_for(batch) == map_of_batch(read, batch).channels([2, 0])
    assert model.intensity_and_doubt(batch.as_tensor())[0] is None
    assert "carries no record of preprocessing#0" in str(model.intensity_and_doubt(batch.as_tensor())[1])
    with pytest.raises(ValueError, match="image_units='HU' needs an intensity map that is known before the images are"):
        AttackedModel(torch.nn.Identity(), intensity=read, image_units="HU")
