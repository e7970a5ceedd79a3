# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from monai_adversarial.attacks.perturbations import BudgetError, Parameters, TextureStatistics
from monai_adversarial.attacks.perturbations.texture_statistics import BoundTextureStatistics
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves, smooth

LOW, HIGH = -175.0, 250.0
SHAPE, SPACING = (12, 10, 8), (1.0, 2.0, 3.0)
ROUGH = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 20


def rough_scene(batch: int = 1, dtype: torch.dtype = torch.float64, low: float = -100, high: float = 200) -> Scene:
    """Noise of 20 HU on smooth values, all inside the window."""
    scene = hounsfield_scene(batch=batch, dtype=dtype)
    return replace(scene, image=(scene.image + ROUGH.to(dtype)).clamp(low, high))


def far(bound: BoundTextureStatistics, seed: int, size: float) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(zero.shape, generator=generator).to(zero) * size for zero in bound.zeros())


def test_a_global_gain_is_that_of_scipys_bands() -> None:
    """One control spacing far beyond the volume and equal controls: the formula with one mean and one spread."""
    scene = rough_scene()
    bound = TextureStatistics(1.0, 1.0, 1000, scales=(1.5, 4.0), control_spacing=1e4).bind(scene)
    gains, shift = bound.zeros()
    gains[:, :, 0], gains[:, :, 1] = np.log(1.5), np.log(0.7)
    shift += 0.25
    image = scene.image[0, 0].numpy()
    fine = [image, *(gaussian_filter(image, [s / a for a in SPACING], mode="nearest", truncate=4) for s in (1.5, 4.0))]
    expected = image.copy()
    for gain, band in zip((1.5, 0.7), (fine[0] - fine[1], fine[1] - fine[2]), strict=True):
        expected += (gain - 1) * (band - band.mean()) + 0.25 * band.std()
    found = bound.apply(scene.image, (gains, shift))[0, 0].numpy()
    assert np.abs(expected - image).max() > 10
    # The neighborhood's weights are not quite equal at its border, and SciPy's kernel is rounded otherwise.
    np.testing.assert_allclose(found, expected.clip(LOW, HIGH), atol=0.05)


def test_what_is_coarser_than_the_last_scale_stays() -> None:
    """A gain moves details; an image without any moves nowhere."""
    scene = rough_scene()
    flat = replace(scene, image=torch.full_like(scene.image, 40.0))
    bound = TextureStatistics(1.0, 1.0, 1000).bind(flat)
    assert all(bool((radius == 0).all()) for radius in bound.radii)
    assert torch.equal(bound.apply(flat.image, far(bound, 0, 1.0)), flat.image)
    bound = TextureStatistics(1.0, 0.0, 1000, scales=(1.0,), control_spacing=1e4).bind(scene)
    change = bound.apply(scene.image, bound.project(far(bound, 1, 5.0))) - scene.image
    smoothed = gaussian_filter(change[0, 0].numpy(), [6.0 / a for a in SPACING], mode="nearest")
    assert np.abs(smoothed).max() < 0.2 * change.abs().max()


def test_zero_is_the_identity_to_the_last_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        scene = hounsfield_scene(batch=2, dtype=dtype)
        bound = TextureStatistics().bind(scene)
        assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
        assert torch.equal(bound.finished(scene.image, bound.zeros()), scene.image)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 50), st.integers(0, 1000), st.booleans(), st.booleans(), st.booleans())
def test_budget_holds_for_any_parameters(size: float, seed: int, stored: bool, styled: bool, per_mille: bool) -> None:
    scene = hounsfield_scene(batch=2, seed=seed % 5)
    scene = replace(scene, image=scene.image + ROUGH.float())
    region = torch.rand((2, 1, *SHAPE), generator=torch.Generator().manual_seed(seed)) > 0.3
    if stored:
        scene = replace(scene, image=scene.image.round(), stored=StoredGrid())
    scene = replace(scene, region=region)
    style = smooth((9, 9, 9), seed) * 60 if styled else None
    cap, units = (0.02, "fraction") if per_mille else (9.0, "HU")
    bound = TextureStatistics(0.8, 0.6, cap, units, style=style).bind(scene)
    parameters = bound.project(far(bound, seed, size))
    finished = bound.finished(scene.image, parameters)
    measured = bound.verify(scene.image, finished, parameters)
    outside = (scene.image <= LOW) | (scene.image >= HIGH) | ~region
    assert torch.equal(finished[outside], scene.image[outside])
    assert bool(((finished >= LOW) & (finished <= HIGH))[~outside].all())
    assert float((finished - scene.image).abs().max()) <= (8.5 if per_mille else 9.0) + 1e-3
    assert not stored or torch.equal(finished, finished.round())
    assert float(measured["largest_gain"].values.max()) <= 80 * (1 + 1e-5)
    assert all(torch.equal(*pair) for pair in zip(bound.project(parameters), parameters, strict=True))


def test_gain_of_every_voxel_is_at_most_that_of_the_controls() -> None:
    scene = rough_scene()
    bound = TextureStatistics(0.5, 0.0, 1000, scales=(2.0,)).bind(scene)
    parameters = bound.project(far(bound, 3, 50.0))
    change = bound.change(scene.image, parameters)
    moved = bound.details[0].abs() > 1e-6
    gain = (change / bound.details[0])[moved] + 1
    assert 1 / 1.5 - 1e-9 <= float(gain.min()) and float(gain.max()) <= 1.5 + 1e-9
    assert float(gain.max()) > 1.1 and float(gain.min()) < 0.9


def test_too_much_is_refused() -> None:
    scene = rough_scene()
    bound = TextureStatistics(0.3, 0.3, 6.0).bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.finished(scene.image, parameters)
    with pytest.raises(BudgetError, match="largest_gain"):
        bound.verify(scene.image, finished, (parameters[0] * 3, parameters[1]))
    with pytest.raises(BudgetError, match="largest_shift"):
        bound.verify(scene.image, finished, (parameters[0], parameters[1] * 3))
    with pytest.raises(BudgetError, match="noise_linf"):
        bound.verify(scene.image, scene.image + 7, parameters)
    with pytest.raises(BudgetError, match="unexplained_change"):
        bound.verify(scene.image, (finished + 1).clamp(scene.image - 6, scene.image + 6), parameters)
    styled = TextureStatistics(0.3, 0.3, 6.0, style=scene.image / 4).bind(scene)
    away = tuple(-part for part in styled.random(scene.generators()))
    with pytest.raises(BudgetError, match="beyond_the_style"):
        styled.verify(scene.image, styled.finished(scene.image, away), away)


def test_a_style_is_approached_and_not_passed() -> None:
    """The spread of a band goes to that of the style, which lies in the budget."""
    scene = rough_scene(low=-170, high=240)
    style = MetaTensor(40 + 0.3 * (scene.image - 40), affine=torch.diag(torch.tensor([*SPACING, 1.0]).double()))
    bound = TextureStatistics(9.0, 1.0, 1000, scales=(1.5,), control_spacing=1e4, style=style).bind(scene)
    fine = style.as_tensor()[0, 0].numpy()
    band = fine - gaussian_filter(fine, [1.5 / along for along in SPACING], mode="nearest", truncate=4)
    assert float(bound.style[1]) == pytest.approx(band.std(), rel=1e-3)  # type: ignore[index]
    torch.testing.assert_close(bound.lowest[0].exp() * bound.spreads, bound.style[1].expand_as(bound.spreads))  # type: ignore[index]
    assert bool((bound.highest[0] == 0).all())  # quieter: no gain above one
    before, after = (bound._statistics(one)[2] for one in (scene.image, bound.apply(scene.image, bound.lowest)))
    goal = float(band.std())  # bands overlap: what is coarser has a part in the band, too
    assert bool(((after - goal).abs() < 0.5 * (before - goal).abs()).all())
    assert all(type(radius) is torch.Tensor for radius in bound.radii)
    same = TextureStatistics(3.0, 1.0, 1000, control_spacing=1e4, style=scene.image).bind(scene)
    assert max(float(radius.max()) for radius in same.radii) < 0.02


def test_statistics_are_those_of_the_voxels_that_may_change() -> None:
    scene = rough_scene()
    region = torch.zeros((1, 1, *SHAPE), dtype=torch.bool)
    region[..., 3:9, 2:8, 2:6] = True
    bone = scene.image.masked_fill(~region, 240.0)
    settings = {"max_gain": 0.5, "cap": 1000.0, "scales": (2.0,), "control_spacing": 1e4}
    found = TextureStatistics(**settings).bind(replace(scene, image=bone, region=region))
    (band,) = found._bands(bone, found.sigmas)
    expected = band[region].std(correction=0)
    torch.testing.assert_close(found.spreads.mean(), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("style", [False, True])
def test_gradcheck(style: bool) -> None:
    scene = rough_scene()
    scene = replace(scene, image=scene.image[..., :5, :5, :4].contiguous())
    other = scene.image.flip(2) * 0.7 if style else None
    bound = TextureStatistics(0.5, 0.5, 300, scales=(1.5, 4.0), style=other).bind(scene)
    parameters = leaves(bound.random(scene.generators()))
    image = scene.image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: bound.apply(x, p), (image, *parameters))


def test_the_kept_statistics_are_those_of_the_image() -> None:
    """Once for the clean image, anew for another one."""
    scene = rough_scene()
    bound = TextureStatistics(0.5, 0.5, 1000).bind(scene)
    parameters = bound.random(scene.generators())
    kept = bound.apply(scene.image, parameters)
    torch.testing.assert_close(bound.apply(scene.image.clone(), parameters), kept)
    other = replace(scene, image=scene.image.flip(3))
    again = TextureStatistics(0.5, 0.5, 1000).bind(other)
    moved = bound.rebind(TextureStatistics(0.5, 0.5, 1000), other)
    torch.testing.assert_close(moved.apply(other.image, parameters), again.apply(other.image, parameters))


def test_images_without_hounsfield_units_and_of_two_axes() -> None:
    image = torch.rand((2, 3, 20, 16), generator=torch.Generator().manual_seed(0))
    scene = Scene(image, (0, 1), torch.tensor([[1.0, 1.0]] * 2).double())
    bound = TextureStatistics(0.5, 0.5, 0.05, "percentile").bind(scene)
    parameters = bound.random(scene.generators())
    assert parameters[0].shape[:3] == (2, 3, 3)
    finished = bound.finished(image, parameters)
    measured = bound.verify(image, finished, parameters)
    assert 0 < float(measured["noise_linf"].values.max()) <= 0.05 * (1 + 1e-4)
    with pytest.raises(ValueError, match="needs the map"):
        TextureStatistics().bind(scene)


def test_a_control_is_as_large_as_the_attack() -> None:
    scene = rough_scene(batch=2)
    for style in (None, scene.image[:1] * 0.5):
        bound = TextureStatistics(0.5, 0.5, 20, style=style).bind(scene)
        found = tuple(0.5 * part for part in bound.random(scene.generators()))
        control = bound.random_control(scene.generators(7), found)
        assert torch.equal(bound.project(control)[0], control[0])
        for one, other, radius in zip(control, found, bound.radii, strict=True):
            share = (other.abs() / radius.clamp_min(1e-9)).flatten(1).amax(dim=1)
            largest = (one.abs() / radius.clamp_min(1e-9)).flatten(1).amax(dim=1)
            torch.testing.assert_close(largest, share)


def test_what_is_told_wrongly_is_refused() -> None:
    scene = rough_scene()
    with pytest.raises(ValueError, match="scales must be one or more lengths in mm that ascend"):
        TextureStatistics(scales=(4, 2))
    with pytest.raises(ValueError, match="scales must be one or more"):
        TextureStatistics(scales=())
    with pytest.raises(ValueError, match="spacing is missing"):
        TextureStatistics().bind(replace(scene, spacing=None))
    with pytest.raises(ValueError, match="window is missing"):
        TextureStatistics().bind(hounsfield_scene(intensity=None))
    with pytest.raises(ValueError, match="style must be"):
        TextureStatistics(style=scene.image[0]).bind(scene)
    with pytest.raises(ValueError, match="style must have voxels in the window"):
        TextureStatistics(style=torch.full((1, 1, 4, 4, 4), -900.0)).bind(scene)
    with pytest.raises(TypeError, match="style must be"):
        TextureStatistics(style="scan.nii")
