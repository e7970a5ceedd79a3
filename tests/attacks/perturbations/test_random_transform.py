# SPDX-License-Identifier: Apache-2.0
"""Random transforms of MONAI and TorchIO as perturbations: labels, units, seeds, refusals."""

from __future__ import annotations

import random
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.attacks import PGD, Attack, RandomTransform, WorstOf
from monai_adversarial.attacks.perturbations import BoundRandomTransform
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes

WINDOW = IntensityMap.from_window(-100.0, 300.0)
KEYS = ("image", "label")


def bound_to(transform: Any, image: torch.Tensor, **options: Any) -> BoundRandomTransform:
    known = {name: options.pop(name) for name in ("intensity", "image_units", "region") if name in options}
    spacing = torch.tensor([[1.0, 1.5, 2.0]]).repeat(len(image), 1)
    return RandomTransform(transform, **options).bind(Scene(image, tuple(range(len(image))), spacing, **known))


def draws(bound: BoundRandomTransform, stream: int = 0) -> tuple[torch.Tensor, ...]:
    return bound.random(bound.scene.generators(stream))


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def torchio_transform(name: str) -> Any:
    tio = pytest.importorskip("torchio")
    made = {
        "RandomAffine": lambda: tio.RandomAffine(degrees=20, translation=2),
        "RandomElasticDeformation": lambda: tio.RandomElasticDeformation(
            num_control_points=5, max_displacement=(4, 6, 8)
        ),
        "RandomFlip": lambda: tio.RandomFlip(axes=(0,)),
        "Compose": lambda: tio.Compose([tio.RandomNoise(std=1e-3), tio.RandomAffine(degrees=20)]),
        "OneOf": lambda: tio.OneOf([tio.RandomFlip(axes=(0,)), tio.RandomAffine(degrees=20)]),
    }
    return made[name]()


def moving(name: str) -> Any:
    """A transform that moves anatomy."""
    made = {
        "RandAffine": lambda: mt.RandAffine(rotate_range=0.4, translate_range=2, padding_mode="border"),
        "RandRotate": lambda: mt.RandRotate(range_x=0.5),
        "RandFlip": lambda: mt.RandFlip(spatial_axis=1),
        "RandAxisFlip": lambda: mt.RandAxisFlip(),
        "RandZoom": lambda: mt.RandZoom(min_zoom=0.7, max_zoom=1.4, mode="trilinear"),
        "Rand3DElastic": lambda: mt.Rand3DElastic((2, 3), (60, 120)),
        "RandGridDistortion": lambda: mt.RandGridDistortion(distort_limit=0.2),
        "RandSmoothDeform": lambda: mt.RandSmoothDeform((20,) * 3, (4,) * 3, def_range=0.2, grid_mode="bilinear"),
        "lazy": lambda: mt.RandAffine(rotate_range=0.4, padding_mode="border", lazy=True),
        "Compose": lambda: mt.Compose([mt.RandGaussianNoise(std=1e-3), mt.RandAffine(rotate_range=0.4)]),
        "SomeOf": lambda: mt.SomeOf([mt.RandShiftIntensity(1e-3), mt.RandFlip(spatial_axis=0)], num_transforms=2),
        "RandAffined": lambda: mt.RandAffined(KEYS, rotate_range=0.4, mode=("bilinear", "nearest")),
        "RandZoomd": lambda: mt.RandZoomd(KEYS, min_zoom=0.7, max_zoom=1.4, mode=("trilinear", "nearest")),
    }
    return made[name]() if name in made else torchio_transform(name.removeprefix("torchio."))


MOVING = (
    "RandAffine RandRotate RandFlip RandAxisFlip RandZoom Rand3DElastic RandGridDistortion RandSmoothDeform lazy "
    "Compose SomeOf RandAffined RandZoomd torchio.RandomAffine torchio.RandomElasticDeformation torchio.RandomFlip "
    "torchio.Compose torchio.OneOf"
).split()


@pytest.mark.parametrize("name", MOVING)
def test_labels_move_with_the_image_by_the_same_draw(name: str) -> None:
    label = torch.zeros((2, 1, 20, 20, 20), dtype=torch.uint8)
    label[0, :, 3:11, 4:12, 4:10] = 1
    label[1, :, 9:16, 6:13, 9:16] = 2
    image = (label > 0).float()
    bound = bound_to(moving(name), image)
    assert bound.geometric
    far = 1.0
    for stream in range(3):
        parameters = draws(bound, stream)
        moved, moved_label = bound.apply(image, parameters), bound.move_label(label, parameters)
        assert moved_label.dtype == torch.uint8 and set(moved_label.unique().tolist()) <= {0, 1, 2}
        far = min(far, overlap(moved > 0.5, image > 0.5))
        # Interpolated image and nearest label differ at the border of half a voxel only.
        assert overlap(moved > 0.5, moved_label > 0) > 0.93
    assert far < 0.9
    one_hot = bound.move_class_map(label[:, 0], 3, parameters)
    assert torch.equal(one_hot.argmax(dim=1), moved_label[:, 0].long())


@pytest.mark.parametrize("transform", [mt.RandGaussianNoise(std=0.2), mt.RandAffine(rotate_range=0.4)])
def test_a_draw_is_a_number_and_zero_is_the_clean_image(transform: Any) -> None:
    image, _ = bright_boxes()
    bound = bound_to(transform, image)
    assert torch.equal(bound.apply(image, bound.zeros()), image)
    parameters = draws(bound)
    assert torch.equal(bound.apply(image, parameters), bound.apply(image, parameters))
    alone = bound_to(transform, image[1:])
    assert torch.equal(alone.apply(image[1:], (parameters[0][1:],))[0], bound.apply(image, parameters)[1])


def test_each_transform_is_applied_in_each_draw() -> None:
    image, _ = bright_boxes()
    rare = mt.Compose([mt.RandGaussianNoise(prob=0.01, std=0.2), mt.RandShiftIntensity(0.3, prob=0.01)])
    bound = bound_to(rare, image)
    assert all(bool((bound.apply(image, draws(bound, stream)) != image).any()) for stream in range(4))
    kept = bound_to(rare, image, keep_prob=True)
    assert all(torch.equal(kept.apply(image, draws(kept, stream)), image) for stream in range(4))
    assert rare.transforms[0].prob == 0.01


def test_the_transform_of_the_caller_keeps_its_random_state() -> None:
    image, label = bright_boxes()
    transform = mt.RandGaussianNoise(prob=1.0, std=0.2).set_random_state(5)
    expected = mt.RandGaussianNoise(prob=1.0, std=0.2).set_random_state(5)(image[0])
    WorstOf(transform, 3)(NumpyNetwork(), image, label)
    assert torch.equal(transform(image[0]), expected)


def test_generators_of_the_process_are_as_before() -> None:
    class Global(mt.Transform):
        """Draws from everything that belongs to the process."""

        def __call__(self, img: torch.Tensor) -> torch.Tensor:
            return img + 0.1 * (torch.rand(()).item() + np.random.rand() + random.random())  # noqa: NPY002

    image, label = bright_boxes()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    expected = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    attack = WorstOf(Global(), 3, moves_anatomy=False)
    first = attack(NumpyNetwork(), image, label)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected  # noqa: NPY002
    assert torch.equal(attack(NumpyNetwork(), image, label).adversarial, first.adversarial)


def test_hounsfield_units_of_an_image_in_network_values() -> None:
    hounsfield = torch.linspace(-90, 290, 2 * 6**3).view(2, 1, 6, 6, 6)
    image = WINDOW(hounsfield)
    bound = bound_to(mt.RandShiftIntensity(offsets=(20, 20)), image, intensity=WINDOW)
    moved = bound.apply(image, draws(bound))
    torch.testing.assert_close(moved, WINDOW(hounsfield + 20), rtol=0, atol=1e-5)
    assert bound.units == "HU"
    measured = bound.verify(image, moved, draws(bound))
    assert measured["largest_change"].units == "HU"
    torch.testing.assert_close(
        measured["largest_change"].values, torch.tensor([20.0, 20.0]).double(), atol=1e-2, rtol=0
    )


def test_network_units_of_an_image_in_hounsfield_units() -> None:
    image = torch.linspace(-400, 600, 6**3).view(1, 1, 6, 6, 6)
    options = {"intensity": WINDOW, "image_units": "HU"}
    bound = bound_to(mt.RandShiftIntensity(offsets=(0.1, 0.1)), image, units="network", **options)
    moved = bound.apply(image, draws(bound))
    inside = (image > -100) & (image < 300)
    torch.testing.assert_close(moved[inside], (image + 40)[inside], rtol=0, atol=1e-2)
    assert torch.equal(moved[~inside], image[~inside])
    assert bound_to(mt.RandShiftIntensity(20), image, **options).units == "HU"


def test_percentile_units_fit_any_scale() -> None:
    image, _ = bright_boxes()
    noise = mt.RandGaussianNoise(std=0.1, sample_std=False)
    bound, large = (bound_to(noise, scale * image + 7, units="percentile") for scale in (1.0, 500.0))
    change = bound.apply(image + 7, draws(bound)) - (image + 7)
    wide = large.apply(500 * image + 7, draws(large)) - (500 * image + 7)
    torch.testing.assert_close(wide, 500 * change, rtol=0, atol=0.05)


def test_clipped_and_held_voxels_stay_where_intensities_change() -> None:
    image = torch.linspace(0, 1, 6**3).view(1, 1, 6, 6, 6).clone()
    image[..., :2] = 0.0
    image[..., 4:] = 1.0
    bound = bound_to(mt.RandGaussianNoise(std=50, sample_std=False), image, intensity=WINDOW)
    moved = bound.apply(image, draws(bound))
    clipped = (image <= 0) | (image >= 1)
    assert torch.equal(moved[clipped], image[clipped]) and bool((moved != image)[~clipped].all())
    held = IntensityMap(0.01, -0.5, held=0.0, held_at=0.0)
    mri = torch.linspace(-0.4, 0.4, 6**3).view(1, 1, 6, 6, 6).clone()
    mri[..., :3] = 0.0
    noisy = bound_to(mt.RandGaussianNoise(std=20, sample_std=False), mri, intensity=held)
    assert torch.equal(noisy.apply(mri, draws(noisy))[..., :3], mri[..., :3])
    assert torch.equal(held.inverse(mri)[..., :3], torch.zeros_like(mri[..., :3]))


def test_a_region_keeps_the_other_voxels() -> None:
    image, label = bright_boxes()
    result = WorstOf(mt.RandGaussianNoise(std=0.3), 3)(NumpyNetwork(), image, label, region=label > 0)
    assert torch.equal(result.adversarial[label == 0], image[label == 0])
    assert not torch.equal(result.adversarial, image)


def test_values_stay_in_the_valid_range() -> None:
    image = torch.full((1, 1, 8, 8, 8), -1000.0)
    image[..., 2:6] = 40.0
    bound = bound_to(mt.RandGaussianNoise(std=100, sample_std=False), image, intensity=WINDOW, image_units="HU")
    moved = bound.apply(image, draws(bound))
    assert float(moved.min()) == -1024.0
    bound.verify(image, moved, draws(bound))


def test_the_affine_of_the_image_reaches_the_transform() -> None:
    class Looks(mt.Transform):
        def __call__(self, img: torch.Tensor) -> torch.Tensor:
            return img + float(img.affine[0, 3])

    image, label = bright_boxes()
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 3] = 0.25
    result = WorstOf(Looks(), 1, moves_anatomy=False)(NumpyNetwork(), MetaTensor(image, affine=affine), label)
    torch.testing.assert_close(result.adversarial.as_tensor(), image + 0.25)


def test_two_dimensional_images_go_through_torchio() -> None:
    tio = pytest.importorskip("torchio")
    image = torch.rand(2, 1, 16, 18)
    for transform in (tio.RandomGhosting(axes=(0, 1)), tio.RandomFlip(axes=(0,))):
        bound = bound_to(transform, image)
        assert bound.apply(image, draws(bound)).shape == image.shape


class Doubles(mt.Transform):
    """A transform of one's own that says nothing about anatomy."""

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        return torch.cat([img, img], dim=1)


class Divides(mt.Transform):
    """Makes NaN of zeros."""

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        return (img - img) / (img - img)


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        (mt.RandSpatialCropSamples((4, 4, 4), 2), {}, "RandSpatialCropSamples makes several"),
        (mt.RandLambda(lambda x: x), {}, "moves_anatomy must be True or False for RandLambda"),
        (Doubles(), {}, "moves_anatomy must be True or False for Doubles"),
        (mt.RandGaussianNoise(), {"moves_anatomy": True}, "moves_anatomy is True, but RandGaussianNoise does not move"),
        (mt.RandFlip(), {"moves_anatomy": False}, "moves_anatomy is False, but RandFlip moves anatomy"),
        (mt.RandFlipd("image"), {}, "keys of RandFlipd must hold 'label'"),
        (mt.Compose([mt.RandFlip(), mt.RandFlipd(KEYS)]), {}, "must be of one form"),
        (mt.RandTorchIO("RandomFlip"), {}, "must be the TorchIO transform itself"),
    ],
)
def test_what_is_not_supported_is_refused_early(transform: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomTransform(transform, **options)


@pytest.mark.parametrize("thing", [3, torch.nn.ReLU(), mt.RandFlip])
def test_what_is_no_transform_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="transform must be a random transform of MONAI or TorchIO"):
        RandomTransform(thing)


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        (mt.RandSpatialCrop((4, 4, 4), random_size=False), {}, "must keep the shape of the image, but RandSpatialCrop"),
        (Doubles(), {"moves_anatomy": False}, "must keep the shape of the image, but Doubles made"),
        (mt.RandAffined(KEYS, rotate_range=0.4, mode="bilinear"), {}, "must move labels by nearest neighbor"),
        (Divides(), {"moves_anatomy": False}, "must make finite values, but Divides"),
        (mt.RandGaussianNoise(), {"units": "HU"}, "needs the map between them|it looks already scaled"),
    ],
)
def test_what_shows_only_on_an_image_is_refused_there(transform: Any, options: dict, message: str) -> None:
    image, label = bright_boxes()
    with pytest.raises(ValueError, match=message):
        WorstOf(transform, 2, **options)(NumpyNetwork(), image, label)


def test_a_region_is_refused_where_anatomy_moves() -> None:
    image, label = bright_boxes()
    with pytest.raises(ValueError, match="region must be None"):
        WorstOf(mt.RandFlip(), 2)(NumpyNetwork(), image, label, region=label > 0)


def test_a_search_with_gradients_is_refused() -> None:
    image, label = bright_boxes()
    with pytest.raises(TypeError, match="a RandomTransform has no gradient"):
        Attack(RandomTransform(mt.RandGaussianNoise()))(SmoothThreshold(), image, label)
    assert PGD(0.01, steps=1)(SmoothThreshold(), image, label).backwards == 2


def test_undoing_a_movement_is_refused() -> None:
    image, _ = bright_boxes()
    bound = bound_to(mt.RandFlip(), image)
    with pytest.raises(NotImplementedError, match="cannot be undone here"):
        bound.pull_back(image, draws(bound))
    intensities = bound_to(mt.RandGaussianNoise(), image)
    assert intensities.pull_back(image, draws(intensities)) is image


def test_a_changed_file_is_found() -> None:
    image, label = bright_boxes()
    result = WorstOf(mt.RandGaussianNoise(std=0.1), 2)(NumpyNetwork(), image, label)
    with pytest.raises(RuntimeError, match="unexplained_change"):
        result.verify(result.adversarial + 0.1)
