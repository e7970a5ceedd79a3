# SPDX-License-Identifier: Apache-2.0
"""N4 through ITK: equal to ITK's own field, finds known fields, and is attacked by its surrogate."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.n4 import N4BiasFieldCorrection
from monai_adversarial.utils.backward_pass import backward_pass
from tests.purifiers.shading import body, root_mean_square, shade, smooth_log_gain, tissue

itk = pytest.importorskip("itk")


def context(*spacing: float) -> ImageContext:
    return ImageContext(torch.tensor([spacing], dtype=torch.float64))


@pytest.mark.parametrize(("shape", "spacing"), [((40, 40, 32), (8.0, 8.0, 8.0)), ((96, 80), (4.0, 4.0))])
def test_a_known_field_is_found_to_four_percent(shape, spacing):
    clean = body(shape)
    truth = smooth_log_gain(shape, 0.3, 1, degree=2)
    shaded = shade(clean, truth)
    inside = tissue(clean)
    found = N4BiasFieldCorrection().log_gain(shaded, context(*spacing))
    assert root_mean_square((found - truth)[inside]) < min(0.04, 0.5 * root_mean_square(truth[inside]))
    free = N4BiasFieldCorrection(tissue=None).log_gain(shaded, context(*spacing))
    assert abs(float(free[inside].mean())) < 0.02


def test_without_shrinking_the_field_is_that_of_itk():
    """To 1e-5, apart from the constant that N4 leaves open."""
    shape = (20, 18, 16)
    image = shade(body(shape), smooth_log_gain(shape, 0.2, 2))
    purifier = N4BiasFieldCorrection(control_spacing=100.0, iterations=(5,), shrink=1)
    found = purifier.log_gain(image, context(10.0, 5.0, 5.0))
    level, weight = purifier._smooth.tissue_blocks(image, (1, 1, 1))
    volume = itk.image_from_array(level.exp().view(shape).numpy())
    mask = itk.image_from_array((weight > 0.5).view(shape).numpy().astype(np.uint8))
    correction = itk.N4BiasFieldCorrectionImageFilter[type(volume), type(mask), type(volume)].New(
        volume, MaskImage=mask
    )
    correction.SetNumberOfControlPoints([4, 4, 5])  # 190 mm along the first axis, ITK's last
    correction.SetMaximumNumberOfIterations([5])
    correction.SetConvergenceThreshold(0.001)
    correction.SetNumberOfWorkUnits(1)
    correction.Update()
    inside = itk.array_from_image(mask) > 0
    expected = np.log(itk.array_from_image(volume)[inside] / itk.array_from_image(correction.GetOutput())[inside])
    difference = found[0, 0].numpy()[inside] - expected
    assert float(np.ptp(difference)) < 1e-5
    assert float(np.ptp(expected)) > 0.05


def test_the_field_of_a_shrunk_image_is_close_to_that_of_the_whole():
    shape = (48, 44, 40)
    image = shade(body(shape), smooth_log_gain(shape, 0.2, 2, degree=2))
    fine, coarse = (N4BiasFieldCorrection(shrink=shrink).log_gain(image, context(7.0, 7.0, 7.0)) for shrink in (2, 4))
    assert root_mean_square((fine - coarse)[tissue(body(shape))]) < 0.02


def test_samples_and_channels_do_not_see_each_other():
    shape = (20, 18, 16)
    parts = [shade(body(shape, seed=s), smooth_log_gain(shape, 0.2, s)) for s in range(4)]
    spacings = torch.tensor([[10.0, 10.0, 10.0], [20.0, 10.0, 12.0]], dtype=torch.float64)
    purifier = N4BiasFieldCorrection(control_spacing=100.0, iterations=(5,))
    batch = purifier.purify(torch.cat(parts).view(2, 2, *shape), ImageContext(spacings))
    alone = [purifier.purify(p, ImageContext(spacings[i // 2 : i // 2 + 1])) for i, p in enumerate(parts)]
    torch.testing.assert_close(batch, torch.cat(alone).view_as(batch), atol=1e-3, rtol=0)


def test_the_surrogate_gives_a_finite_useful_gradient():
    shape = (24, 24, 20)
    image = shade(body(shape), smooth_log_gain(shape, 0.3, 3, degree=2)).requires_grad_()
    purifier = N4BiasFieldCorrection()
    with backward_pass("declared"):
        out = purifier.apply(image, context(12.0, 12.0, 12.0))
    assert torch.equal(out, purifier.purify(image.detach(), context(12.0, 12.0, 12.0)))
    weight = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((out * weight).sum(), image)
    assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0
    # A common factor of the window's values is what the correction takes out: along it the surrogate is flat.
    inside = tissue(body(shape))
    (gradient,) = torch.autograd.grad(purifier.surrogate(image, context(1, 1, 1))[inside].sum(), image)
    along = (image.detach() + 160).clamp(0, 400) * (image.detach() < 240)
    assert abs(float((gradient * along).sum())) < 0.1 * float(along[inside].sum())


def test_an_image_without_tissue_stays():
    image = torch.full((1, 1, 16, 16, 16), -1000.0)
    assert torch.equal(N4BiasFieldCorrection().purify(image, context(1, 1, 1)), image)


@pytest.mark.parametrize("value", [50.0, 60.3])
@pytest.mark.parametrize("inside", [slice(None), slice(4, 20)])
def test_uniform_tissue_gets_the_global_factor_and_no_field(value, inside):
    """ITK's histogram has no width there, and its field reaches a factor of 5."""
    image = torch.full((1, 1, 24, 24, 24), -1000.0)
    image[..., inside, inside, inside] = value
    for tissue_value, expected in ((65.0, 65.0), (None, value)):
        out = N4BiasFieldCorrection(tissue=tissue_value).purify(image, context(8, 8, 8))
        wanted = torch.where(image > -500, expected, image)
        torch.testing.assert_close(out, wanted, atol=1e-2, rtol=0)
    raw = (image + 1000).clamp_min(0)
    torch.testing.assert_close(
        N4BiasFieldCorrection(domain="image").purify(raw, context(8, 8, 8)), raw, atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 5.0])
def test_a_field_that_is_not_finite_or_beyond_what_the_tissue_spans_counts_as_none(monkeypatch, bad):
    image = body((24, 24, 20))

    def by_itk(self, level, mask, points):
        field = torch.zeros_like(level)
        field[mask.nonzero().unbind(1)[0][0]] = bad
        return field

    monkeypatch.setattr(N4BiasFieldCorrection, "_by_itk", by_itk)
    gain = N4BiasFieldCorrection().log_gain(image, context(12.0, 12.0, 12.0))
    assert float(gain.max() - gain.min()) < 1e-6 and abs(float(gain.mean())) < 0.1
    assert not N4BiasFieldCorrection(tissue=None).log_gain(image, context(12.0, 12.0, 12.0)).any()


@pytest.mark.parametrize("tissue_value", [65.0, None])
@pytest.mark.parametrize("noise", [0.01, 1.0, 15.0])
def test_on_tissue_that_is_not_uniform_the_field_is_itks_to_the_bit(monkeypatch, tissue_value, noise):
    image = 40.0 + noise * torch.randn((1, 1, 24, 20, 22), generator=torch.Generator().manual_seed(0))
    image[..., 11:] += 3 * noise
    fields = []
    by_itk = N4BiasFieldCorrection._by_itk

    def kept(self, level, mask, points):
        found = by_itk(self, level, mask, points)
        if tissue_value is None:
            fields.append(found - found[mask].mean())
        else:
            fields.append(found + (level - found)[mask].median() - math.log(tissue_value + 160.0))
        return found

    monkeypatch.setattr(N4BiasFieldCorrection, "_by_itk", kept)
    purifier = N4BiasFieldCorrection(tissue=tissue_value, shrink=1)
    out = purifier.purify(image, context(9.0, 9.0, 9.0))
    assert torch.equal(out, purifier._smooth.divide(image, fields[0].view(image.shape)))
    assert not torch.equal(out, image)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_an_axis_of_one_voxel_is_left_out_of_the_estimate(axis):
    image = shade(body((30, 28)), smooth_log_gain((30, 28), 0.3, 1, degree=2))
    spacing = [9.0, 7.0]
    expected = N4BiasFieldCorrection().purify(image, context(*spacing))
    spacing.insert(axis - 2, 3.0)
    volume = N4BiasFieldCorrection().purify(image.unsqueeze(axis), context(*spacing))
    assert torch.equal(volume, expected.unsqueeze(axis)) and not torch.equal(expected, image)
    assert bool(torch.isfinite(N4BiasFieldCorrection().surrogate(image.unsqueeze(axis), context(*spacing))).all())


def test_bad_input_stops_with_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="control_spacing is in mm but the spacing is not known"):
        N4BiasFieldCorrection().purify(body((16, 16)), ImageContext())
    for image, spacing in ((body((16,)), (1.0,)), (body((16, 16))[..., :1], (1.0, 1.0))):
        with pytest.raises(ValueError, match="needs 2 or 3 spatial dimensions of more than one voxel, got"):
            N4BiasFieldCorrection().purify(image, context(*spacing))
    for options, words in (
        ({"control_spacing": 0}, "control_spacing must be"),
        ({"iterations": ()}, "iterations must have a number"),
        ({"iterations": (0,)}, "iterations must be an integer >= 1"),
        ({"shrink": 0}, "shrink must be an integer >= 1"),
        ({"convergence": 0}, "convergence must be"),
        ({"domain": "other"}, "domain must be one of"),
        ({"tissue": -200.0}, "tissue must be HU above the window's low edge -160"),
        ({"tissue": "x"}, "tissue must be HU above the window's low edge -160, or None, got 'x'"),
        ({"tissue": (40, 65, 100)}, r"tissue must be one number of HU or None, got \(40, 65, 100\)"),
        ({"tissue": float("nan")}, "tissue must be HU above"),
    ):
        with pytest.raises(ValueError, match=words):
            N4BiasFieldCorrection(**options)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install the extra 'itk' \(pip install itk\)\."):
        N4BiasFieldCorrection()
