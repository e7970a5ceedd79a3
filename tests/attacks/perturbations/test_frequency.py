# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from monai_adversarial.attacks.perturbations import BudgetError, FrequencyQuantization, Perturbation, SpectralNoise
from monai_adversarial.attacks.perturbations.frequency_quantization import smooth_round
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves

LOW, HIGH = -175.0, 250.0
KINDS = [FrequencyQuantization(20, block_size=4), SpectralNoise(0.4, block_size=4), SpectralNoise(band=(0.3, 0.8))]


def per_block(image: np.ndarray, size: int, change: object, center: float) -> np.ndarray:
    """The same by SciPy, block by block, for an image inside the window that holds whole blocks."""
    levels = 255 * (image - LOW) / (HIGH - LOW) - center
    out = np.empty_like(levels)
    for x in range(0, image.shape[0], size):
        for y in range(0, image.shape[1], size):
            for z in range(0, image.shape[2], size):
                box = (slice(x, x + size), slice(y, y + size), slice(z, z + size))
                out[box] = idctn(change(dctn(levels[box], norm="ortho"), box), norm="ortho")  # type: ignore[operator]
    return ((out + center) / 255 * (HIGH - LOW) + LOW).clip(LOW, HIGH)


def inside_scene(shape: tuple[int, int, int] = (8, 12, 4)) -> Scene:
    scene = hounsfield_scene(shape, dtype=torch.float64)
    return replace(scene, image=scene.image.clamp(-100, 200))


def test_quantization_is_that_of_scipys_transform() -> None:
    scene = inside_scene()
    bound = FrequencyQuantization(40, block_size=4).bind(scene)
    (table,) = bound.random(scene.generators())
    q = table[0].numpy()

    def rounded(coefficients: np.ndarray, _: object) -> np.ndarray:
        return np.trunc(coefficients / q + np.copysign(0.5, coefficients)) * q

    expected = per_block(scene.image[0, 0].numpy(), 4, rounded, 128.0)
    np.testing.assert_allclose(bound.apply(scene.image, (table,))[0, 0].numpy(), expected, atol=1e-9)


def test_spectral_noise_is_that_of_scipys_transform() -> None:
    scene = inside_scene()
    bound = SpectralNoise(0.4, block_size=4).bind(scene)
    (noise,) = bound.random(scene.generators())
    factors = 1 + noise[0, 0].numpy()
    expected = per_block(scene.image[0, 0].numpy(), 4, lambda c, box: c * factors[box], 0.0)
    np.testing.assert_allclose(bound.apply(scene.image, (noise,))[0, 0].numpy(), expected, atol=1e-9)


def test_a_band_leaves_other_frequencies_alone() -> None:
    scene = inside_scene()
    bound = SpectralNoise(0.05, block_size=4, band=(0.5, 1.0)).bind(scene)
    parameters = bound.random(scene.generators())
    before, after = (bound.coefficients(one) for one in (scene.image, bound.apply(scene.image, parameters)))
    moved = (after - before).abs() > 1e-9
    index = torch.arange(4) / 3
    length = torch.stack(torch.meshgrid(index, index, index, indexing="ij")).square().mean(dim=0).sqrt()
    assert not moved[..., :4, :4, :4][..., length < 0.5].any()
    assert moved[..., :4, :4, :4][..., length >= 0.5].all()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_is_the_identity_to_the_last_bit(kind: Perturbation) -> None:
    for dtype in (torch.float32, torch.float64):
        scene = hounsfield_scene((7, 5, 9), batch=2, dtype=dtype)
        bound = kind.bind(scene)
        assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
        assert torch.equal(bound.finished(scene.image, bound.zeros()), scene.image)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 100), st.integers(0, 1000), st.booleans())
def test_budget_holds_for_any_parameters(kind: Perturbation, size: float, seed: int, stored: bool) -> None:
    scene = hounsfield_scene((7, 5, 9), batch=2, seed=seed % 5)
    region = torch.rand((2, 1, 7, 5, 9), generator=torch.Generator().manual_seed(seed)) > 0.3
    if stored:
        scene = replace(scene, image=scene.image.round(), stored=StoredGrid())
    scene = replace(scene, region=region)
    bound = kind.bind(scene)
    (zero,) = bound.zeros()
    noise = torch.randn(zero.shape, generator=torch.Generator().manual_seed(seed)) * size
    parameters = bound.project((noise,))
    finished = bound.finished(scene.image, parameters)
    measured = bound.verify(scene.image, finished, parameters)
    outside = (scene.image <= LOW) | (scene.image >= HIGH) | ~region
    assert torch.equal(finished[outside], scene.image[outside])
    assert bool(((finished >= LOW) & (finished <= HIGH))[~outside].all())
    assert not stored or torch.equal(finished, finished.round())
    assert {"largest_change", "rms_change", "ssim"} <= set(measured)
    assert bound.project(parameters)[0].equal(parameters[0])


@pytest.mark.parametrize("kind", KINDS)
def test_too_much_is_refused(kind: Perturbation) -> None:
    scene = hounsfield_scene((8, 8, 8))
    bound = kind.bind(scene)
    (parameters,) = bound.random(scene.generators())
    too_much = (parameters * 3,)
    with pytest.raises(BudgetError, match="quantization_step|change_of_coefficients"):
        bound.verify(scene.image, bound.apply(scene.image, too_much), too_much)
    with pytest.raises(BudgetError, match="unexplained_change"):
        bound.verify(scene.image, bound.apply(scene.image, too_much), (parameters,))


def test_smooth_rounding_has_its_own_gradient() -> None:
    turns = (torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 8 - 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smooth_round(x, 0.1), (turns,))
    whole = torch.arange(-3.0, 4.0, dtype=torch.float64)
    torch.testing.assert_close(smooth_round(whole, 0.1), whole)
    torch.testing.assert_close(smooth_round(whole + 0.5, 0.1), whole + 0.5)
    decided = turns.detach()[(turns.detach().frac().abs() - 0.5).abs() > 0.1]
    torch.testing.assert_close(smooth_round(decided, 1e-20), decided.round(), atol=1e-3, rtol=0)


def test_gradient_of_a_table_is_that_of_smooth_rounding() -> None:
    scene = inside_scene((4, 8, 4))
    bound = FrequencyQuantization(40, block_size=4, softness=0.2).bind(scene)
    (table,) = leaves(bound.random(scene.generators()))
    weight = torch.randn(bound.coefficients(scene.image).shape, generator=torch.Generator().manual_seed(1)).double()
    coefficients = bound.coefficients(scene.image)
    change = bound.change_of_coefficients(coefficients, (table,))
    (found,) = torch.autograd.grad((change * weight).sum(), table)

    def soft(table: torch.Tensor) -> torch.Tensor:
        steps = table.tile(1, 1, 2, 1)[:, None]
        return (steps * smooth_round(coefficients / steps, 0.2) * weight).sum()

    step, expected = 1e-6, torch.zeros_like(table)
    for place in range(table.numel()):
        unit = torch.zeros_like(table)
        unit.view(-1)[place] = step
        expected.view(-1)[place] = (soft(table.detach() + unit) - soft(table.detach() - unit)) / (2 * step)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_gradcheck_of_spectral_noise() -> None:
    scene = inside_scene((4, 5, 4))
    bound = SpectralNoise(0.1, block_size=4).bind(scene)
    noise = leaves(bound.random(scene.generators()))
    assert torch.autograd.gradcheck(lambda x, n: bound.apply(x, (n,)), (scene.image.requires_grad_(), noise[0]))


def test_a_control_is_as_large_as_the_attack() -> None:
    scene = hounsfield_scene((8, 8, 8), batch=2)
    for kind in KINDS:
        bound = kind.bind(scene)
        (found,) = bound.random(scene.generators())
        (control,) = bound.random_control(scene.generators(7), (found,))
        assert not control.equal(found)
        for one, other in zip(control, found, strict=True):
            assert one.abs().flatten().sort().values.equal(other.abs().flatten().sort().values)


def test_what_is_told_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="largest_step must be at least smallest_step"):
        FrequencyQuantization(0.5)
    with pytest.raises(ValueError, match="softness must be below 1"):
        FrequencyQuantization(softness=1.0)
    with pytest.raises(ValueError, match="rho must be at most 1"):
        SpectralNoise(1.5)
    with pytest.raises(ValueError, match="band must go from"):
        SpectralNoise(band=(0.5, 0.5))
    with pytest.raises(ValueError, match="holds no coefficient"):
        SpectralNoise(block_size=2, band=(0.1, 0.2)).bind(hounsfield_scene())
    with pytest.raises(ValueError, match="window is missing"):
        SpectralNoise().bind(hounsfield_scene(intensity=None))
    with pytest.raises(ValueError, match="low < high"):
        FrequencyQuantization(window=(250, -175))
