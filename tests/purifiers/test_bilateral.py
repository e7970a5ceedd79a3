# SPDX-License-Identifier: Apache-2.0
"""Bilateral filter against its definition, ITK, scikit-image, SciPy and finite differences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.restoration import denoise_bilateral

from monai_adversarial.purifiers.bilateral import BilateralDenoise, BilateralDenoised
from tests.purifiers.examples import noisy_step, spaced


def by_definition(image: np.ndarray, sigma: list[float], sigma_intensity: float, radius: list[int]) -> np.ndarray:
    """All neighbors in NumPy; ``sigma`` in voxels."""
    padded = np.pad(image, [(r, r) for r in radius], mode="edge")
    total, weights = np.zeros_like(image), np.zeros_like(image)
    for offset in product(*(range(-r, r + 1) for r in radius)):
        neighbor = padded[tuple(slice(r + o, r + o + n) for r, o, n in zip(radius, offset, image.shape, strict=True))]
        squares = sum((o / s) ** 2 for o, s in zip(offset, sigma, strict=True))
        weight = np.exp(-0.5 * squares - 0.5 * ((neighbor - image) / sigma_intensity) ** 2)
        total += weight * neighbor
        weights += weight
    return total / weights


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 2.0), (1.0, 2.0, 4.0)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_equals_the_definition(spacing, dtype, tolerance):
    image = noisy_step((2, 2, 9, 8, 10)[: 2 + len(spacing)], dtype=dtype)
    out = BilateralDenoise(2.0, 30.0, 1.5).purify(image, spaced(spacing))
    sigma = [2.0 / s for s in spacing]
    radius = [3, 2, 1][: len(spacing)]  # 1.5 x 2 mm in voxels: 3, 1.5 and 0.75, rounded
    for i, j in product(range(2), range(2)):
        expected = by_definition(image[i, j].double().numpy(), sigma, 30.0, radius)
        np.testing.assert_allclose(out[i, j].numpy(), expected, atol=tolerance, rtol=0)


@pytest.mark.slow  # loading this part of ITK takes most of it
def test_equals_itk():
    itk = pytest.importorskip("itk")
    image = noisy_step((1, 1, 12, 14, 16), dtype=torch.float32)
    itk_image = itk.image_from_array(image[0, 0].numpy().copy())
    itk_image.SetSpacing([3.0, 2.0, 1.0])  # axes in reverse
    run = itk.BilateralImageFilter.New(itk_image)
    run.SetDomainSigma([2.0] * 3)
    run.SetRangeSigma(30.0)
    run.SetNumberOfRangeGaussianSamples(20000)
    run.SetAutomaticKernelSize(False)
    run.SetRadius([1, 2, 4])
    run.Update()
    out = BilateralDenoise(2.0, 30.0).purify(image, spaced((1.0, 2.0, 3.0)))
    np.testing.assert_allclose(out[0, 0].numpy(), itk.array_from_image(run.GetOutput()), atol=0.01, rtol=0)


@pytest.mark.parametrize("radius", [1, 2])
def test_equals_scikit_image_where_distance_does_not_count(radius):
    image = noisy_step((1, 1, 20, 24))
    flat = 1e4  # its table of distances is wrong for windows of odd size, so that all have weight 1 here
    out = BilateralDenoise(flat, 30.0, radius / flat).purify(image, spaced((1.0, 1.0)))
    lowest = image.min()
    expected = denoise_bilateral(
        (image[0, 0] - lowest).numpy(), 2 * radius + 1, sigma_color=30.0, sigma_spatial=flat, mode="edge", bins=1000000
    )
    np.testing.assert_allclose(out[0, 0].numpy(), expected + float(lowest), atol=0.01, rtol=0)


def test_becomes_the_gaussian_filter_when_all_differences_are_small():
    image = noisy_step((1, 1, 12, 12, 12))
    out = BilateralDenoise(1.5, 1e7, 3.0).purify(image, spaced((1.0, 1.0, 2.0)))
    expected = ndimage.gaussian_filter(
        image[0, 0].numpy(), (1.5, 1.5, 0.75), mode="nearest", radius=(5, 5, 2)
    )  # 3 x 1.5 mm, rounded to voxels
    np.testing.assert_allclose(out[0, 0].numpy(), expected, atol=1e-3, rtol=0)


def test_it_smooths_noise_and_keeps_an_edge():
    image = noisy_step((1, 16, 16, 16))
    out = BilateralDenoise(spacing=3.0)(image)
    assert float(out[..., 8:].std()) < 0.5 * float(image[..., 8:].std())
    assert float(out[..., 8:].mean() - out[..., :8].mean()) == pytest.approx(1040.0, abs=2.0)
    assert float((out - image).abs().max()) < 60.0


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 2.0), (2.0, 2.0, 3.0)])
def test_gradient_is_exact(spacing):
    generator = torch.Generator().manual_seed(2)
    shape = {1: (2, 2, 9), 2: (2, 1, 5, 4), 3: (1, 1, 3, 4, 3)}[len(spacing)]
    image = (20.0 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    purifier = BilateralDenoise(2.0, 15.0)
    assert torch.autograd.gradcheck(lambda x: purifier.apply(x, spaced(spacing)), (image,))


def test_each_sample_has_its_spacing_and_channels_are_apart():
    image = noisy_step((2, 2, 8, 8, 8), dtype=torch.float32)
    purifier = BilateralDenoise(2.0, 30.0)
    both = purifier.purify(image, spaced((1.0, 2.0, 3.0), (2.0, 2.0, 2.0)))
    for i, spacing in enumerate([(1.0, 2.0, 3.0), (2.0, 2.0, 2.0)]):
        for j in range(2):
            alone = purifier.purify(image[i : i + 1, j : j + 1], spaced(spacing))
            assert torch.equal(both[i : i + 1, j : j + 1], alone)
    assert not torch.equal(purifier.purify(image[:1], spaced((2.0, 2.0, 2.0))), both[:1])


def test_the_same_in_network_values():
    image = noisy_step((1, 1, 8, 8, 8))
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": False}
    context = spaced((2.0, 2.0, 2.0))
    out = BilateralDenoise(2.0, 30.0, intensity=window).purify((image + 160.0) / 400.0, context)
    torch.testing.assert_close(out * 400.0 - 160.0, BilateralDenoise(2.0, 30.0).purify(image, context))


@pytest.mark.parametrize("name", ["sigma_space", "sigma_intensity", "truncate"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite number > 0, got -1"):
        BilateralDenoise(**{name: -1.0})


def test_without_spacing():
    with pytest.raises(ValueError, match="sigma_space is in mm but the spacing is not known"):
        BilateralDenoise()(noisy_step((1, 4, 4, 4)))


def test_dictionary_form():
    image = noisy_step((1, 8, 8, 8), dtype=torch.float32)
    out = BilateralDenoised(keys="image", sigma_intensity=20.0, spacing=2.0)({"image": image})
    assert torch.equal(out["image"], BilateralDenoise(sigma_intensity=20.0, spacing=2.0)(image))
