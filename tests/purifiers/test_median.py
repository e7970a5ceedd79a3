# SPDX-License-Identifier: Apache-2.0
"""Median filter against SciPy, MONAI and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import MedianSmooth
from scipy import ndimage

from monai_adversarial.purifiers import median
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.median import MedianDenoise, MedianDenoised
from tests.helpers import random_image

NO_CONTEXT = ImageContext()


def whole_numbers(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Few different values: medians with many ties."""
    return (20.0 * random_image(shape, seed)).floor()


def footprint(size: tuple[int, ...], shape: str) -> np.ndarray:
    mask = np.ones(size, dtype=bool)
    if shape == "cross":
        away = sum((index != length // 2).astype(int) for index, length in zip(np.indices(size), size, strict=True))
        mask = away <= 1
    return mask


@pytest.mark.parametrize("shape", ["cross", "cube"])
@pytest.mark.parametrize(
    "size", [(3,), (5,), (3, 3), (5, 3), (1, 1), (3, 3, 3), (3, 3, 1), (5, 3, 7)], ids=lambda size: str(size)
)
@pytest.mark.parametrize("image_of", [random_image, whole_numbers])
def test_equals_scipy_to_the_bit(size, shape, image_of):
    image = image_of((2, 2, 9, 8, 7)[: 2 + len(size)])
    out = MedianDenoise(size, shape).purify(image, NO_CONTEXT)
    mask = footprint(size, shape)
    for i in range(2):
        for j in range(2):
            expected = ndimage.median_filter(image[i, j].numpy(), footprint=mask, mode="nearest")
            assert np.array_equal(out[i, j].numpy(), expected)


def test_the_cube_equals_monai():
    image = random_image((2, 7, 8, 9))
    assert torch.equal(MedianDenoise(3, "cube")(image), MedianSmooth(radius=1)(image))


@pytest.mark.parametrize("count", [1, 3, 5, 7, 9, 27, 45])
def test_selection_of_any_odd_number_of_values(count):
    values = whole_numbers((count, 200), seed=count)
    assert torch.equal(median._median(list(values)), values.median(dim=0).values)


def test_pieces_do_not_show(monkeypatch):
    image = random_image((2, 1, 11, 6, 5))
    whole = MedianDenoise(3, "cube").purify(image, NO_CONTEXT)
    monkeypatch.setattr(median, "_VOXELS_ON_CPU", 130)
    assert torch.equal(MedianDenoise(3, "cube").purify(image, NO_CONTEXT), whole)


@pytest.mark.parametrize("shape", ["cross", "cube"])
@pytest.mark.parametrize("spatial", [(6,), (5, 6), (4, 3, 5)])
def test_gradient_is_exact(shape, spatial):
    generator = torch.Generator().manual_seed(1)
    count = 2 * int(np.prod(spatial))
    image = torch.randperm(count, generator=generator).double().view(2, 1, *spatial).requires_grad_()  # no ties
    purifier = MedianDenoise(3, shape)
    assert torch.autograd.gradcheck(lambda x: purifier.apply(x, NO_CONTEXT), (image,))


def test_ties_share_the_gradient():
    image = torch.tensor([[[9.0, 9.0, 5.0, 5.0, 1.0]]]).requires_grad_()
    out = MedianDenoise(3).purify(image, NO_CONTEXT)
    assert out.tolist() == [[[9.0, 9.0, 5.0, 5.0, 1.0]]]
    out[0, 0, 2].backward()  # median of 9, 5, 5
    assert image.grad.tolist() == [[[0.0, 0.0, 0.5, 0.5, 0.0]]]


def test_the_surrogate_is_the_mean_of_the_same_neighborhood_with_a_dense_gradient():
    image = random_image((2, 2, 6, 5, 7), dtype=torch.float64).requires_grad_()
    purifier = MedianDenoise(3, "cross")
    out = purifier.surrogate(image, NO_CONTEXT)
    mask = footprint((3, 3, 3), "cross") / 7.0
    for i in range(2):
        for j in range(2):
            expected = ndimage.correlate(image[i, j].detach().numpy(), mask, mode="nearest")
            np.testing.assert_allclose(out[i, j].detach().numpy(), expected, rtol=1e-12)
    out.square().sum().backward()
    assert bool((image.grad != 0).all())


@pytest.mark.parametrize("spatial", [(7,), (6, 5), (6, 5, 7)])
@pytest.mark.parametrize("size", [3, 5])
def test_the_surrogate_takes_batches_of_any_layout_and_keeps_samples_and_channels_apart(spatial, size):
    image = random_image((2, 3, *spatial))
    purifier = MedianDenoise(size, "cube")
    expected = torch.stack(
        [
            torch.stack([purifier.surrogate(image[i : i + 1, j : j + 1], NO_CONTEXT)[0, 0] for j in range(3)])
            for i in range(2)
        ]
    )
    strided = image.movedim(1, -1).contiguous().movedim(-1, 1)
    turned = image.flip(-1).contiguous().transpose(0, 1).contiguous().transpose(0, 1).flip(-1)
    assert not strided.is_contiguous() and not turned.is_contiguous()
    for layout in (image, strided, turned):
        given = layout.requires_grad_() if layout.is_leaf else layout.detach().requires_grad_()
        out = purifier.surrogate(given, NO_CONTEXT)
        assert out.shape == image.shape
        torch.testing.assert_close(out, expected)
        (gradient,) = torch.autograd.grad(out.sum(), given)
        assert float(gradient.sum()) == pytest.approx(image.numel(), rel=1e-4)


def test_it_removes_single_voxels_and_keeps_edges():
    image = torch.zeros(1, 9, 9, 9)
    image[..., 5:] = 100.0
    noisy = image.clone()
    noisy[0, 4, 4, 2] = 500.0
    for shape in ("cross", "cube"):
        assert torch.equal(MedianDenoise(3, shape)(noisy), image)


@pytest.mark.parametrize("size", [2, 0, (3, 4), 3.0, (3, 3, 3, 3), (), True])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size must be"):
        MedianDenoise(size)


def test_size_for_another_number_of_axes_and_bad_shape():
    with pytest.raises(ValueError, match="size has 2 numbers, but the image has 3 spatial dimensions"):
        MedianDenoise((3, 3))(random_image((1, 4, 4, 4)))
    with pytest.raises(ValueError, match="shape must be one of 'cross', 'cube'"):
        MedianDenoise(3, "ball")


def test_dictionary_form():
    image = random_image((1, 6, 6, 6))
    out = MedianDenoised(keys="image", shape="cube")({"image": image})
    assert torch.equal(out["image"], MedianDenoise(shape="cube")(image))
