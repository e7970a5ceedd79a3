# SPDX-License-Identifier: Apache-2.0
"""Total variation denoising against scikit-image, its own minimum and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.total_variation import TotalVariationDenoise, TotalVariationDenoised

METHODS = ("chambolle", "split_bregman")
NO_CONTEXT = ImageContext()


def noisy_box(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A box of 60 HU in noise of 10 HU, air on one side; float64."""
    generator = torch.Generator().manual_seed(seed)
    image = 10.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    image[(..., *(slice(size // 4, size // 4 + size // 2) for size in shape[2:]))] += 60.0
    image[..., :2] -= 1000.0
    return image


@pytest.mark.parametrize("shape", [(12, 13, 9), (16, 11), (40,), (1, 6, 7)])
@pytest.mark.parametrize("iterations", [1, 20])
def test_chambolle_equals_scikit_image_after_every_iteration(shape: tuple[int, ...], iterations: int) -> None:
    image = noisy_box((1, 1, *shape))
    expected = denoise_tv_chambolle(image[0, 0].numpy(), weight=4.0, eps=0, max_num_iter=iterations + 1)
    purifier = TotalVariationDenoise(4.0, iterations)
    np.testing.assert_allclose(purifier.purify(image, NO_CONTEXT)[0, 0].numpy(), expected, atol=1e-9)
    single = purifier.purify(image.float(), NO_CONTEXT)[0, 0]
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-3)


def test_anisotropic_split_bregman_equals_scikit_image_inside() -> None:
    image = noisy_box((1, 1, 32, 32))
    expected = denoise_tv_bregman(image[0, 0].numpy(), 1 / 3.0, 3000, 1e-13, isotropic=False)
    out = TotalVariationDenoise(3.0, 1500, "split_bregman", isotropic=False).purify(image, NO_CONTEXT)[0, 0].numpy()
    inside = (slice(10, -10),) * 2
    np.testing.assert_allclose(out[inside], expected[inside], atol=1e-6)
    assert np.abs(out - image[0, 0].numpy())[inside].max() > 5.0


@pytest.mark.parametrize("isotropic", [True, False])
def test_both_methods_reach_the_same_minimum(isotropic: bool) -> None:
    image = noisy_box((1, 1, 10, 9, 8))
    chambolle = TotalVariationDenoise(4.0, 1500, isotropic=isotropic).purify(image, NO_CONTEXT)
    bregman = TotalVariationDenoise(4.0, 1500, "split_bregman", isotropic).purify(image, NO_CONTEXT)
    torch.testing.assert_close(chambolle, bregman, atol=0.02, rtol=0)


@pytest.mark.parametrize(("method", "within"), [("chambolle", 0.25), ("split_bregman", 0.1)])
def test_default_iterations_end_near_the_minimum(method: str, within: float) -> None:
    image = noisy_box((1, 1, 20, 20, 20))
    minimum = TotalVariationDenoise(iterations=1000).purify(image, NO_CONTEXT)
    out = TotalVariationDenoise(method=method).purify(image, NO_CONTEXT)
    assert float((out - minimum).square().mean().sqrt()) < within
    assert float((image - minimum).square().mean().sqrt()) > 5.0


@pytest.mark.parametrize("method", METHODS)
def test_a_step_loses_weight_times_surface_over_volume(method: str) -> None:
    image = torch.zeros(1, 1, 40, dtype=torch.float64)
    image[..., 20:] = 100.0
    out = TotalVariationDenoise(8.0, 4000, method).purify(image, NO_CONTEXT)
    torch.testing.assert_close(out[..., 0], torch.full((1, 1), 8.0 / 20, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(out[..., -1], torch.full((1, 1), 100 - 8.0 / 20, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_samples_and_channels_do_not_see_each_other(method: str) -> None:
    image = torch.cat([noisy_box((2, 1, 7, 8, 6)), noisy_box((2, 1, 7, 8, 6), seed=1)], dim=1)
    spacing = torch.tensor([[1.0, 1.0, 5.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    purifier = TotalVariationDenoise(method=method, use_spacing=True)
    together = purifier.purify(image, ImageContext(spacing))
    for i in range(2):
        for c in range(2):
            alone = purifier.purify(image[i : i + 1, c : c + 1], ImageContext(spacing[i : i + 1]))
            torch.testing.assert_close(together[i : i + 1, c : c + 1], alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_thick_slices_are_smoothed_less_across(method: str) -> None:
    image = noisy_box((1, 1, 12, 12, 12))
    purifier = TotalVariationDenoise(method=method, use_spacing=True)
    cubes = purifier.purify(image, ImageContext(torch.tensor([[3.0, 3.0, 3.0]])))
    torch.testing.assert_close(cubes, TotalVariationDenoise(method=method).purify(image, NO_CONTEXT))
    slices = image.movedim(-1, 0)[:, 0]  # one 2D image per slice
    # step sizes follow the number of axes, so that only the converged results are the same
    kwargs = {"iterations": 1000, "method": method}
    thick = TotalVariationDenoise(use_spacing=True, **kwargs).purify(image, ImageContext(torch.tensor([[1, 1, 1e9]])))
    flat = TotalVariationDenoise(**kwargs).purify(slices, NO_CONTEXT)
    torch.testing.assert_close(thick.movedim(-1, 0)[:, 0], flat, atol=0.02, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 2), (2, 2, 4, 3), (1, 1, 1, 5)])
def test_gradient_is_that_of_finite_differences(method: str, isotropic: bool, shape: tuple[int, ...]) -> None:
    image = noisy_box(shape).requires_grad_()
    purifier = TotalVariationDenoise(4.0, 7, method, isotropic, use_spacing=True)
    context = ImageContext(torch.tensor([[1.0, 2.0, 3.0][: len(shape) - 2]]))
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, context), image)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_a_constant_image_is_finite(method: str) -> None:
    image = torch.full((1, 1, 4, 4, 4), -1024.0, requires_grad=True)
    TotalVariationDenoise(method=method).purify(image, NO_CONTEXT).sum().backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad, torch.ones_like(image.grad))


def test_weight_follows_the_intensity_map() -> None:
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}
    image = noisy_box((1, 1, 8, 8, 8))
    out = TotalVariationDenoise(intensity=window).purify(image / 400.0, NO_CONTEXT)
    torch.testing.assert_close(out * 400.0, TotalVariationDenoise().purify(image, NO_CONTEXT))


def test_dictionary_form_and_bad_arguments() -> None:
    image = noisy_box((1, 1, 6, 6, 6))[0]
    torch.testing.assert_close(
        TotalVariationDenoised("image", weight=2.0)({"image": image})["image"], TotalVariationDenoise(2.0)(image)
    )
    for bad, message in (
        ({"weight": 0}, "weight must be"),
        ({"iterations": 0}, "iterations must be"),
        ({"method": "fista"}, "method must be one of"),
        ({"isotropic": "False"}, "isotropic must be True or False, got 'False'"),
        ({"use_spacing": 1}, "use_spacing must be True or False, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            TotalVariationDenoise(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use_spacing .*the spacing is not known"):
        TotalVariationDenoise(use_spacing=True)(image)
