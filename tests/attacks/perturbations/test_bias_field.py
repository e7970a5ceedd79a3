# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.optimize import linprog

from monai_adversarial.attacks.perturbations import BiasField, BudgetError
from monai_adversarial.attacks.search import AutoPGD, Search, SteepestAscent
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene, leaves

DOMAINS = ("window", "attenuation", "image")
FORMS = [{"degree": 3}, {"basis": "bspline", "control_spacing": 10.0}, {"degree": 2, "zero_mean": True}]


def test_field_equals_monais_with_the_same_coefficients() -> None:
    from monai.transforms import RandBiasField

    image = torch.rand(1, 1, 12, 11, 10)
    peer = RandBiasField(degree=3, coeff_range=(-0.3, 0.3), prob=1.0).set_random_state(seed=3)
    expected = peer(image[0])
    bound = BiasField(max_gain=100.0, degree=3, domain="image").bind(Scene(image, (0,)))
    found = bound.apply(image, (torch.tensor([peer._coeff]),))
    torch.testing.assert_close(found[0], torch.as_tensor(expected), atol=1e-5, rtol=0)


def test_field_of_a_slice_is_a_legendre_series() -> None:
    image = torch.ones(1, 1, 9, 7, dtype=torch.float64)
    bound = BiasField(degree=2, domain="image", max_gain=9.0).bind(Scene(image, (0,)))
    coefficients = torch.randn(1, 6, dtype=torch.float64)
    table = np.zeros((3, 3))
    for value, (i, j) in zip(coefficients[0].tolist(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)], strict=True):
        table[i, j] = value
    expected = np.polynomial.legendre.leggrid2d(np.linspace(-1, 1, 9), np.linspace(-1, 1, 7), table)
    np.testing.assert_allclose(bound.field((coefficients,))[0, 0].numpy(), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DOMAINS),
    st.sampled_from(FORMS),
    st.sampled_from([0.0, 0.05, 0.3, 2.0]),
    st.floats(0, 20),
    st.integers(0, 10_000),
)
def test_gain_stays_inside_the_budget_for_any_parameters(
    domain: str, form: dict, max_gain: float, size: float, seed: int
) -> None:
    scene = hounsfield_scene(batch=2, seed=seed % 7)
    bound = BiasField(max_gain=max_gain, domain=domain, **form).bind(scene)
    generator = torch.Generator().manual_seed(seed)
    (zero,) = bound.zeros()
    parameters = bound.project((torch.randn(zero.shape, generator=generator) * size,))
    # Whole HU, as in a file; the image itself is not whole.
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    measured = bound.verify(scene.image, finished, parameters, rounding=0.5)
    assert float(measured["gain_of_parameters"].values.max()) <= 100 * max_gain * (1 + 1e-5) + 1e-5
    again = bound.project(parameters)
    torch.testing.assert_close(again, parameters, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("form", [{"degree": 1}, {"degree": 3}, {"basis": "bspline", "control_spacing": 6.0}])
@pytest.mark.parametrize("search", [SteepestAscent(0.25), SteepestAscent(0.5), AutoPGD()])
def test_search_comes_near_the_best_field_there_is(form: dict, search: Search) -> None:
    # "Lighter here, darker there" is linear in the field, so that the best field is the solution of a linear program.
    # Sign steps with scaling, as for noise, stop at a quarter to a half of it for polynomials.
    image = torch.ones(1, 1, 12, 11, dtype=torch.float64)
    bound = BiasField(max_gain=0.3, domain="image", **form).bind(Scene(image, (0,), spacing=torch.ones(1, 2)))
    (zero,) = bound.zeros()
    units = torch.eye(zero.numel(), dtype=torch.float64).view(-1, 1, *zero.shape[1:])
    functions = torch.stack([bound.field((unit,)).flatten() for unit in units], dim=1)
    u, v = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 11), indexing="ij")
    wanted = torch.exp(-((u - 0.5) ** 2 + (v + 0.3) ** 2) / 0.1) - torch.exp(-((u + 0.4) ** 2 + (v - 0.6) ** 2) / 0.2)
    gradient = (functions.T @ wanted.double().flatten()).view(zero.shape)
    sides = np.vstack([functions.numpy(), -functions.numpy()])
    solved = linprog(-gradient.flatten().numpy(), sides, np.full(len(sides), bound.limit), bounds=(None, None))
    best = -solved.fun
    (parameters,) = bound.random(bound.scene.generators())
    run, reached = search.begin(bound, 10), []
    for step in range(10):
        value = (gradient * parameters).sum()[None]
        (parameters,) = run.advance((parameters,), (gradient,), value, step)
        reached.append(float((gradient * parameters).sum()) / best)
    assert 0.6 < max(reached) <= 1 + 1e-6


@pytest.mark.parametrize("domain", DOMAINS)
def test_measured_gain_comes_from_the_image(domain: str) -> None:
    scene = hounsfield_scene(dtype=torch.float64)
    bound = BiasField(max_gain=0.2, degree=0, domain=domain).bind(scene)
    parameters = (torch.full((1, 1), math.log(1.15), dtype=torch.float64),)
    measured = bound.measure(scene.image, bound.apply(scene.image, parameters), parameters)
    assert float(measured["gain"].values[0]) == pytest.approx(15.0, abs=0.02)
    assert float(measured["unexplained_change"].values[0]) == 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_image_outside_the_budget_is_refused(domain: str) -> None:
    scene = hounsfield_scene()
    bound = BiasField(max_gain=0.1, domain=domain).bind(scene)
    (parameters,) = bound.random(scene.generators())
    too_far = (parameters * 1.5,)
    with pytest.raises(BudgetError, match="gain"):
        bound.verify(scene.image, bound.apply(scene.image, too_far), too_far)
    with pytest.raises(BudgetError, match="gain"):  # parameters that claim less than the image shows
        bound.verify(scene.image, bound.apply(scene.image, too_far), (parameters,))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("fraction", [0.0, 0.37])
def test_rounding_keeps_the_gain_without_any_room_for_it(domain: str, fraction: float) -> None:
    # A voxel of a floating point file just above the window's floor: half a HU there is 75702 percent.
    scene = hounsfield_scene()
    image = scene.image.round() + fraction
    image.view(-1)[:6] = torch.tensor([-174.9993, -174.6, -174.4, -999.9993, 0.0007, -0.0007])
    scene = replace(scene, image=image)
    bound = BiasField(max_gain=0.3, domain=domain).bind(scene)
    for parameters in (bound.random(scene.generators()), bound.project((torch.full_like(bound.zeros()[0], 9.0),))):
        shaded = bound.apply(image, parameters)
        finished = bound.quantize(image, shaded, parameters)
        gain = bound.measure(image, finished, parameters)["gain"]
        assert gain.tolerance == 0.0 and gain.exceeded() == []
        assert float((finished - shaded).abs().max()) <= 1.0
        changed = finished != image
        assert torch.equal(finished[changed], finished[changed].round()) and bool(changed.any())
        assert torch.equal(finished[shaded == image], image[shaded == image])
        bound.verify(image, finished, parameters, rounding=0.5)


def test_room_for_rounding_is_given_only_where_rounding_happened() -> None:
    image = torch.full((1, 1, 4), 25.0)
    bound = BiasField(max_gain=0.2, degree=0).bind(Scene(image, (0,), intensity=WINDOW, image_units="HU"))
    parameters = (torch.full((1, 1), math.log(1.2)),)
    expected = bound.apply(image, parameters)
    assert float(bound.verify(image, expected, parameters, rounding=0.5)["gain"].values[0]) == pytest.approx(
        20, abs=0.01
    )
    # A file that rounds is judged with what it rounded, and no more.
    bound.verify(image, expected + 0.5, parameters, rounding=0.5)
    with pytest.raises(BudgetError, match="gain of sample 0"):
        bound.verify(image, expected + 0.6, parameters, rounding=0.5)
    with pytest.raises(BudgetError, match="gain of sample 0"):
        bound.verify(image, expected + 0.5, parameters)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_field_stays_in_the_range_of_the_file(domain: str) -> None:
    scene = hounsfield_scene()
    scene = replace(scene, image=scene.image.round().clamp(-100, 155), stored=StoredGrid(low=-100, high=155))
    bound = BiasField(max_gain=0.5, domain=domain).bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    assert float(finished.min()) >= -100 and float(finished.max()) <= 155
    bound.verify(scene.image, finished, parameters, rounding=0.5)


def test_the_images_own_values_are_multiplied_within_the_valid_range() -> None:
    image = torch.tensor([-2048.0, -1024.0, -1000.0, 500.0]).view(1, 1, 4)
    bound = BiasField(0.3, degree=0, domain="image").bind(Scene(image, (0,), image_units="HU"))
    parameters = (torch.full((1, 1), math.log(1.3)),)
    shaded = bound.apply(image, parameters)
    torch.testing.assert_close(shaded.flatten(), torch.tensor([-2048.0, -1024.0, -1024.0, 650.0]))
    bound.verify(image, shaded, parameters)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("form", FORMS)
def test_zero_parameters_are_the_identity(domain: str, form: dict) -> None:
    scene = hounsfield_scene()
    bound = BiasField(domain=domain, **form).bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_degree_zero_is_one_factor_everywhere() -> None:
    image = torch.rand(1, 1, 5, 6, 7) + 0.5
    bound = BiasField(degree=0, domain="image").bind(Scene(image, (0,)))
    torch.testing.assert_close(bound.apply(image, (torch.tensor([[0.2]]),)), image * math.exp(0.2))


@pytest.mark.parametrize("form", [{"degree": 3}, {"basis": "bspline", "control_spacing": 8.0}])
def test_zero_mean_takes_the_mean_out_of_the_field(form: dict) -> None:
    scene = hounsfield_scene(batch=2, dtype=torch.float64)
    bound = BiasField(zero_mean=True, **form).bind(scene)
    (zero,) = bound.zeros()
    for parameters in ((torch.randn_like(zero),), bound.project((torch.randn_like(zero) * 5,))):
        field = bound.field(parameters)
        assert float(field.flatten(1).mean(dim=1).abs().max()) < 1e-12
        assert float(field.abs().max()) > 0.01
    # a constant alone is nothing
    constant = (bound._as_parameters(bound.constant[None] * 0.1)[0].expand_as(zero),)
    assert float(bound.field(constant).abs().max()) < 1e-12


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_passes_gradcheck(domain: str, shape: tuple[int, ...], form: dict) -> None:
    scene = hounsfield_scene(shape, spacing=(2.0, 3.0, 4.0)[: len(shape)], dtype=torch.float64)
    bound = BiasField(domain=domain, **form).bind(scene)
    parameters = leaves((bound.random(scene.generators())[0] * 0.5,))
    image = (scene.image / 100).requires_grad_()  # mild values keep the numeric derivative accurate
    assert torch.autograd.gradcheck(lambda x, p: bound.apply(x, (p,)), (image, *parameters))


def test_field_is_smooth() -> None:
    scene = hounsfield_scene((32, 32, 32), spacing=(4.0, 4.0, 4.0))
    for form in ({"degree": 3}, {"basis": "bspline", "control_spacing": 64.0}):
        bound = BiasField(**form).bind(scene)
        field = bound.field(bound.random(scene.generators()))[0, 0].double().numpy()
        energy = dctn(field, norm="ortho") ** 2
        # cosine number 8 makes four cycles in the volume
        assert energy[:8, :8, :8].sum() / energy.sum() > 0.99


def test_attenuation_leaves_air_and_padding_alone() -> None:
    image = torch.tensor([-2048.0, -1000.0, -500.0, 0.0, 1000.0]).view(1, 1, 5)
    bound = BiasField(degree=0, domain="attenuation").bind(Scene(image, (0,), image_units="HU"))
    shaded = bound.apply(image, (torch.tensor([[math.log(1.2)]]),))
    torch.testing.assert_close(shaded.flatten(), torch.tensor([-2048.0, -1000.0, -400.0, 200.0, 1400.0]))


def test_window_multiplies_inside_and_leaves_the_rest() -> None:
    image = torch.tensor([-1000.0, -175.0, -75.0, 25.0, 225.0, 250.0, 900.0]).view(1, 1, 7)
    bound = BiasField(degree=0).bind(Scene(image, (0,), intensity=WINDOW, image_units="HU"))
    shaded = bound.apply(image, (torch.tensor([[math.log(1.2)]]),))
    expected = torch.tensor([-1000.0, -175.0, -55.0, 65.0, 250.0, 250.0, 900.0])
    torch.testing.assert_close(shaded.flatten(), expected)


def test_window_in_network_values_is_the_same_field_as_in_hounsfield_units() -> None:
    scene = hounsfield_scene(dtype=torch.float64)
    network = replace(scene, image=WINDOW(scene.image), image_units="network")
    in_hounsfield, in_network = BiasField().bind(scene), BiasField().bind(network)
    parameters = in_hounsfield.random(scene.generators())
    after = in_network.apply(network.image, parameters)
    torch.testing.assert_close(WINDOW(in_hounsfield.apply(scene.image, parameters)), after)
    assert float((after - network.image).abs().max()) > 0.05
    given = BiasField(window=(-175, 250)).bind(network)
    torch.testing.assert_close(given.apply(network.image, parameters), after)


def test_region_keeps_the_rest_unchanged() -> None:
    region = torch.zeros(1, 1, 12, 10, 8, dtype=torch.bool)
    region[..., 3:9, 2:8, 2:6] = True
    scene = hounsfield_scene(region=region)
    for domain in DOMAINS:
        bound = BiasField(domain=domain).bind(scene)
        parameters = bound.random(scene.generators())
        shaded = bound.apply(scene.image, parameters)
        assert torch.equal(shaded[~region], scene.image[~region])
        assert not torch.equal(shaded, scene.image)
        bound.verify(scene.image, shaded, parameters)
        rounded = bound.quantize(scene.image, shaded, parameters)
        assert torch.equal(rounded[~region], scene.image[~region])
        bound.verify(scene.image, rounded, parameters, rounding=0.5)
        with pytest.raises(BudgetError, match="change_outside_region"):
            bound.verify(scene.image, torch.where(region, shaded, scene.image + 1), parameters)


@pytest.mark.parametrize("form", FORMS)
def test_control_has_the_attacks_largest_gain(form: dict) -> None:
    scene = hounsfield_scene(batch=2)
    bound = BiasField(**form).bind(scene)
    (attack,) = bound.random(scene.generators())
    attack = attack * 0.6
    (control,) = bound.random_control(scene.generators(stream=1), (attack,))
    sizes = [bound.field((p,)).abs().flatten(1).amax(dim=1) for p in (attack, control)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(attack, control)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    scene = hounsfield_scene(batch=3)
    bound = BiasField().bind(scene)
    together = bound.apply(scene.image, bound.random(scene.generators()))
    for i in range(3):
        alone = scene.select([i])
        single = BiasField().bind(alone)
        torch.testing.assert_close(single.apply(alone.image, single.random(alone.generators())), together[i : i + 1])


def test_bad_input_is_named() -> None:
    network = Scene(torch.rand(1, 1, 4, 4), (0,), image_units="network")
    hounsfield = hounsfield_scene((6, 6), (1.0, 1.0), intensity=None)
    unclipped = replace(network, intensity=IntensityMap(0.01, 0.0))
    cases = [
        (lambda: BiasField(max_gain=-0.1), "max_gain"),
        (lambda: BiasField(degree=-1), "degree"),
        (lambda: BiasField(basis="fourier"), "basis"),
        (lambda: BiasField(domain="log"), "domain"),
        (lambda: BiasField(window=(5, 5)), "window"),
        (lambda: BiasField(degree=0, zero_mean=True), "degree"),
        (lambda: BiasField(domain="attenuation").bind(network), "attenuation"),
        (lambda: BiasField().bind(hounsfield), "window"),
        (lambda: BiasField().bind(unclipped), "window"),
        (lambda: BiasField(window=(-175, 250)).bind(network), "intensity"),
        (lambda: BiasField(basis="bspline", domain="image").bind(network), "spacing"),
    ]
    for make, name in cases:
        with pytest.raises(ValueError, match=name):
            make()
    # without a map there is nothing but the image itself
    assert BiasField().bind(network).domain == "image"
