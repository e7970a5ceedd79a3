# SPDX-License-Identifier: Apache-2.0
"""N4 through ITK: equal to ITK's own field, finds known fields, and is attacked by its surrogate."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from monai_adversarial.attacks.gradients import backward_pass
from monai_adversarial.transforms.purifiers.context import ImageContext
from monai_adversarial.transforms.purifiers.n4 import N4BiasFieldCorrection
from tests.transforms.purifiers.shading import body, root_mean_square, shade, smooth_log_gain, tissue

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


def test_bad_input_stops_with_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="control_spacing is in mm but the spacing is not known"):
        N4BiasFieldCorrection().purify(body((16, 16)), ImageContext())
    with pytest.raises(ValueError, match="needs 2 or 3 spatial dimensions"):
        N4BiasFieldCorrection().purify(body((16,)), context(1.0))
    for options, words in (
        ({"control_spacing": 0}, "control_spacing must be"),
        ({"iterations": ()}, "iterations must have a number"),
        ({"iterations": (0,)}, "iterations must be an integer >= 1"),
        ({"shrink": 0}, "shrink must be an integer >= 1"),
        ({"convergence": 0}, "convergence must be"),
        ({"domain": "other"}, "domain must be one of"),
        ({"tissue": -200.0}, "tissues must be HU above"),
    ):
        with pytest.raises(ValueError, match=words):
            N4BiasFieldCorrection(**options)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "monai-adversarial\[itk\]"'):
        N4BiasFieldCorrection()
