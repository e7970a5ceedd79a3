# SPDX-License-Identifier: Apache-2.0
"""JPEG 2000 by Pillow."""

from __future__ import annotations

import pytest
import torch
from PIL import features

from monai_adversarial.purifiers import jpeg2000
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.utils.backward_pass import backward_pass
from tests.helpers import random_image

CONTEXT = ImageContext()
needs_openjpeg = pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without OpenJPEG")


def noisy(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image in HU, and with noise of 10 HU."""
    grid = torch.meshgrid([torch.linspace(0, 3, n) for n in shape], indexing="ij")
    clean = 50 + 40 * torch.stack([torch.sin(axis * (k + 1)) for k, axis in enumerate(grid)]).sum(dim=0)
    return clean, clean + 10 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_openjpeg
@pytest.mark.parametrize("error", [2.0, 8.0])
def test_the_error_is_what_was_asked_for(error):
    _, image = noisy((64, 60))
    out = jpeg2000.JPEG2000Compression(error).purify(image[None, None], CONTEXT)[0, 0]
    assert float((out - image).square().mean().sqrt()) == pytest.approx(error, rel=0.2)


@needs_openjpeg
def test_removes_noise_first():
    clean, image = noisy((64, 60))
    out = jpeg2000.JPEG2000Compression(9.0).purify(image[None, None], CONTEXT)[0, 0]
    assert float((out - clean).square().mean()) < 0.5 * float((image - clean).square().mean())


@needs_openjpeg
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_slices_channels_and_samples_are_coded_one_by_one(axis):
    image = torch.stack([noisy((20, 17, 12), seed)[1] for seed in range(4)]).reshape(2, 2, 20, 17, 12)
    purifier = jpeg2000.JPEG2000Compression(slice_axis=axis)
    together = purifier.purify(image, CONTEXT)
    flat = jpeg2000.JPEG2000Compression()
    for sample in range(2):
        for channel in range(2):
            for index in range(image.shape[2:][axis]):
                alone = image[sample, channel].select(axis, index)[None, None]
                expected = flat.purify(alone, CONTEXT)[0, 0]
                assert torch.equal(together[sample, channel].select(axis, index), expected)


@needs_openjpeg
@pytest.mark.parametrize("shape", [(1, 7), (3, 3), (1, 1), (33, 5)])
def test_small_slices(shape):
    image = random_image((1, 1, *shape)) * 100
    out = jpeg2000.JPEG2000Compression(1.0).purify(image, CONTEXT)
    assert float((out - image).abs().max()) < 10


@needs_openjpeg
def test_the_argument_is_not_changed_and_voxels_outside_the_window_stay():
    image = random_image((1, 1, 16, 16)) * 100
    image[..., :5] = -1000
    before = image.clone()
    out = jpeg2000.JPEG2000Compression().purify(image, CONTEXT)
    assert torch.equal(image, before) and torch.equal(out[..., :5], image[..., :5])
    assert not torch.equal(out, image)


@needs_openjpeg
def test_network_values_are_coded_as_the_hounsfield_units_they_stand_for():
    image = noisy((32, 32))[1][None, None].double()
    purifier = jpeg2000.JPEG2000Compression(intensity={"a_min": -160, "a_max": 240})
    expected = (jpeg2000.JPEG2000Compression().purify(image, CONTEXT) + 160) / 400
    assert torch.allclose(purifier.purify((image + 160) / 400, CONTEXT), expected, atol=1e-3)


@needs_openjpeg
def test_an_attacker_gets_the_gradient_of_the_wavelet_surrogate():
    purifier = jpeg2000.JPEG2000Compression()
    image = noisy((16, 16, 3))[1][None, None].requires_grad_()
    with backward_pass("declared"):
        out = purifier.apply(image, CONTEXT)
        (gradient,) = torch.autograd.grad(out.square().sum(), image)
    assert torch.equal(out, purifier.purify(image.detach(), CONTEXT))
    (expected,) = torch.autograd.grad(purifier.surrogate(image, CONTEXT), image, 2 * out)
    assert torch.allclose(gradient, expected) and float(gradient.abs().max()) > 0


@needs_openjpeg
@pytest.mark.parametrize("axis", [-1, 0])
def test_the_surrogate_is_close_and_codes_slices_one_by_one(axis):
    clean, image = (volume[None, None] for volume in noisy((40, 36, 32)))
    purifier = jpeg2000.JPEG2000Compression(slice_axis=axis)
    surrogate, out = purifier.surrogate(image, CONTEXT), purifier.purify(image, CONTEXT)
    assert float((surrogate - out).square().mean()) < 0.7 * float((image - out).square().mean())
    alone = jpeg2000.JPEG2000Compression().surrogate(image.select(2 + axis % 3, 4), CONTEXT)
    assert torch.allclose(surrogate.select(2 + axis % 3, 4), alone, atol=1e-3)


def test_pillow_without_openjpeg_is_one_sentence(monkeypatch):
    monkeypatch.setattr(jpeg2000.features, "check", lambda name: False)
    with pytest.raises(RuntimeError, match="needs Pillow with OpenJPEG"):
        jpeg2000.JPEG2000Compression()


@needs_openjpeg
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jpeg2000.JPEG2000Compression(0), "error must be a finite number > 0"),
        (lambda: jpeg2000.JPEG2000Compression(slice_axis=5), "slice_axis must be a spatial axis"),
        (lambda: jpeg2000.JPEG2000Compression().purify(torch.zeros(1, 1, 8), CONTEXT), "2 or 3 spatial"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
