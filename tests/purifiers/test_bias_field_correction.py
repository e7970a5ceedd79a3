# SPDX-License-Identifier: Apache-2.0
"""The differentiable bias-field correction finds known fields, leaves unshaded images alone, and has gradients."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks.perturbations import BiasField
from monai_adversarial.purifiers.bias_field_correction import BiasFieldCorrection
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.scene import Scene
from tests.purifiers.shading import WINDOW, body, root_mean_square, shade, smooth_log_gain, tissue

NOTHING = ImageContext()


@pytest.mark.parametrize("shape", [(40, 40, 32), (96, 80)])
@pytest.mark.parametrize("gain", [0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_known_field_is_found_to_three_percent(shape, gain, seed):
    clean = body(shape, seed=seed)
    truth = smooth_log_gain(shape, gain, seed)
    shaded = shade(clean, truth)
    inside = tissue(clean)
    found = BiasFieldCorrection().log_gain(shaded)
    assert root_mean_square((found - truth)[inside]) < 0.03
    restored = BiasFieldCorrection().purify(shaded, NOTHING)
    before = root_mean_square((shaded - clean)[inside])
    assert root_mean_square((restored - clean)[inside]) < max(0.5 * before, 5.0)


def test_the_gain_of_the_attack_itself_is_divided_out():
    clean = body()
    scene = Scene(clean, seeds=(3,), intensity=IntensityMap.from_window(*WINDOW), image_units="HU")
    bound = BiasField(0.3).bind(scene)
    parameters = bound.random([torch.Generator().manual_seed(3)])
    found = BiasFieldCorrection().log_gain(bound.apply(clean, parameters))
    assert root_mean_square((found - bound.field(parameters))[tissue(clean)]) < 0.02


@pytest.mark.parametrize("shape", [(40, 40, 32), (96, 80)])
def test_an_unshaded_image_hardly_changes(shape):
    clean = body(shape)
    out = BiasFieldCorrection().purify(clean, NOTHING)
    assert root_mean_square((out - clean)[tissue(clean)]) < 0.025 * 225
    outside = (clean < WINDOW[0]) | (clean > WINDOW[1])
    assert bool(outside.any()) and torch.equal(out[outside], clean[outside])


def test_threshold_spares_small_fields_and_not_large_ones():
    clean = body()
    small, large = (shade(clean, smooth_log_gain(clean.shape[2:], gain, 1)) for gain in (0.01, 0.3))
    always, choosy = BiasFieldCorrection(), BiasFieldCorrection(threshold=0.02)
    sizes = [[root_mean_square(c.log_gain(image)) for c in (always, choosy)] for image in (small, large)]
    assert 0 < sizes[0][1] < 0.5 * sizes[0][0]
    assert sizes[1][1] > 0.8 * sizes[1][0]


def test_images_in_arbitrary_units_are_corrected_up_to_a_factor():
    truth = smooth_log_gain((40, 40, 32), 0.3, 4)
    clean = (body(noise=3.0) + 100).clamp_min(0)  # background 0, tissue 120 to 185
    inside = clean > 100
    truth = truth - truth[inside].mean()
    correction = BiasFieldCorrection(domain="image")
    found = correction.log_gain(clean * truth.exp())
    assert root_mean_square((found - truth)[inside]) < 0.04
    rescaled = correction.log_gain(7.5 * clean * truth.exp())
    torch.testing.assert_close(rescaled, found, atol=1e-3, rtol=0)
    torch.testing.assert_close(correction.purify(clean, NOTHING), clean * (-correction.log_gain(clean)).exp())


def test_without_known_tissue_the_global_brightness_stays():
    clean = body()
    brighter = shade(clean, torch.full_like(clean, math.log(1.1)))
    inside = tissue(clean)
    unknown = BiasFieldCorrection(tissues=None).purify(brighter, NOTHING)
    known = BiasFieldCorrection().purify(brighter, NOTHING)
    assert abs(float(torch.median((unknown - brighter)[inside]))) < 3
    assert abs(float(torch.median((known - clean)[inside]))) < 3


def test_network_values_give_the_same_field_as_hounsfield_units():
    shaded = shade(body(), smooth_log_gain((40, 40, 32), 0.2, 5))
    window = dict(a_min=-160, a_max=240, b_min=0.0, b_max=1.0, clip=True)
    in_network = IntensityMap.from_window(**window)(shaded)
    expected = BiasFieldCorrection().purify(shaded, NOTHING)
    out = BiasFieldCorrection(intensity=window).purify(in_network, NOTHING)
    torch.testing.assert_close(out, IntensityMap.from_window(**window)(expected), atol=1e-4, rtol=0)


def test_samples_and_channels_do_not_see_each_other():
    parts = [shade(body((24, 20, 22), seed=s), smooth_log_gain((24, 20, 22), 0.2, s)) for s in range(4)]
    batch = torch.cat(parts).view(2, 2, 24, 20, 22)
    alone = torch.cat([BiasFieldCorrection().purify(p, NOTHING) for p in parts]).view_as(batch)
    torch.testing.assert_close(BiasFieldCorrection().purify(batch, NOTHING), alone, atol=2e-2, rtol=0)


@pytest.mark.parametrize("value", [-1000.0, 0.0, 3000.0])
def test_an_image_without_tissue_stays_and_is_finite(value):
    image = torch.full((1, 1, 12, 12, 12), value)
    for correction in (BiasFieldCorrection(), BiasFieldCorrection(domain="image")):
        out = correction.purify(image, NOTHING)
        assert bool(torch.isfinite(out).all())
        if value != 0.0:
            torch.testing.assert_close(out, image, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"domain": "image"}, {"threshold": 0.05}, {"tissues": (60.0, 85.0)}])
def test_gradient_is_exact(options):
    shape = (6, 5)
    image = shade(
        body(shape, dtype=torch.float64).clamp_min(-90), smooth_log_gain(shape, 0.2, 1).double()
    ).requires_grad_()
    if options.get("domain") == "image":
        image = (image.detach() + 300).requires_grad_()
    correction = BiasFieldCorrection(degree=2, iterations=3, **options)
    assert torch.autograd.gradcheck(lambda x: correction.purify(x, NOTHING), (image,), eps=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degree": 7}, "degree must be at most 6"),
        ({"degree": -1}, "degree must be an integer >= 0"),
        ({"window": (240, -160)}, "window must"),
        ({"domain": "attenuation"}, "domain must be one of"),
        ({"tissues": (-300.0,)}, "tissues must be HU above"),
        ({"tissues": ()}, "tissues must be HU above"),
        ({"tissues": "65"}, "tissues must be HU above the window's low edge -160, or None, got '65'"),
        ({"tissues": (65.0, float("nan"))}, "tissues must be HU above"),
        ({"tissues": None, "degree": 0}, "degree must be at least 1"),
        ({"iterations": 0}, "iterations must be an integer >= 1"),
        ({"smoothness": 0.0}, "smoothness must be"),
        ({"threshold": -1.0}, "threshold must be"),
        ({"grid": 1}, "grid must be an integer >= 2"),
    ],
)
def test_bad_arguments_stop_with_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        BiasFieldCorrection(**options)


def test_one_tissue_may_be_a_number():
    assert BiasFieldCorrection(tissues=60.0).tissues == BiasFieldCorrection(tissues=(60,)).tissues == (60.0,)
