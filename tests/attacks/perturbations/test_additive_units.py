# SPDX-License-Identifier: Apache-2.0
"""Additive budgets that differ between samples and channels: percentile ranges and maps of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_adversarial.attacks.perturbations import AdditiveNoise
from monai_adversarial.attacks.perturbations.base import BudgetError
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.scene import Scene

SHAPE = (2, 3, 6, 5, 4)


def mri(seed: int = 0) -> torch.Tensor:
    """Two samples of three channels, each with its own range."""
    ranges = torch.tensor([[1.0, 100.0, 3000.0], [5.0, 0.1, 40.0]]).view(2, 3, 1, 1, 1)
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * ranges


def percentile_scene(**changes: object) -> Scene:
    return Scene(**{"image": mri(), "seeds": (1, 2), **changes})  # type: ignore[arg-type]


def ranges_of(image: torch.Tensor) -> torch.Tensor:
    """NumPy's 1st to 99th percentile, (batch, channel, 1...)."""
    low, high = np.percentile(image.double().flatten(2).numpy(), [1, 99], axis=2)
    return torch.tensor(high - low).view(*image.shape[:2], 1, 1, 1)


def test_a_share_of_the_percentile_range_is_a_radius_for_each_sample_and_channel() -> None:
    scene = percentile_scene()
    bound = AdditiveNoise(0.05, units="percentile").bind(scene)
    assert torch.allclose(bound.radii[0].double(), 0.05 * ranges_of(scene.image), rtol=1e-5, atol=0)
    (noise,) = bound.project((torch.randn(SHAPE) * 1e6,))
    assert torch.equal(noise.abs(), bound.radii[0].expand(SHAPE))
    (start,) = bound.random(scene.generators())
    assert bool((start.abs() <= bound.radii[0]).all()) and bool((start.abs().flatten(2).amax(2) > 0).all())
    assert bound.size((noise,)).tolist() == [1.0, 1.0]
    (control,) = bound.random_control(scene.generators(1), (noise / 2,))
    assert torch.allclose(control.abs(), bound.radii[0].expand(SHAPE) / 2)


def test_it_is_measured_and_verified_in_shares_of_the_range() -> None:
    scene = percentile_scene()
    bound = AdditiveNoise(0.05, units="percentile").bind(scene)
    for part in (1.0, 0.4):
        parameters = (part * bound.radii[0].expand(SHAPE),)
        measured = bound.verify(scene.image, bound.apply(scene.image, parameters), parameters)["noise_linf"]
        assert measured.units == "percentile" and measured.limit == 0.05
        assert measured.values.tolist() == pytest.approx([0.05 * part] * 2, rel=1e-3)
    # One channel of one sample outside is found, however small it is beside the others.
    parameters = (torch.zeros(SHAPE),)
    outside = scene.image.clone()
    outside[1, 1] += 0.06 * float(ranges_of(scene.image)[1, 1])
    with pytest.raises(BudgetError, match=r"noise_linf of sample 1 is 0\.06\d* percentile, above the budget of 0\.05"):
        bound.verify(scene.image, outside, parameters)


def test_the_budget_factor_of_a_sample_multiplies_its_radii() -> None:
    whole = AdditiveNoise(0.05, units="percentile").bind(percentile_scene())
    scene = percentile_scene(budget=torch.tensor([0.5, 0.0]))
    bound = AdditiveNoise(0.05, units="percentile").bind(scene)
    assert torch.equal(bound.radii[0], whole.radii[0] * torch.tensor([0.5, 0.0]).view(2, 1, 1, 1, 1))
    (noise,) = bound.project((torch.randn(SHAPE) * 1e6,))
    measured = bound.verify(scene.image, bound.apply(scene.image, (noise,)), (noise,))["noise_linf"]
    assert [measured.limit_of(i) for i in range(2)] == pytest.approx([0.025, 0.0])
    outside = torch.cat([scene.image[:1], scene.image[1:] + 0.1 * whole.radii[0][1:]])
    with pytest.raises(BudgetError, match="noise_linf of sample 1 is 0.005"):
        bound.verify(scene.image, outside, (noise,))


def test_whole_numbers_stay_inside_the_radius_of_their_channel() -> None:
    image = (mri() * 40).round() - 500
    scene = percentile_scene(image=image, image_units="HU")
    bound = AdditiveNoise(0.03, units="percentile").bind(scene)
    (noise,) = bound.random(scene.generators())
    saved = bound.quantize(image, bound.apply(image, (noise,)), (noise,))
    assert torch.equal(saved, saved.round()) and bool(((saved - image).abs() <= bound.radii[0]).all())
    bound.verify(image, saved, (noise,), rounding=0.0)


def test_a_constant_channel_has_no_range_and_does_not_change() -> None:
    image = mri()
    image[0, 1] = 7.0
    scene = percentile_scene(image=image)
    bound = AdditiveNoise(0.05, units="percentile").bind(scene)
    (noise,) = bound.random(scene.generators())
    assert not bool(noise[0, 1].any()) and bool(noise[0, 0].any())
    bound.verify(image, bound.apply(image, (noise,)), (noise,))
    changed = image.clone()
    changed[0, 1, 0, 0, 0] += 1
    with pytest.raises(BudgetError, match="noise_linf of sample 0 is inf percentile"):
        bound.verify(image, changed, (noise,))


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_euclidean_balls_have_one_unit_per_sample_or_are_refused(norm: str) -> None:
    image = mri()[:, :1].contiguous()
    scene = percentile_scene(image=image)
    bound = AdditiveNoise(0.05, norm, "percentile").bind(scene)
    expected = 0.05 * ranges_of(image).flatten() * (image[0].numel() ** 0.5 if norm == "rms" else 1.0)
    assert torch.allclose(bound.euclidean_radius.double(), expected, rtol=1e-5, atol=0)
    (noise,) = bound.random(scene.generators())
    (edge,) = bound.project((noise * 1e6,))
    measured = bound.verify(image, bound.apply(image, (edge,)), (edge,))[f"noise_{norm}"]
    assert measured.values.tolist() == pytest.approx([0.05, 0.05], rel=1e-3)
    assert bound.size((edge,)).tolist() == pytest.approx([1.0 if norm == "l2" else 1.0] * 2, rel=1e-4)
    with pytest.raises(ValueError, match=f"norm='{norm}' needs one size of a unit for all channels of a sample"):
        AdditiveNoise(0.05, norm, "percentile").bind(percentile_scene())


def test_hu_of_each_image_are_network_units_by_its_own_map() -> None:
    raw = mri() + 100
    scale = torch.tensor([[0.01, 0.002, 0.0005], [0.1, 1.0, 0.04]])
    own = IntensityMap(scale, -100 * scale)
    scene = percentile_scene(image=own(raw), intensity=own)
    bound = AdditiveNoise(8.0, units="HU").bind(scene)
    assert torch.allclose(bound.radii[0].flatten(1), 8 * scale)
    (noise,) = bound.project((torch.randn(SHAPE) * 1e6,))
    measured = bound.verify(scene.image, bound.apply(scene.image, (noise,)), (noise,))
    assert measured["noise_linf"].values.tolist() == pytest.approx([8.0, 8.0], rel=1e-4)
    assert measured["largest_change"].values.tolist() == pytest.approx([8.0, 8.0], rel=1e-4)
    assert measured["rms_change"].values.tolist() == pytest.approx([8.0, 8.0], rel=1e-4)
    part = AdditiveNoise(8.0, units="HU").bind(scene.select([1]))
    assert torch.equal(part.radii[0], bound.radii[0][1:])
    # The same map for all, said with tensors or with numbers, is the same budget.
    alike = percentile_scene(intensity=IntensityMap(torch.full((2, 3), 0.004), torch.zeros(1, 1)))
    number = percentile_scene(intensity=IntensityMap(0.004, 0.0))
    tensors, numbers = (AdditiveNoise(8.0, units="HU").bind(scene) for scene in (alike, number))
    assert torch.equal(tensors.project((torch.ones(SHAPE),))[0], numbers.project((torch.ones(SHAPE),))[0])


def test_an_inverting_map_gives_the_budget_of_its_size() -> None:
    scene = percentile_scene(intensity=IntensityMap(-0.01, 0.5, 0.0, 1.0), image=mri().clamp(0, 1))
    assert AdditiveNoise(8.0, units="HU").bind(scene).epsilon == pytest.approx(0.08)
    assert AdditiveNoise(0.1, units="fraction").bind(scene).epsilon == pytest.approx(0.1)


def test_voxels_that_the_pipeline_holds_do_not_change() -> None:
    image = torch.cat([torch.full((2, 3, 3, 5, 4), 0.25), mri()[:, :, 3:]], dim=2)
    held = torch.tensor([[0.25, float("nan"), 0.25], [0.25, 0.25, 0.25]])
    scene = percentile_scene(image=image, intensity=IntensityMap(torch.full((2, 3), 0.1), torch.zeros(2, 3), held=held))
    bound = AdditiveNoise(8.0, units="HU").bind(scene)
    (noise,) = bound.random(scene.generators())
    still = (noise == 0)[:, :, :3].flatten(2).all(dim=2)
    assert still.tolist() == [[True, False, True], [True, True, True]]
    assert bound.changeable.tolist() == pytest.approx([2 / 3, 1 / 2])
    region = torch.zeros(2, 1, 6, 5, 4, dtype=torch.bool)
    region[:, :, 3:] = True
    inside = AdditiveNoise(8.0, units="HU").bind(
        percentile_scene(image=image, intensity=scene.intensity, region=region)
    )
    assert inside.changeable.tolist() == [1.0, 1.0]
