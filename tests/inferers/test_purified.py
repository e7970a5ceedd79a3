# SPDX-License-Identifier: Apache-2.0
"""Inference with purifiers: what the network sees, where, and with which draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import ScaleIntensityRange

from monai_adversarial.inferers import (
    MemoryBoundedSlidingWindowInferer,
    PurifiedInferer,
    ScannerSpaceInferer,
    memory_bounded,
)
from monai_adversarial.transforms import GaussianDenoise, MedianDenoised
from tests.helpers import random_image, tiny_segmentation_network
from tests.purifiers.examples import Doubled, RandomGain, Rounded

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def identity(image):
    return image.clone()


def scan(batch: int = 1, seed: int = 0) -> MetaTensor:
    return MetaTensor(100 * random_image((batch, 1, 8, 10, 12), seed), affine=torch.as_tensor(AFFINE))


def test_the_network_sees_the_purified_image():
    image = random_image((2, 1, 6, 6))
    torch.testing.assert_close(PurifiedInferer(None, Doubled())(image, identity), 2 * image)


def test_several_purifiers_run_in_their_order():
    image = random_image((1, 1, 6, 6))
    expected = 2 * (image / 0.3).round() * 0.3
    torch.testing.assert_close(PurifiedInferer(None, [Rounded(0.3), Doubled()])(image, identity), expected)


def test_metadata_is_kept_and_integers_are_computed_in_float():
    image = MetaTensor(torch.arange(64).view(1, 1, 4, 4, 4), affine=torch.as_tensor(AFFINE))
    out = PurifiedInferer(None, Doubled())(image, identity)
    assert isinstance(out, MetaTensor) and out.dtype == torch.float32
    assert torch.equal(out.affine, image.affine)
    torch.testing.assert_close(out.as_tensor(), 2.0 * image.as_tensor())


def test_outside_the_scanner_inferer_it_sees_hounsfield_units_inside_the_network_values():
    scale = ScaleIntensityRange(a_min=0, a_max=100, b_min=0, b_max=1, clip=False)
    image = scan()
    outside = PurifiedInferer(ScannerSpaceInferer(None, None, None, scale), Rounded(25.0))
    inside = ScannerSpaceInferer(PurifiedInferer(None, Rounded(0.25)), None, None, scale)
    expected = (image.as_tensor() / 25).round() * 0.25
    for inferer in (outside, inside, outside.for_image(image), inside.for_image(image)):
        torch.testing.assert_close(inferer(image, identity).as_tensor(), expected)


def test_spacing_comes_from_the_affine_and_the_purifiers_own_wins():
    image = scan()
    outside = PurifiedInferer(None, GaussianDenoise(sigma=2.0))(image, identity).as_tensor()
    plain = image.as_tensor()
    own = PurifiedInferer(None, GaussianDenoise(sigma=2.0, spacing=(2.0, 3.0, 4.0)))
    torch.testing.assert_close(own(plain, identity), outside)
    torch.testing.assert_close(PurifiedInferer(None, own.purifiers[0]).for_image(plain)(plain, identity), outside)
    with pytest.raises(ValueError, match="sigma is in mm but the spacing is not known"):
        PurifiedInferer(None, GaussianDenoise(sigma=2.0))(plain, identity)


def test_random_draw_depends_on_seed_and_voxels_alone():
    image = scan(3)
    first = PurifiedInferer(None, RandomGain())(image, identity)
    assert torch.equal(first, PurifiedInferer(None, RandomGain())(image, identity))
    torch.testing.assert_close(first[1:2], PurifiedInferer(None, RandomGain())(image[1:2], identity))
    assert not torch.equal(first, PurifiedInferer(None, RandomGain(), seed=1)(image, identity))


def test_bound_inferer_draws_by_the_clean_image_for_any_of_its_samples():
    image = scan(3)
    bound = PurifiedInferer(None, RandomGain()).for_image(image)
    changed = image.as_tensor() + 1.0
    whole = bound(changed, identity)
    torch.testing.assert_close(bound.for_samples([2, 0])(changed[[2, 0]], identity), whole[[2, 0]])
    with pytest.raises(ValueError, match="for_samples needs"):
        PurifiedInferer(None, RandomGain()).for_samples([0])


def test_inside_a_scanner_inferer_each_sample_keeps_its_draw_when_affines_differ():
    images = scan(2)
    affines = np.stack([AFFINE, np.diag([3.0, 3.0, 3.0, 1.0])])
    inferer = ScannerSpaceInferer(PurifiedInferer(None, RandomGain()), None, None)
    same = inferer.for_image(images)(images.as_tensor(), identity)
    inferer.inferer = inferer.inferer.for_image(images.as_tensor())
    different = inferer.for_affine(affines)(images.as_tensor(), identity)
    torch.testing.assert_close(same, different)


def test_sliding_windows_inside_are_made_memory_bounded():
    windows = SlidingWindowInferer((8, 8, 8), 1, 0.25)
    made = memory_bounded(ScannerSpaceInferer(PurifiedInferer(windows, Doubled())))
    assert isinstance(made.inferer.inferer, MemoryBoundedSlidingWindowInferer)
    assert made.inferer.purifiers[0].__class__ is Doubled
    image = random_image((1, 1, 10, 10, 10)).requires_grad_()
    network = tiny_segmentation_network()
    bounded = memory_bounded(PurifiedInferer(windows, Doubled()))(image, network)
    torch.testing.assert_close(bounded, PurifiedInferer(windows, Doubled())(image, network))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused_once_per_binding(bad):
    image = scan(2)
    image[1, 0, 2, 3, 4] = bad
    inferer = PurifiedInferer(None, [Doubled()])
    with pytest.raises(ValueError, match="inputs must be finite, got 1 NaN or infinite voxels"):
        inferer(image, identity)
    with pytest.raises(ValueError, match="image must be finite, got 1 NaN or infinite voxels"):
        inferer.for_image(image)
    with pytest.raises(ValueError, match="inputs must be finite"):
        ScannerSpaceInferer(inferer, None, None)(image, identity)


def test_a_bound_inferer_does_not_look_at_the_voxels_again(monkeypatch):
    """On a GPU that would wait for all that is queued, in every step of an attack."""
    image = scan()
    inferer = PurifiedInferer(None, [Doubled(), RandomGain()])
    calls = []
    isfinite = torch.isfinite

    def counted(tensor):
        if tensor.shape == image.shape:  # others are about the spacing, which is on the CPU
            calls.append(tensor)
        return isfinite(tensor)

    monkeypatch.setattr(torch, "isfinite", counted)
    bound = inferer.for_image(image)
    part = bound.for_samples([0])
    bound(image, identity)
    seen = len(calls)
    bound(image, identity)
    part(image, identity)
    assert len(calls) == seen > 0
    inferer(image, identity)
    assert len(calls) == seen + 1
    inferer.for_image(image)(image, identity)
    assert len(calls) > seen + 1


@pytest.mark.parametrize("wrong", [MedianDenoised("image"), [Doubled(), MedianDenoised("image")]])
def test_the_dictionary_form_is_refused_with_the_name_of_the_array_form(wrong):
    with pytest.raises(TypeError, match="got the dictionary form MedianDenoised: pass MedianDenoise."):
        PurifiedInferer(None, wrong)


@pytest.mark.parametrize("wrong", [[], "median", 5, None, [Doubled(), torch.round]])
def test_anything_but_purifiers_is_refused(wrong):
    with pytest.raises(TypeError, match="purifier must be a Purifier"):
        PurifiedInferer(None, wrong)
