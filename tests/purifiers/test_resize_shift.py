# SPDX-License-Identifier: Apache-2.0
"""Random scale and shift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.gaussian import GaussianDenoise
from monai_adversarial.purifiers.resize_shift import RandResizeShift
from monai_adversarial.utils.draws import random_draw
from tests.helpers import random_image


def context(*seeds: int, spacing: tuple[float, ...] = (1.0, 2.0, 3.0)) -> ImageContext:
    return ImageContext(torch.tensor([spacing], dtype=torch.float64), seeds)


def ball(size: int = 32) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2 < (size / 4) ** 2)[
        None, None
    ]


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_equals_scipy():
    image = random_image((1, 1, 13, 12, 11), dtype=torch.float64)
    purifier = RandResizeShift((1.07, 1.07), 4.0)
    there, back = purifier._draws(image, context(3))[0]
    for positions, ours in (
        (there, purifier.purify(image, context(3))),
        (back, purifier.pull_back(image, context(3))),
    ):
        step = [p[1] - p[0] for p in positions]
        theirs = affine_transform(
            image[0, 0].numpy(), np.array(step), offset=[p[0] for p in positions], order=1, mode="nearest"
        )
        assert np.allclose(ours[0, 0].numpy(), theirs, atol=1e-6)


def test_a_larger_scale_shows_the_center_larger():
    volume = ball().float()
    grown = RandResizeShift((1.25, 1.25), 0.0).purify(volume, context(0))
    assert float(grown.sum() / volume.sum()) == pytest.approx(1.25**3, rel=0.02)


def test_shifts_are_in_mm_and_reach_their_limit_either_way():
    volume = torch.zeros(1, 1, 21, 21, 21)
    volume[0, 0, 10, 10, 10] = 1
    index = torch.arange(21.0)
    centers = []
    for seed in range(60):
        moved = RandResizeShift((1, 1), (4.0, 4.0, 0.0)).purify(volume, context(seed))[0, 0]
        centers.append([float((moved.sum([a for a in range(3) if a != axis]) * index).sum()) - 10 for axis in range(3)])
    found = torch.tensor(centers)
    assert 3.5 < float(found[:, 0].max()) <= 4.0 and -4.0 <= float(found[:, 0].min()) < -3.5
    assert 1.7 < float(found[:, 1].max()) <= 2.0 and -2.0 <= float(found[:, 1].min()) < -1.7
    assert float(found[:, 2].abs().max()) < 1e-5


def test_without_a_shift_the_spacing_does_not_matter():
    volume = torch.rand(1, 1, 8, 9, 10)
    still = RandResizeShift((0.8, 1.2), (0.0, 0.0, 0.0))
    torch.testing.assert_close(still.purify(volume, ImageContext(None, (3,))), still.purify(volume, context(3)))
    with pytest.raises(ValueError, match="shift is in mm but the spacing is not known"):
        RandResizeShift((0.8, 1.2), (0.0, 1.0, 0.0)).purify(volume, ImageContext(None, (3,)))


def test_pull_back_undoes_it_on_a_smooth_image():
    axis = torch.linspace(0, 3, 32)
    image = torch.sin(axis)[:, None, None] * torch.cos(axis)[None, :, None] * torch.sin(axis + 1)[None, None, :]
    image = image[None, None]
    purifier = RandResizeShift((0.9, 1.1), 3.0)
    inside = (slice(None), slice(None), *[slice(8, -8)] * 3)
    for seed in range(5):
        moved = purifier.purify(image, context(seed))
        back = purifier.pull_back(moved, context(seed))
        assert float((back - image)[inside].abs().max()) < 0.01
        assert float((moved - image)[inside].abs().max()) > 0.03


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_labels_come_back(dtype):
    label = ball()
    purifier = RandResizeShift((0.9, 1.1), 5.0)
    for seed in range(5):
        moved = purifier.purify(label.float(), context(seed)) > 0.5
        back = purifier.pull_back(moved.to(dtype), context(seed))
        assert back.dtype == dtype
        assert dice(back > 0.5, label) > 0.97 > dice(moved, label)


def test_class_numbers_never_mix():
    label = torch.where(ball(), 7, 2)
    label[..., :12] = 4
    back = RandResizeShift().pull_back(label, context(1))
    assert set(back.unique().tolist()) == {2, 4, 7} and not torch.equal(back, label)


def test_one_hot_labels_stay_one_hot_where_three_classes_meet():
    label = torch.where(ball(), 2, 0)
    label[..., :12] = 1
    one_hot = torch.cat([label == value for value in range(3)], dim=1)
    for dtype in (torch.bool, torch.uint8):
        back = RandResizeShift().pull_back(one_hot.to(dtype), context(1))
        assert back.dtype == dtype and bool((back.sum(dim=1) == 1).all())
    assert torch.equal(back.int().argmax(dim=1, keepdim=True), RandResizeShift().pull_back(label, context(1)))
    # Channels that overlap are labels of their own.
    overlapping = one_hot.clone()
    overlapping[:, 0] = True
    back = RandResizeShift().pull_back(overlapping, context(1))
    assert bool(back[:, 0].all()) and torch.equal(
        back[:, 1:2], RandResizeShift().pull_back(one_hot[:, 1:2], context(1))
    )


def test_border_is_repeated_unless_there_is_a_value_to_pad_with():
    image = torch.full((1, 1, 12, 12, 12), 40.0)
    assert torch.equal(RandResizeShift((0.5, 0.5), 8.0).purify(image, context(1)), image)
    padded = RandResizeShift((0.5, 0.5), 8.0, pad_value=-1000).purify(image, context(1))
    assert padded.unique().tolist() == [-1000.0, 40.0]


def test_padding_equals_scipy():
    image = random_image((1, 1, 13, 12, 11), dtype=torch.float64)
    purifier = RandResizeShift((0.8, 0.8), 4.0, pad_value=-0.5)
    positions = purifier._draws(image, context(3))[0][0]
    step, offset = np.array([p[1] - p[0] for p in positions]), [p[0] for p in positions]
    theirs = affine_transform(image[0, 0].numpy(), step, offset=offset, order=1, mode="constant", cval=-0.5)
    ours = purifier.purify(image, context(3))[0, 0].numpy()
    assert (ours == -0.5).any() and np.allclose(ours, theirs, atol=1e-6)


def test_padding_is_in_hu_and_labels_get_background():
    window = {"a_min": -160, "a_max": 240}
    image = torch.full((1, 1, 12, 12, 12), 0.5)
    padded = RandResizeShift((0.5, 0.5), 0.0, pad_value=40, intensity=window).purify(image, context(1))
    assert padded.unique().tolist() == [0.5]  # 40 HU is the middle of the window
    for label in (torch.full((1, 1, 12, 12, 12), 3), torch.full((1, 1, 12, 12, 12), 3.0)):
        where = replace(context(1), interpolation="nearest")
        padded = RandResizeShift((0.5, 0.5), 0.0, pad_value=-1000).purify(label, where)
        assert padded.dtype == label.dtype and padded.unique().tolist() == [0, 3]
    with pytest.raises(ValueError, match="pad_value must be a finite number of HU or None, got 'zeros'"):
        RandResizeShift(pad_value="zeros")


def test_the_context_says_that_floats_are_labels():
    label = torch.where(ball(), 7.0, 2.0)
    nearest = replace(context(1), interpolation="nearest")
    purifier = RandResizeShift()
    assert torch.equal(purifier.pull_back(label, nearest), purifier.pull_back(label.int(), context(1)).float())
    assert len(purifier.pull_back(label, context(1)).unique()) > 100
    assert nearest.select([0]).interpolation == "nearest"


def test_the_same_draw_for_other_channels_types_and_shapes():
    image = random_image((2, 1, 16, 16, 16))
    purifier, both = RandResizeShift(), context(4, 5)
    one = purifier.pull_back(image, both)
    many = purifier.pull_back(image.double().expand(2, 7, 16, 16, 16), both)
    assert torch.allclose(many, one.double().expand_as(many), atol=1e-5)
    for other in (random_image((1, 1, 20, 9, 16)), random_image((1, 2, 12, 16))):  # same scale whatever the grid
        spacing = (1.0, 2.0, 3.0)[: other.ndim - 2]
        positions = purifier._draws(other, context(4, spacing=spacing))[0][0]
        reference = purifier._draws(image, both)[0][0]
        for ours, theirs in zip(positions, reference[: len(positions)], strict=True):
            assert np.allclose(np.diff(ours)[0], np.diff(theirs)[0])
            assert ours.mean() - (len(ours) - 1) / 2 == pytest.approx(theirs.mean() - (len(theirs) - 1) / 2)


def test_samples_are_independent_and_have_their_own_spacing():
    image = random_image((2, 2, 12, 12, 12))
    purifier = RandResizeShift()
    both = ImageContext(torch.tensor([[1.0, 1, 1], [3, 3, 3]], dtype=torch.float64), (8, 9))
    together = purifier.purify(image, both)
    for sample in range(2):
        alone = purifier.purify(image[sample : sample + 1], both.select([sample]))
        assert torch.equal(together[sample : sample + 1], alone)


def test_draws_differ_and_repeat():
    image, purifier = random_image((1, 1, 12, 12, 12)), RandResizeShift()
    outputs = []
    for draw in (0, 1, 0):
        with random_draw(draw):
            outputs.append(purifier.purify(image, context(2)))
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("shape", [(7,), (5, 4), (4, 3, 4)])
def test_gradients_check(shape):
    image = random_image((1, 1, *shape), dtype=torch.float64).requires_grad_()
    purifier, where = RandResizeShift(shift=1.0), context(3, spacing=(1.0, 2.0, 3.0)[: len(shape)])
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, where), image)
    assert torch.autograd.gradcheck(lambda x: purifier.pull_back(x, where), image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandResizeShift(1.1), "scale must be two numbers"),  # type: ignore[arg-type]
        (lambda: RandResizeShift((1.1, 0.9)), "scale must be two numbers"),
        (lambda: RandResizeShift(None), r"scale must be two numbers \(lowest, highest\), got None"),  # type: ignore[arg-type]
        (lambda: RandResizeShift(True), "scale must be two numbers"),  # type: ignore[arg-type]
        (lambda: RandResizeShift((0.9, 1.0, 1.1)), "scale must be two numbers"),
        (lambda: RandResizeShift((0.9, None)), "scale must be a finite number > 0, got None"),  # type: ignore[arg-type]
        (lambda: RandResizeShift(shift="5"), "shift must be a finite number >= 0, got '5'"),  # type: ignore[arg-type]
        (lambda: RandResizeShift((0, 1.1)), "scale must be a finite number > 0"),
        (lambda: RandResizeShift(shift=-1), "shift must be a finite number >= 0"),
        (
            lambda: RandResizeShift(shift=(1, 2)).purify(torch.zeros(1, 1, 8, 8, 8), context(1)),
            r"shift must be one number of mm or one per spatial dimension of the image \(3\), got 2: \(1.0, 2.0\)",
        ),
        (
            lambda: GaussianDenoise(sigma=(1, 2)).purify(torch.zeros(1, 1, 8, 8, 8), context(1)),
            r"sigma must be one number of mm or one per spatial dimension of the image \(3\), got 2",
        ),
        (lambda: RandResizeShift().purify(torch.zeros(1, 1, 8, 8), ImageContext(None, (1,))), "shift is in mm"),
        (
            lambda: RandResizeShift().purify(torch.zeros(1, 1, 8, 8, 8), context()),
            "seeds must have one integer per sample",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
