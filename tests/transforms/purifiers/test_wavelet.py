# SPDX-License-Identifier: Apache-2.0
"""Wavelet shrinkage against scikit-image and finite differences."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.transforms.purifiers.context import ImageContext

pytest.importorskip("ptwt")
pytest.importorskip("pywt")
from skimage.restoration import denoise_wavelet  # noqa: E402

from monai_adversarial.transforms.purifiers.wavelet import WaveletDenoise, WaveletDenoised  # noqa: E402

NO_CONTEXT = ImageContext()
KINDS: tuple[dict[str, Any], ...] = (
    {"method": "BayesShrink"},
    {"method": "BayesShrink", "noise": 10.0, "wavelet": "db2", "levels": 1},
    {"method": "BayesShrink", "mode": "hard", "levels": None},
    {"method": "VisuShrink"},
    {"method": "VisuShrink", "noise": 8.0, "mode": "hard", "levels": 3, "wavelet": "haar"},
)


def noisy_box(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A box of 60 HU in noise of 10 HU, air on one side; float64."""
    generator = torch.Generator().manual_seed(seed)
    image = 10.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    image[(..., *(slice(size // 4, size // 4 + size // 2) for size in shape[2:]))] += 60.0
    image[..., : shape[-1] // 5] -= 1000.0
    return image


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(13, 12, 9), (16, 17), (3, 5, 2), (1, 7), (40,)])
@pytest.mark.filterwarnings("ignore:Level value of:UserWarning")
def test_equals_scikit_image(shape: tuple[int, ...], kind: dict[str, Any]) -> None:
    image = noisy_box((1, 1, *shape))
    purifier = WaveletDenoise(**kind, strength=1.0)
    options = {"mode": purifier.mode, "method": purifier.method, "rescale_sigma": False}
    expected = denoise_wavelet(
        image[0, 0].numpy(), purifier.noise, purifier.wavelet, wavelet_levels=purifier.levels, **options
    )
    out = purifier.purify(image, NO_CONTEXT)[0, 0]
    by_ptwt = purifier.purify(image.clone().requires_grad_(), NO_CONTEXT)[0, 0]  # the path of a GPU and of gradients
    single = purifier.purify(image.float(), NO_CONTEXT)[0, 0]
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(by_ptwt.detach().numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(single.numpy(), expected, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("gradient", [False, True])
def test_samples_and_channels_do_not_see_each_other(kind: dict[str, Any], gradient: bool) -> None:
    image = torch.cat([noisy_box((2, 1, 9, 8, 7)), 3 * noisy_box((2, 1, 9, 8, 7), seed=1)], dim=1)
    image.requires_grad_(gradient)
    together = WaveletDenoise(**kind).purify(image, NO_CONTEXT)
    for i in range(2):
        for c in range(2):
            alone = WaveletDenoise(**kind).purify(image[i : i + 1, c : c + 1], NO_CONTEXT)
            torch.testing.assert_close(together[i : i + 1, c : c + 1], alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 4, 3), (1, 1, 2, 3, 2), (1, 1, 1, 4), (1, 2, 5)])
def test_gradient_is_that_of_finite_differences(kind: dict[str, Any], shape: tuple[int, ...]) -> None:
    image = noisy_box(shape).requires_grad_()
    purifier = WaveletDenoise(**kind)
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, NO_CONTEXT), image)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_constant_image_stays_and_has_a_finite_gradient(kind: dict[str, Any]) -> None:
    image = torch.full((1, 1, 8, 8, 8), -1024.0, requires_grad=True)
    out = WaveletDenoise(**kind).purify(image, NO_CONTEXT)
    torch.testing.assert_close(out, image, atol=0.01, rtol=0)
    out.sum().backward()
    assert image.grad is not None and bool(torch.isfinite(image.grad).all())
    assert float(image.grad.sum()) == pytest.approx(image.numel(), rel=1e-3)


def test_noise_is_removed_and_its_level_is_found() -> None:
    image = 10.0 * torch.randn((1, 1, 20, 20, 20), generator=torch.Generator().manual_seed(0))
    found = WaveletDenoise().purify(image, NO_CONTEXT)
    given = WaveletDenoise(noise=10.0).purify(image, NO_CONTEXT)
    assert float(found.std()) < 5.0
    assert float(found.std()) == pytest.approx(float(given.std()), rel=0.05)
    stronger = WaveletDenoise(strength=1.0).purify(image, NO_CONTEXT)
    assert float(stronger.std()) < float(found.std())


def test_an_image_that_wants_a_gradient_gets_none_where_gradients_are_off() -> None:
    image = noisy_box((1, 1, 8, 8)).requires_grad_()
    with torch.no_grad():
        out = WaveletDenoise().purify(image, NO_CONTEXT)
    assert not out.requires_grad
    torch.testing.assert_close(out, WaveletDenoise().purify(image, NO_CONTEXT).detach(), atol=1e-9, rtol=0)


def test_noise_follows_the_intensity_map() -> None:
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}
    image = noisy_box((1, 1, 12, 12, 12))
    for kind in KINDS:
        out = WaveletDenoise(**kind, intensity=window).purify(image / 400.0, NO_CONTEXT)
        torch.testing.assert_close(out * 400.0, WaveletDenoise(**kind).purify(image, NO_CONTEXT))


def test_dictionary_form_and_bad_arguments() -> None:
    image = noisy_box((1, 1, 8, 8, 8))[0]
    torch.testing.assert_close(
        WaveletDenoised("image", noise=8.0)({"image": image})["image"], WaveletDenoise(noise=8.0)(image)
    )
    for bad, message in (
        ({"wavelet": "mexican hat"}, "wavelet must be a discrete"),
        ({"levels": 0}, "levels must be"),
        ({"noise": -1.0}, "noise must be"),
        ({"mode": "firm"}, "mode must be one of"),
        ({"method": "SureShrink"}, "method must be one of"),
        ({"strength": 0}, "strength must be"),
    ):
        with pytest.raises(ValueError, match=message):
            WaveletDenoise(**bad)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ptwt", None)
    with pytest.raises(ImportError, match=r'pip install "monai-adversarial\[wavelet\]"'):
        WaveletDenoise()
