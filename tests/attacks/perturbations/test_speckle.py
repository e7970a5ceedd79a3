# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import gamma, kstest

from monai_adversarial.attacks import Attack, RandomSearch, SpeckleAttack, SpeckleNoise
from monai_adversarial.attacks.perturbations import BudgetError
from monai_adversarial.data.example import example_case
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves

DOMAINS = ("window", "attenuation", "image")
LOW, HIGH = -175.0, 250.0


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(DOMAINS), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.0, 0.8]), st.integers(0, 999))
def test_relative_change_stays_inside_the_budget(domain: str, rho: float, grain: float, seed: int) -> None:
    scene = hounsfield_scene(batch=2, seed=seed % 7)
    if seed % 2:
        scene = replace(scene, image=scene.image.round(), stored=StoredGrid())
    bound = SpeckleNoise(rho, grain, domain=domain).bind(scene)
    generator = torch.Generator().manual_seed(seed)
    parameters = bound.project((torch.randn(scene.image.shape, generator=generator),))
    finished = bound.finished(scene.image, parameters)
    measured = bound.verify(scene.image, finished, parameters)
    assert float(measured["speckle_of_parameters"].values.max()) <= rho * (1 + 1e-6)
    zero = {"window": LOW, "attenuation": -1000.0, "image": 0.0}[domain]
    assert bool(((finished - zero).abs() <= (scene.image - zero).abs() * (1 + rho) + 1e-3).all())


@pytest.mark.parametrize("domain", DOMAINS)
def test_formula_and_measured_change(domain: str) -> None:
    scene = hounsfield_scene(dtype=torch.float64)
    bound = SpeckleNoise(0.3, grain=0.7, domain=domain).bind(scene)
    (white,) = bound.random(scene.generators())
    noise = gaussian_filter(white[0, 0].numpy(), 0.7, mode="nearest", truncate=3.0)
    image = scene.image[0, 0].numpy()
    zero = {"window": LOW, "attenuation": -1000.0, "image": 0.0}[domain]
    expected = (image - zero) * (1 + noise) + zero
    if domain == "window":
        expected = np.where((image > LOW) & (image < HIGH), expected.clip(LOW, HIGH), image)
    changed = bound.apply(scene.image, (white,))
    np.testing.assert_allclose(changed[0, 0].numpy(), expected.clip(-1024), atol=1e-6)
    measured = bound.measure(scene.image, changed, (white,))
    inside = (expected > LOW) & (expected < HIGH) if domain == "window" else np.ones_like(image, dtype=bool)
    assert float(measured["speckle"].values[0]) == pytest.approx(np.abs(noise[inside]).max(), rel=0.02)


def test_zero_stays_zero_and_no_noise_is_the_identity() -> None:
    image = torch.rand(1, 1, 6, 6, 6)
    image[..., :3] = 0
    scene = Scene(image, (0,))
    bound = SpeckleNoise(0.5, domain="image").bind(scene)
    changed = bound.apply(image, bound.random(scene.generators()))
    assert torch.equal(changed[..., :3], image[..., :3]) and not torch.equal(changed, image)
    for domain in DOMAINS:
        scene = hounsfield_scene()
        bound = SpeckleNoise(0.5, 1.0, domain=domain).bind(scene)
        assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_draws_of_several_looks_are_gamma() -> None:
    scene = Scene(torch.ones(2, 1, 20, 20, 20), (3, 4))
    (draw,) = SpeckleNoise(1.0, looks=16, domain="image").bind(scene).random(scene.generators())
    inside = draw[0].flatten()[draw[0].flatten() < 1].numpy().astype(np.float64)
    assert kstest(inside, gamma(16, loc=-1, scale=1 / 16).cdf).pvalue > 0.01
    alone = scene.select([1])
    again = SpeckleNoise(1.0, looks=16, domain="image").bind(alone).random(alone.generators())[0]
    assert torch.equal(again[0], draw[1]) and not torch.equal(draw[0], draw[1])


def test_too_much_is_refused() -> None:
    scene = hounsfield_scene()
    bound = SpeckleNoise(0.1, domain="attenuation").bind(scene)
    (parameters,) = bound.random(scene.generators())
    with pytest.raises(BudgetError, match="speckle"):
        bound.verify(scene.image, bound.apply(scene.image, (parameters * 2,)), (parameters,))
    with pytest.raises(ValueError, match="rho must be at most 1"):
        SpeckleNoise(2)
    with pytest.raises(ValueError, match="needs an image in HU"):
        SpeckleNoise(domain="attenuation").bind(Scene(torch.rand(1, 1, 4, 4, 4), (0,)))


@pytest.mark.parametrize("domain", DOMAINS)
def test_gradcheck(domain: str) -> None:
    scene = hounsfield_scene((3, 4, 3), dtype=torch.float64)
    bound = SpeckleNoise(0.1, 0.6, domain=domain).bind(scene)
    noise = leaves(bound.random(scene.generators()))
    assert torch.autograd.gradcheck(lambda x, n: bound.apply(x, (n,)), (scene.image.requires_grad_(), noise[0]))


def test_optimized_beats_random_of_the_same_size_and_grows_with_the_budget() -> None:
    model, image, label = example_case(24)
    found = [float(SpeckleAttack(rho, steps=4)(model, image, label).adversarial_dice) for rho in (0.01, 0.03, 0.1)]
    assert found[0] > found[1] >= found[2]
    result = SpeckleAttack(0.03, steps=4)(model, image, label)
    for stream in range(3):
        control = result.bound.random_control(result.bound.scene.generators(stream), result.parameters)
        random = result.bound.finished(result.bound.scene.image, control)
        assert found[1] < float(SpeckleAttack(0, steps=1)(model, random, label).clean_dice)
    worst = Attack(SpeckleNoise(0.03, looks=4), "dice", RandomSearch(), steps=10)(model, image, label)
    assert found[1] < float(worst.adversarial_dice)
