# SPDX-License-Identifier: Apache-2.0
"""Anisotropic diffusion against ITK, the heat equation and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_adversarial.purifiers.anisotropic_diffusion import (
    AnisotropicDiffusionDenoise,
    AnisotropicDiffusionDenoised,
)
from tests.purifiers.examples import noisy_step, spaced


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 1.0), (1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (4.0, 2.0, 3.0)])
@pytest.mark.parametrize("iterations, conductance", [(1, 15.0), (8, 30.0)])
def test_equals_itk(spacing, iterations, conductance):
    itk = pytest.importorskip("itk")
    image = noisy_step((1, 1, 11, 12, 14)[: 2 + len(spacing)], dtype=torch.float32)
    itk_image = itk.image_from_array(image[0, 0].numpy().copy())
    itk_image.SetSpacing([s / min(spacing) for s in reversed(spacing)])
    run = itk.GradientAnisotropicDiffusionImageFilter.New(itk_image)
    run.SetNumberOfIterations(iterations)
    run.SetTimeStep(0.06)
    run.SetConductanceParameter(1.0)
    run.SetFixedAverageGradientMagnitude(conductance)
    run.Update()
    expected = itk.array_from_image(run.GetOutput())
    out = AnisotropicDiffusionDenoise(iterations, conductance, 0.06).purify(image, spaced(spacing))
    assert float((out - image).abs().mean()) > 0.3
    np.testing.assert_allclose(out[0, 0].numpy(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_becomes_the_heat_equation_for_a_large_conductance(dimensions):
    shape = (15, 13, 11)[:dimensions]
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    image[(0, 0, *(n // 2 for n in shape))] = 1.0
    out = AnisotropicDiffusionDenoise(4, 1e6, 0.1).purify(image, spaced((2.0,) * dimensions))[0, 0]
    assert float(out.sum()) == pytest.approx(1.0)
    for axis, n in enumerate(shape):  # each step of length t adds 2 t to the variance along each axis
        others = tuple(k for k in range(dimensions) if k != axis)
        profile = out.sum(dim=others) if others else out
        position = torch.arange(n, dtype=torch.float64) - n // 2
        assert float((profile * position**2).sum()) == pytest.approx(4 * 2 * 0.1, rel=1e-6)


def test_mean_is_kept_and_no_new_extremes_appear():
    image = noisy_step((2, 1, 10, 11, 12))
    out = AnisotropicDiffusionDenoise(10, 30.0, 1 / 6).purify(image, spaced((1.0, 1.0, 1.0)))
    torch.testing.assert_close(out.mean(dim=(2, 3, 4)), image.mean(dim=(2, 3, 4)))
    assert float(out.min()) >= float(image.min()) and float(out.max()) <= float(image.max())


def test_it_smooths_noise_and_keeps_an_edge():
    image = noisy_step((1, 16, 16, 16))
    out = AnisotropicDiffusionDenoise(spacing=1.0)(image)
    assert float(out[..., 8:].std()) < 0.6 * float(image[..., 8:].std())
    assert float(out[..., 8:].mean() - out[..., :8].mean()) == pytest.approx(1040.0, abs=2.0)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 2.0), (2.0, 2.0, 3.0)])
def test_gradient_is_exact(spacing):
    generator = torch.Generator().manual_seed(2)
    shape = {1: (2, 2, 9), 2: (2, 1, 5, 4), 3: (1, 1, 3, 4, 3)}[len(spacing)]
    image = (20.0 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    purifier = AnisotropicDiffusionDenoise(3, 15.0, 0.1)
    assert torch.autograd.gradcheck(lambda x: purifier.apply(x, spaced(spacing)), (image,))


def test_axes_of_one_voxel_do_not_count():
    image = noisy_step((1, 1, 7, 8))
    flat = AnisotropicDiffusionDenoise(3).purify(image, spaced((1.0, 1.0)))
    thin = AnisotropicDiffusionDenoise(3).purify(image[..., None], spaced((1.0, 1.0, 1.0)))
    torch.testing.assert_close(thin[..., 0], flat)


def test_each_sample_has_its_spacing_and_channels_are_apart():
    image = noisy_step((2, 2, 8, 8, 8), dtype=torch.float32)
    purifier = AnisotropicDiffusionDenoise(3)
    both = purifier.purify(image, spaced((1.0, 2.0, 3.0), (2.0, 2.0, 2.0)))
    for i, spacing in enumerate([(1.0, 2.0, 3.0), (2.0, 2.0, 2.0)]):
        for j in range(2):
            alone = purifier.purify(image[i : i + 1, j : j + 1], spaced(spacing))
            assert torch.equal(both[i : i + 1, j : j + 1], alone)
    assert not torch.equal(purifier.purify(image[:1], spaced((2.0, 2.0, 2.0))), both[:1])


def test_only_ratios_of_the_spacing_count():
    image = noisy_step((1, 1, 6, 7, 8))
    purifier = AnisotropicDiffusionDenoise(3)
    one, other = (purifier.purify(image, spaced(s)) for s in ((1.0, 1.0, 2.5), (2.0, 2.0, 5.0)))
    torch.testing.assert_close(one, other)


def test_the_same_in_network_values():
    image = noisy_step((1, 1, 8, 8, 8))
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": False}
    context = spaced((2.0, 2.0, 2.0))
    out = AnisotropicDiffusionDenoise(intensity=window).purify((image + 160.0) / 400.0, context)
    torch.testing.assert_close(out * 400.0 - 160.0, AnisotropicDiffusionDenoise().purify(image, context))


def test_bad_arguments():
    with pytest.raises(ValueError, match="iterations must be an integer >= 1, got 0"):
        AnisotropicDiffusionDenoise(0)
    with pytest.raises(ValueError, match="conductance must be a finite number > 0, got -3"):
        AnisotropicDiffusionDenoise(1, -3)
    with pytest.raises(ValueError, match=r"time_step must be at most .* = 0.1667, .*got 0.2"):
        AnisotropicDiffusionDenoise(time_step=0.2, spacing=1.0)(noisy_step((1, 4, 4, 4)))


def test_without_spacing():
    with pytest.raises(ValueError, match="ratios of the axes but the spacing is not known"):
        AnisotropicDiffusionDenoise()(noisy_step((1, 4, 4, 4)))


def test_dictionary_form():
    image = noisy_step((1, 8, 8, 8), dtype=torch.float32)
    out = AnisotropicDiffusionDenoised(keys="image", iterations=2, spacing=1.0)({"image": image})
    assert torch.equal(out["image"], AnisotropicDiffusionDenoise(2, spacing=1.0)(image))
