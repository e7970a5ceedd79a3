# SPDX-License-Identifier: Apache-2.0
"""Wavelet shrinkage against scikit-image and finite differences."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.purifiers import wavelet
from monai_adversarial.purifiers.context import ImageContext

pytest.importorskip("ptwt")
pytest.importorskip("pywt")
from skimage.restoration import denoise_wavelet  # noqa: E402

from monai_adversarial.purifiers.wavelet import WaveletDenoise, WaveletDenoised  # noqa: E402

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
    purifier = WaveletDenoise(**{**kind, "levels": None if kind.get("levels", 2) is None else 2})
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


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("objective", ["voxels", "energy"])
def test_the_surrogate_says_what_steps_of_an_attack_do(kind: dict[str, Any], objective: str) -> None:
    """On noise of 10 HU plus an edge of 60 HU, against the change that 6 HU along random signs make."""
    generator = torch.Generator().manual_seed(0)
    image = 40.0 + 10.0 * torch.randn((1, 1, 20, 20, 20), generator=generator, dtype=torch.float64)
    image[..., 10:] += 60.0
    purifier = WaveletDenoise(**kind)
    value = purifier.purify(image, NO_CONTEXT)
    weight = torch.randn(image.shape, generator=generator, dtype=torch.float64) if objective == "voxels" else value - 70
    signs = [2.0 * torch.randint(0, 2, image.shape, generator=generator).double() - 1.0 for _ in range(40)]
    changes = torch.stack(
        [
            (weight * (purifier.purify(image + 6 * s, NO_CONTEXT) - purifier.purify(image - 6 * s, NO_CONTEXT))).sum()
            for s in signs
        ]
    )
    agreement = []
    for function in (purifier.surrogate, purifier.purify):
        given = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((weight * function(given, NO_CONTEXT)).sum(), given)
        agreement.append(correlation(torch.stack([(gradient * s).sum() for s in signs]), changes))
    by_surrogate, exact = agreement
    assert by_surrogate > max(exact, 0.6) - 0.02
    if purifier.noise is None:  # the exact derivative of the estimated noise is that of a single coefficient
        assert by_surrogate > 0.85 or purifier.mode == "hard"
        assert by_surrogate > exact + 0.02


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_surrogate_is_close_passes_gradient_everywhere_and_keeps_constants(kind: dict[str, Any]) -> None:
    image = noisy_box((2, 1, 12, 11, 10)).requires_grad_()
    purifier = WaveletDenoise(**kind)
    out = purifier.surrogate(image, NO_CONTEXT)
    exact = purifier.purify(image, NO_CONTEXT)
    assert float((out - exact).detach().std()) < 0.5 * float((image - exact).detach().std()) + 1.0
    (gradient,) = torch.autograd.grad(out.square().sum(), image)
    assert bool(torch.isfinite(gradient).all()) and float((gradient != 0).double().mean()) > 0.99
    alone = purifier.surrogate(image[1:], NO_CONTEXT)
    torch.testing.assert_close(alone, out[1:], atol=1e-9, rtol=0)
    constant = torch.full((1, 1, 8, 8, 8), -1024.0, requires_grad=True)
    out = purifier.surrogate(constant, NO_CONTEXT)
    torch.testing.assert_close(out, constant, atol=0.01, rtol=0)
    (gradient,) = torch.autograd.grad(out.sum(), constant)
    assert float(gradient.sum()) == pytest.approx(constant.numel(), rel=1e-3)


def test_smooth_shrinkage_is_the_expectation_under_noise() -> None:
    values = torch.linspace(-60.0, 60.0, 41, dtype=torch.float64)[None]
    threshold = torch.full((1, 1), 20.0, dtype=torch.float64)
    noise = torch.linspace(-8.0, 8.0, 40_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * noise.square())
    for mode in ("soft", "hard"):
        shrunk = WaveletDenoise(mode=mode)._shrink(values[0][:, None] + 5.0 * noise, threshold)
        expected = (shrunk * weight).sum(dim=1) / weight.sum()
        found = wavelet._smooth_shrinkage(values, threshold, 5.0, mode)[0]
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_more_levels_than_the_image_allows_are_refused_and_defaults_are_not() -> None:
    image = noisy_box((1, 1, 10, 4, 3))
    with pytest.raises(ValueError, match=r"levels must be at most 4 for an image of \(10, 4, 3\) voxels, got 30"):
        WaveletDenoise(levels=30).purify(image, NO_CONTEXT)
    assert WaveletDenoise(levels=4).purify(image, NO_CONTEXT).shape == image.shape
    for shape in ((1, 1, 1, 1), (1, 1, 2, 1, 2), (1, 1, 3)):
        assert WaveletDenoise().purify(torch.ones(shape), NO_CONTEXT).shape == shape


def test_noise_follows_the_intensity_map() -> None:
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}
    image = noisy_box((1, 1, 12, 12, 12))
    for kind in KINDS:
        smooth = WaveletDenoise(**kind, intensity=window).surrogate(image / 400.0, NO_CONTEXT)
        torch.testing.assert_close(smooth * 400.0, WaveletDenoise(**kind).surrogate(image, NO_CONTEXT))
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
    with pytest.raises(ImportError, match=r"install the extra 'wavelet' \(pip install ptwt\)\."):
        WaveletDenoise()
