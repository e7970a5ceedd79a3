# SPDX-License-Identifier: Apache-2.0
"""Finished images in the values of a file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.attacks import AdditiveNoise, AffineTransform
from monai_adversarial.attacks.perturbations.rounding import rounded_inside, rounded_to_length
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import hounsfield_scene


def lengths(noise: torch.Tensor) -> torch.Tensor:
    return noise.double().flatten(1).norm(dim=1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1.0, 0.1, 8.0, 1 / 3]),
    st.floats(0.01, 30),
    st.booleans(),
    st.integers(0, 9999),
)
def test_a_length_never_grows_and_lands_on_the_grid(step: float, size: float, on_grid: bool, seed: int) -> None:
    grid = StoredGrid(step, -1024.0)
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 1, 6, 5, 4, generator=generator) * 2000 - 1000
    image = grid.nearest(image) if on_grid else image
    noise = torch.randn(image.shape, generator=generator) * size
    noise[0] *= 0.5
    wanted = rounded_to_length(grid, image, noise)
    assert bool((lengths(wanted) <= lengths(noise) * (1 + 1e-6) + 1e-9).all())
    moved = wanted != 0
    place = grid.place((image.double() + wanted.double())[moved])
    assert bool(((place - place.round()).abs() * step < 2e-3).all())
    assert bool((wanted.sign() * noise.sign() >= 0).all())


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_noise_below_a_step_is_not_rounded_away(norm: str) -> None:
    scene = hounsfield_scene((12, 12, 12))
    scene = replace(scene, image=scene.image.round(), stored=StoredGrid())
    epsilon = 0.3 if norm == "rms" else 0.3 * scene.image[0].numel() ** 0.5
    bound = AdditiveNoise(epsilon, norm, "HU").bind(scene)
    parameters = bound.project((torch.randn(scene.image.shape, generator=torch.Generator().manual_seed(0)),))
    finished = bound.finished(scene.image, parameters)
    measured = bound.verify(scene.image, finished, parameters)[f"noise_{norm}"]
    assert 0.98 * epsilon <= float(measured.values[0]) <= epsilon
    assert set((finished - scene.image).unique().tolist()) == {-1.0, 0.0, 1.0}
    # Those that the noise changed most.
    changed = (finished != scene.image).flatten()
    size = parameters[0].abs().flatten()
    assert float(size[changed].min()) >= float(size[~changed].max()) - 1e-3


def test_a_voxel_without_a_value_between_its_limits_keeps_its_bits() -> None:
    image = torch.tensor([0.4, 10.0, 20.0]).view(1, 1, 3)
    adversarial = image + torch.tensor([0.3, 0.4, 5.0]).view(1, 1, 3)
    found = rounded_inside(StoredGrid(), image, adversarial, lambda clean, _: (clean - 0.3, clean + 0.3), None)
    assert torch.equal(found, torch.tensor([0.4, 10.0, 20.0]).view(1, 1, 3))
    found = rounded_inside(StoredGrid(), image, adversarial, lambda *_: (None, None), image > 15)
    assert found.flatten().tolist() == [1.0, 10.0, 20.0]


def test_a_moved_image_reaches_the_lowest_value_of_its_file() -> None:
    # -2044.7 is 5e-5 higher in float32: the value itself must not count as below the range.
    grid = StoredGrid(8.0, 3.3 - 8 * 256, 3.3 - 8 * 256, 4000.0)
    image = grid.value(torch.arange(60, dtype=torch.float64).view(1, 1, 5, 4, 3) * 7).float()
    scene = Scene(image, (0,), torch.ones(1, 3, dtype=torch.float64), image_units="HU", stored=grid)
    bound = AffineTransform(0.0, 2.0, 0.0).bind(scene)
    parameters = bound.zeros()
    parameters[0][0, 3:6] = -2.0  # behind three angles
    moved = bound.apply(image, parameters)
    finished = bound.finished(image, parameters)
    assert float(finished.min()) == float(image.min()) and int((moved == image.min()).sum()) > 1
    assert float((finished - moved).abs().max()) <= 4.0 + 1e-3
    bound.verify(image, finished, parameters)
