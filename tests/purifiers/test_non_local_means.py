# SPDX-License-Identifier: Apache-2.0
"""Non-local means against the definition, scikit-image and finite differences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.non_local_means import NonLocalMeansDenoise, NonLocalMeansDenoised

NO_CONTEXT = ImageContext()


def noisy_box(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A box of 60 HU in noise of 10 HU, air on one side; float64."""
    generator = torch.Generator().manual_seed(seed)
    image = 10.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    image[(..., *(slice(size // 4, size // 4 + size // 2) for size in shape[2:]))] += 60.0
    image[..., : shape[-1] // 5] -= 1000.0
    return image


def by_definition(image: np.ndarray, search: int, radius: int, noise: float, h: float) -> np.ndarray:
    """One voxel after the other."""
    rank = image.ndim
    padded = np.pad(image, radius, mode="reflect")
    squares = sum(np.square(axis - radius) for axis in np.indices((2 * radius + 1,) * rank))
    kernel = np.exp(-squares / (2 * max(radius / 2, 1e-9) ** 2))
    kernel /= kernel.sum()
    patch = {p: padded[tuple(slice(i, i + 2 * radius + 1) for i in p)] for p in np.ndindex(image.shape)}
    out = np.empty_like(image)
    for p in np.ndindex(image.shape):
        total = weights = 0.0
        for offset in product(range(-search, search + 1), repeat=rank):
            q = tuple(i + o for i, o in zip(p, offset, strict=True))
            if q in patch:
                distance = (kernel * (patch[p] - patch[q]) ** 2).sum()
                weight = np.exp(-max(distance - 2 * noise**2, 0) / h**2)
                total, weights = total + weight * image[q], weights + weight
        out[p] = total / weights
    return out


@pytest.mark.parametrize(
    ("shape", "search", "radius"),
    [
        ((6, 5, 7), 2, 1),
        ((9, 8), 3, 2),
        ((17,), 2, 1),
        ((2, 1, 9), 3, 2),
        ((3, 4, 5), 1, 0),
        ((5, 6), 4, 1),
        ((2, 3), 5, 4),
    ],
)
def test_equals_the_definition(shape: tuple[int, ...], search: int, radius: int) -> None:
    image = noisy_box((1, 1, *shape))
    out = NonLocalMeansDenoise(search, radius, 10.0, 3.0).purify(image, NO_CONTEXT)[0, 0]
    expected = by_definition(image[0, 0].numpy(), search, radius, 10.0, 30.0)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-9)
    assert np.abs(expected - image[0, 0].numpy()).max() > 1.0
    single = NonLocalMeansDenoise(search, radius, 10.0, 3.0).purify(image.float(), NO_CONTEXT)[0, 0]
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-3)


@pytest.mark.parametrize(("search", "radius"), [(2, 1), (3, 2)])
@pytest.mark.parametrize("shape", [(12, 11, 10), (1, 16, 17)])
def test_equals_scikit_image(shape: tuple[int, ...], search: int, radius: int) -> None:
    image = noisy_box((1, 1, *shape))
    out = NonLocalMeansDenoise(search, radius).purify(image, NO_CONTEXT)[0, 0].numpy()
    expected = denoise_nl_means(
        image[0, 0].numpy(), 2 * radius + 1, search, h=8.0, sigma=10.0, fast_mode=False, preserve_range=True
    )
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.2  # 2 % of the noise
    if shape[0] == 1:  # a volume of one slice is an image
        flat = NonLocalMeansDenoise(search, radius).purify(image[:, :, 0], NO_CONTEXT)[0, 0].numpy()
        np.testing.assert_allclose(flat, out[0], atol=1e-9)


def test_samples_and_channels_do_not_see_each_other() -> None:
    image = torch.cat([noisy_box((2, 1, 5, 6, 4)), noisy_box((2, 1, 5, 6, 4), seed=1)], dim=1)
    together = NonLocalMeansDenoise().purify(image, NO_CONTEXT)
    for i in range(2):
        for c in range(2):
            alone = NonLocalMeansDenoise().purify(image[i : i + 1, c : c + 1], NO_CONTEXT)
            torch.testing.assert_close(together[i : i + 1, c : c + 1], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", [(2, 1, 4, 3), (1, 1, 2, 3, 2), (1, 1, 1, 4), (1, 2, 5)])
@pytest.mark.parametrize("radius", [0, 2])
def test_gradient_is_that_of_finite_differences(shape: tuple[int, ...], radius: int) -> None:
    image = noisy_box(shape).requires_grad_()
    purifier = NonLocalMeansDenoise(2, radius, 5.0, 3.0)
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, NO_CONTEXT), image)


def test_noise_is_removed_and_edges_stay() -> None:
    image = noisy_box((1, 1, 16, 16, 16))
    out = NonLocalMeansDenoise().purify(image, NO_CONTEXT)
    inside = (..., slice(5, 11), slice(5, 11), slice(5, 11))
    assert float(out[inside].std()) < 0.5 * float(image[inside].std())
    assert float(out[inside].mean() - image[inside].mean()) == pytest.approx(0.0, abs=2.0)
    assert float(out[..., :3].max()) < -900.0


def test_noise_follows_the_intensity_map() -> None:
    window = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0}
    image = noisy_box((1, 1, 6, 6, 6))
    out = NonLocalMeansDenoise(intensity=window).purify(image / 400.0, NO_CONTEXT)
    torch.testing.assert_close(out * 400.0, NonLocalMeansDenoise().purify(image, NO_CONTEXT))


def test_dictionary_form_and_bad_arguments() -> None:
    image = noisy_box((1, 1, 5, 5, 5))[0]
    torch.testing.assert_close(
        NonLocalMeansDenoised("image", noise=8.0)({"image": image})["image"], NonLocalMeansDenoise(noise=8.0)(image)
    )
    for bad, message in (
        ({"search_radius": 0}, "search_radius must be"),
        ({"patch_radius": -1}, "patch_radius must be"),
        ({"noise": 0.0}, "noise must be"),
        ({"strength": float("nan")}, "strength must be"),
    ):
        with pytest.raises(ValueError, match=message):
            NonLocalMeansDenoise(**bad)  # type: ignore[arg-type]
