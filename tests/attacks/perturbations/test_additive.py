# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.attacks import PGD
from monai_adversarial.attacks.perturbations import (
    AdditiveNoise,
    AffineTransform,
    BiasField,
    BudgetError,
    Chain,
    ElasticDeformation,
    Parameters,
    Perturbation,
)
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene, leaves
from tests.helpers import LinearNetwork, random_image

NORMS = ("linf", "l2", "rms")


def sizes(noise: torch.Tensor, norm: str, count: torch.Tensor) -> torch.Tensor:
    flat = noise.double().flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1)
    return flat.norm(dim=1) / (count.double().sqrt() if norm == "rms" else 1)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.sampled_from(["HU", "network", "fraction"]),
    st.sampled_from(["HU", "network"]),
    st.floats(0.0, 1.0),
    st.floats(0, 4),
    st.booleans(),
    st.integers(0, 9999),
)
def test_noise_stays_inside_the_budget_for_any_parameters(
    norm: str, units: str, domain: str, share: float, size: float, masked: bool, seed: int
) -> None:
    scene = hounsfield_scene((6, 5, 4), batch=2, seed=seed % 5)
    if domain == "network":
        scene = replace(scene, image=WINDOW(scene.image), image_units="network")
    generator = torch.Generator().manual_seed(seed)
    if masked:
        region = torch.rand(2, 1, 6, 5, 4, generator=generator) > 0.5
        region[..., 0] = True
        scene = replace(scene, region=region)
    epsilon = share * {"HU": 425.0, "network": 1.0, "fraction": 1.0}[units]
    bound = AdditiveNoise(epsilon, norm, units).bind(scene)
    per_unit = {"HU": 1.0, "network": 425.0, "fraction": 425.0}[units] / (425.0 if domain == "network" else 1.0)
    draw = torch.randn(scene.image.shape, generator=generator) * size * max(epsilon, 0.1) * per_unit
    (noise,) = parameters = bound.project((draw,))
    found = sizes(noise, norm, bound.count) / per_unit
    assert float(found.max()) <= epsilon * (1 + 1e-5) + 1e-6
    finished = bound.apply(scene.image, parameters)
    bound.verify(scene.image, finished, parameters)
    if domain == "network":
        assert float(finished.min()) >= 0 and float(finished.max()) <= 1
        clipped = (scene.image <= 0) | (scene.image >= 1)
        assert torch.equal(finished[clipped], scene.image[clipped])
    if scene.region is not None:
        assert torch.equal(finished[~scene.region], scene.image[~scene.region])
    torch.testing.assert_close(bound.project(parameters), parameters, atol=1e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NORMS), st.floats(0.1, 20), st.booleans(), st.booleans(), st.integers(0, 9999))
def test_whole_numbers_stay_inside_the_budget(
    norm: str, epsilon: float, whole_image: bool, masked: bool, seed: int
) -> None:
    scene = hounsfield_scene((6, 5, 4), seed=seed % 7)
    if whole_image:
        scene = replace(scene, image=scene.image.round())
    if masked:
        scene = replace(scene, region=scene.image > 0)
    bound = AdditiveNoise(epsilon, norm, "HU").bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    bound.verify(scene.image, finished, parameters)  # without room for rounding
    assert float(sizes(finished - scene.image, norm, bound.count).max()) <= epsilon * (1 + 1e-4)
    if whole_image:
        assert torch.equal(finished, finished.round())


def test_whole_numbers_keep_a_whole_budget() -> None:
    scene = hounsfield_scene()
    scene = replace(scene, image=scene.image.round())
    bound = AdditiveNoise(8.0, "linf", "HU").bind(scene)
    parameters = bound.project((torch.full_like(scene.image, 99.0),))
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    assert torch.equal(finished, scene.image + 8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.floats(0.1, 20),
    st.sampled_from([(1.0, 0.0), (0.5, 0.25), (2.0, -100.0), (0.1, 3.3), (37.5, -1024.0)]),
    st.integers(0, 9999),
)
def test_values_of_a_files_grid_stay_inside_the_budget_and_the_type(
    norm: str, epsilon: float, scaling: tuple[float, float], seed: int
) -> None:
    step, intercept = scaling
    scene = hounsfield_scene((6, 5, 4), seed=seed % 7, dtype=torch.float64)
    low, high = intercept, 255 * step + intercept  # unsigned bytes
    on_grid = (((scene.image - intercept) / step).round().clamp(0, 255) * step + intercept).float()
    scene = replace(scene, image=on_grid, stored=StoredGrid(step, intercept, low, high))
    bound = AdditiveNoise(epsilon, norm, "HU").bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    bound.verify(scene.image, finished, parameters)  # without room for rounding
    place = (finished.double() - intercept) / step
    assert float((place - place.round()).abs().max()) < 1e-2
    assert float(place.min()) > -1e-2 and float(place.max()) < 255.01
    # Only a grid coarser than the budget may undo a change.
    assert step > epsilon or norm != "linf" or not torch.equal(finished, scene.image)


def test_a_saturated_file_gets_noise_in_the_directions_that_it_can_store() -> None:
    image = torch.tensor([0.0, 3.0, 128.0, 250.0, 255.0]).view(1, 1, 5)
    scene = Scene(image, (0,), image_units="HU", stored=StoredGrid(low=0, high=255))
    bound = AdditiveNoise(8.0, units="HU").bind(scene)
    for sign, expected in ((1.0, [8.0, 8.0, 8.0, 5.0, 0.0]), (-1.0, [0.0, -3.0, -8.0, -8.0, -8.0])):
        (noise,) = bound.project((torch.full_like(image, sign * 99),))
        assert noise.flatten().tolist() == expected
        finished = bound.quantize(image, bound.apply(image, (noise,)), (noise,))
        bound.verify(image, finished, (noise,))
    with pytest.raises(BudgetError, match="outside_valid_range of sample 0 is 5 HU"):
        bound.verify(image, image + 5, (torch.full_like(image, 5.0),))


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_outside_the_ball_is_refused(norm: str) -> None:
    scene = hounsfield_scene()
    bound = AdditiveNoise(5.0, norm, "HU").bind(scene)
    parameters = bound.project((torch.randn_like(scene.image) * 100,))
    bound.verify(scene.image, scene.image + parameters[0], parameters)
    with pytest.raises(BudgetError, match=f"noise_{norm} of sample 0"):
        bound.verify(scene.image, scene.image + 1.01 * parameters[0], parameters)


def test_a_change_outside_the_region_is_refused() -> None:
    scene = hounsfield_scene()
    region = scene.image > 0
    bound = AdditiveNoise(5.0, "linf", "HU").bind(replace(scene, region=region))
    with pytest.raises(BudgetError, match="change_outside_region"):
        bound.verify(scene.image, scene.image + 1, bound.zeros())


def test_rounding_of_an_l2_ball_does_not_excuse_a_change_outside_the_region() -> None:
    scene = hounsfield_scene()
    bound = AdditiveNoise(5.0, "l2", "HU").bind(replace(scene, region=scene.image > 0))
    finished = scene.image.clone()
    finished.view(-1)[scene.image.argmin()] += 2
    with pytest.raises(BudgetError, match="change_outside_region"):
        bound.verify(scene.image, finished, bound.zeros(), rounding=0.5)


def test_units_are_the_same_ball() -> None:
    scene = hounsfield_scene()
    radii = [
        AdditiveNoise(e, units=u).bind(scene).epsilon for e, u in ((17, "HU"), (0.04, "network"), (0.04, "fraction"))
    ]
    assert radii == pytest.approx([17, 17, 17])
    network = replace(scene, image=WINDOW(scene.image), image_units="network")
    radii = [
        AdditiveNoise(e, units=u).bind(network).epsilon for e, u in ((17, "HU"), (0.04, "network"), (0.04, "fraction"))
    ]
    assert radii == pytest.approx([0.04, 0.04, 0.04])


def test_padding_and_air_keep_their_range() -> None:
    image = torch.tensor([-2048.0, -1024.0, -1020.0, 0.0]).view(1, 1, 4)
    bound = AdditiveNoise(10.0, units="HU").bind(Scene(image, (0,), image_units="HU"))
    (noise,) = bound.project((torch.full_like(image, -10.0),))
    assert noise.flatten().tolist() == [0.0, 0.0, -4.0, -10.0]


@pytest.mark.parametrize("norm", NORMS)
def test_control_has_the_attacks_size(norm: str) -> None:
    scene = hounsfield_scene(batch=2)
    bound = AdditiveNoise(5.0, norm, "HU").bind(scene)
    attack = (bound.random(scene.generators())[0] * 0.5,)
    control = bound.random_control(scene.generators(stream=1), attack)
    torch.testing.assert_close(
        sizes(attack[0], norm, bound.count), sizes(control[0], norm, bound.count), rtol=1e-4, atol=0
    )
    assert not torch.allclose(attack[0], control[0])


@pytest.mark.parametrize("norm", NORMS)
def test_zero_budget_and_zero_parameters_are_the_identity(norm: str) -> None:
    scene = hounsfield_scene()
    bound = AdditiveNoise(0.0, norm, "HU").bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.random(scene.generators())), scene.image)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_random_start_differs_between_samples_and_not_between_batches() -> None:
    scene = hounsfield_scene(batch=3)
    for norm in NORMS:
        (together,) = AdditiveNoise(5.0, norm, "HU").bind(scene).random(scene.generators())
        assert not torch.equal(together[0], together[1])
        for i in range(3):
            alone = scene.select([i])
            (single,) = AdditiveNoise(5.0, norm, "HU").bind(alone).random(alone.generators())
            torch.testing.assert_close(single[0], together[i])


def test_frozen_fraction_counts_voxels_that_may_change() -> None:
    scene = hounsfield_scene((4, 4), (1.0, 1.0))
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    region[..., :2] = True
    bound = AdditiveNoise(5.0, units="HU").bind(replace(scene, region=region))
    gradient = torch.ones(1, 1, 4, 4)
    gradient[..., 0] = 0
    gradient[..., 3] = 0
    assert bound.frozen_fraction((gradient,)).tolist() == [0.5]


def test_gradient_passes_gradcheck() -> None:
    scene = hounsfield_scene((3, 3, 2), dtype=torch.float64)
    bound = AdditiveNoise(5.0, units="HU").bind(scene)
    parameters = leaves(bound.random(scene.generators()))
    assert torch.autograd.gradcheck(lambda p: bound.apply(scene.image, (p,)), parameters)


def test_bad_input_is_named() -> None:
    plain = Scene(torch.rand(1, 1, 4, 4), (0,))
    cases = [
        (lambda: AdditiveNoise(-1.0), "epsilon"),
        (lambda: AdditiveNoise(float("nan")), "epsilon"),
        (lambda: AdditiveNoise(1.0, norm="l1"), "norm"),
        (lambda: AdditiveNoise(1.0, units="mm"), "units"),
        (lambda: AdditiveNoise(1.0, units="HU").bind(plain), "intensity"),
        (lambda: AdditiveNoise(1.0, units="fraction").bind(plain), "fraction"),
    ]
    for make, name in cases:
        with pytest.raises(ValueError, match=name):
            make()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_budget_of_one_per_sample_changes_no_bit(norm: str, dtype: torch.dtype) -> None:
    scene = hounsfield_scene((6, 5, 4), batch=3, dtype=dtype)
    own = replace(scene, budget=torch.ones(3, dtype=dtype))
    shared, single = (AdditiveNoise(7.3, norm, "HU").bind(one) for one in (scene, own))
    draw = torch.randn(scene.image.shape, generator=torch.Generator().manual_seed(3), dtype=dtype) * 20
    parameters = shared.project((draw,))
    results: list[tuple[Parameters, ...]] = []
    for bound in (shared, single):
        start = bound.random(scene.generators())
        adversarial = bound.apply(scene.image, start)
        results.append(
            (
                bound.radii,
                start,
                bound.project((draw,)),
                bound.random_control(scene.generators(), parameters),
                (bound.quantize(scene.image, adversarial, start), bound.size(start), bound.frozen_fraction((draw,))),
                tuple(m.values for m in bound.verify(scene.image, adversarial, start).values()),
            )
        )
    for before, now in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_each_sample_with_its_own_budget_is_attacked_as_if_it_were_alone(norm: str, masked: bool) -> None:
    scene = hounsfield_scene((6, 5, 4), batch=3)
    scene = replace(scene, region=scene.image > 0 if masked else None, budget=torch.tensor([0.5, 0.0, 2.0]))
    bound = AdditiveNoise(6.0, norm, "HU").bind(scene)
    draw = torch.randn(scene.image.shape, generator=torch.Generator().manual_seed(1)) * 500
    far = bound.project((draw if scene.region is None else draw * scene.region,))
    torch.testing.assert_close(sizes(far[0], norm, bound.count).tolist(), [3.0, 0.0, 12.0], rtol=1e-5, atol=0)
    torch.testing.assert_close(bound.size(far).tolist(), [0.5, 0.0, 2.0], rtol=1e-5, atol=0)
    start = bound.random(scene.generators())
    whole = bound.quantize(scene.image, bound.apply(scene.image, start), start)
    for i, epsilon in enumerate((3.0, 0.0, 12.0)):
        alone = replace(scene.select([i]), budget=None)
        reference = AdditiveNoise(epsilon, norm, "HU").bind(alone)
        torch.testing.assert_close(bound.radii[0][[i]], reference.radii[0])
        torch.testing.assert_close(start[0][[i]], reference.random(alone.generators())[0])
        torch.testing.assert_close(far[0][[i]], reference.project((far[0][[i]],))[0])
        expected = reference.quantize(alone.image, alone.image + start[0][[i]], (start[0][[i]],))
        assert torch.equal(whole[[i]], expected)


@pytest.mark.parametrize("norm", NORMS)
def test_each_sample_is_measured_against_its_own_budget(norm: str) -> None:
    scene = replace(hounsfield_scene((6, 5, 4), batch=3), budget=torch.tensor([0.5, 1.0, 2.0]))
    bound = AdditiveNoise(6.0, norm, "HU").bind(scene)
    (noise,) = parameters = bound.project((torch.randn_like(scene.image) * 500,))
    measured = bound.verify(scene.image, scene.image + noise, parameters)[f"noise_{norm}"]
    assert [measured.limit_of(i) for i in range(3)] == [3.0, 6.0, 12.0]
    noise[1] *= 1.01  # still smaller than the noise of sample 2
    with pytest.raises(BudgetError, match=f"noise_{norm} of sample 1 .* above the budget of 6 HU"):
        bound.verify(scene.image, scene.image + noise, parameters)


def test_a_selected_sample_keeps_its_budget() -> None:
    scene = replace(hounsfield_scene((4, 4, 4), batch=3), budget=torch.tensor([0.5, 1.0, 2.0]))
    chosen = scene.select([2, 0])
    assert chosen.budget is not None and chosen.budget.tolist() == [2.0, 0.5]
    assert AdditiveNoise(6.0, "linf", "HU").bind(chosen).radii[0].flatten().tolist() == [12.0, 3.0]


def test_an_attack_for_training_takes_a_budget_per_sample() -> None:
    image = random_image((3, 1, 6, 6, 6)).double()
    label = (image > 0.5).long()
    network = LinearNetwork((-20.0, 20.0), (10.0, -10.0)).double()
    attack = PGD(0.2, steps=3)
    plain = attack.perturb(network, image, label)
    ones = attack.perturb(network, image, label, budget=torch.ones(3))
    assert torch.equal(plain.adversarial, ones.adversarial)
    own = attack.perturb(network, image, label, budget=torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(own.adversarial[0], image[0])
    assert (own.adversarial - image)[1].abs().max().item() == pytest.approx(0.05)
    assert torch.equal(own.adversarial[2], plain.adversarial[2])
    smaller = PGD(0.05, steps=3).perturb(network, image, label)
    torch.testing.assert_close(own.adversarial[1], smaller.adversarial[1])


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        (0.5, TypeError, "budget must be a tensor of one factor per sample, got float"),
        (torch.tensor([True, False]), TypeError, "torch.bool"),
        (torch.ones(3), ValueError, r"each of the 2 samples, got shape \(3,\)"),
        (torch.ones(2, 1), ValueError, r"got shape \(2, 1\)"),
        (torch.tensor([1.0, -0.1]), ValueError, "finite and >= 0"),
        (torch.tensor([1.0, float("nan")]), ValueError, "finite and >= 0"),
    ],
)
def test_a_bad_budget_per_sample_is_named(budget: object, error: type[Exception], message: str) -> None:
    image = random_image((2, 1, 4, 4, 4))
    with pytest.raises(error, match=message):
        PGD(0.1).perturb(LinearNetwork(), image, (image > 0.5).long(), budget=budget)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "perturbation",
    [AffineTransform(), BiasField(), ElasticDeformation(), Chain([AdditiveNoise(1.0)])],
    ids=lambda perturbation: type(perturbation).__name__,
)
def test_other_perturbations_refuse_a_budget_per_sample(perturbation: Perturbation) -> None:
    scene = hounsfield_scene((8, 8, 8), (1.0, 1.0, 1.0))
    perturbation.bind(scene)
    with pytest.raises(NotImplementedError, match="AdditiveNoise only"):
        perturbation.bind(replace(scene, budget=torch.ones(1)))
