# SPDX-License-Identifier: Apache-2.0
"""The attack of a training step: its passes, its steps written out, its reference, and a network left as it was."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from torch import nn
from torch.nn import functional as F

from monai_adversarial.attacks import FGSM, PGD, AffineAttack, Attack, ElasticAttack, SteepestAscent
from monai_adversarial.attacks.perturbations import (
    AdditiveNoise,
    AffineTransform,
    BiasField,
    BoundBiasField,
    BoundGeometric,
    Chain,
    ElasticDeformation,
    Perturbation,
)
from monai_adversarial.utils.scene import Scene, case_seeds
from tests.attacks.perturbations.scenes import hounsfield_scene
from tests.attacks.test_attack import assert_unchanged, snapshot, trained_like_network
from tests.helpers import LinearNetwork, as_metatensor, random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 6, 5, 7)
EPSILON = 0.2


def batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return random_image(SHAPE, dtype=dtype), random_label(SHAPE)


def count_passes(network: nn.Module) -> dict[str, int]:
    passes = {"forward": 0, "backward": 0}

    def forward(*_: Any) -> None:
        passes["forward"] += 1

    def backward(*_: Any) -> None:
        passes["backward"] += 1

    network.register_forward_hook(forward)
    network.register_full_backward_hook(backward)
    return passes


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, 0),
        ({"reference": "prediction"}, 1),
        ({"reference": "probabilities"}, 1),
        ({"probabilities": torch.full((2, 3, 6, 5, 7), 1 / 3)}, 0),
    ],
    ids=["label", "prediction", "probabilities", "given"],
)
def test_it_takes_one_forward_and_one_backward_pass_per_step(steps: int, options: dict, extra: int) -> None:
    network = tiny_segmentation_network()
    passes = count_passes(network)
    image, label = batch(torch.float32)
    PGD(EPSILON, steps=steps, restarts=4, early_stop=True).perturb(network, image, label, **options)
    assert passes == {"forward": steps + extra, "backward": steps}


@pytest.mark.parametrize("steps", ["constant", "falling"])
@pytest.mark.parametrize("start", ["random", "clean", "given"])
def test_it_is_projected_gradient_descent_written_out(start: str, steps: str) -> None:
    network, (image, label) = tiny_segmentation_network().double(), batch()
    options = {"objective": "cross_entropy", "random_start": start == "random", "seed": 3}
    attack = PGD(EPSILON, steps=4, step_size=EPSILON / 4 if steps == "constant" else None, **options)
    noise = torch.zeros_like(image)
    given = None
    if start == "random":
        generators = Scene(image, case_seeds(image, 3)).generators(5)
        for sample, generator in zip(noise, generators, strict=True):
            sample.uniform_(-1, 1, generator=generator)
        noise *= EPSILON
    elif start == "given":  # larger than the ball
        given = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)
        noise = given[0].clamp(-EPSILON, EPSILON)
    for size in [0.25] * 4 if steps == "constant" else [2.0, 1.5, 1.0, 0.5]:
        point = noise.clone().requires_grad_()
        F.cross_entropy(network(image + point), label[:, 0]).backward()
        assert point.grad is not None
        noise = (noise + size * EPSILON * point.grad.sign()).clamp(-EPSILON, EPSILON)
    made = attack.perturb(network, image, label, start=given, stream=5)
    assert torch.equal(made.parameters[0], noise)
    assert torch.equal(made.adversarial, image + noise)


def test_the_objective_is_that_of_the_point_before_the_last_step() -> None:
    network, (image, label) = tiny_segmentation_network().double(), batch()
    attack = PGD(EPSILON, steps=1, objective="cross_entropy", random_start=False)
    made = attack.perturb(network, image, label)
    with torch.no_grad():
        expected = F.cross_entropy(network(image), label[:, 0], reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(made.objective, expected)
    assert made.zero_gradient_fraction.shape == (2,)


class Valley(nn.Module):
    """Foreground is least likely where a voxel is 0.55."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), (image - 0.55).square()], dim=1)


def test_it_returns_its_last_point_and_not_its_best() -> None:
    image = torch.full((1, 1, 4, 4, 4), 0.5, dtype=torch.float64)
    label = torch.ones_like(image).long()
    attack = FGSM(0.15, objective="cross_entropy")
    last = attack.perturb(Valley(), image, label).adversarial
    torch.testing.assert_close(last, torch.full_like(image, 0.65))
    assert torch.equal(attack(Valley(), image, label).adversarial, image)


def test_a_start_lets_an_attack_go_on_where_another_stopped() -> None:
    network, (image, label) = tiny_segmentation_network().double(), batch()
    constant: dict[str, Any] = {"step_size": EPSILON / 4, "objective": "dice_ce"}  # no step knows of those before it
    whole = PGD(EPSILON, steps=5, **constant).perturb(network, image, label)
    half = PGD(EPSILON, steps=2, **constant).perturb(network, image, label)
    rest = PGD(EPSILON, steps=3, **constant).perturb(network, image, label, start=half.parameters)
    assert torch.equal(rest.adversarial, whole.adversarial)
    assert not torch.equal(half.adversarial, whole.adversarial)


@pytest.mark.parametrize("kind", ["prediction", "probabilities", "given"])
@pytest.mark.parametrize("classes", [1, 3])
def test_the_reference_is_what_was_asked_for(kind: str, classes: int) -> None:
    network, (image, label) = tiny_segmentation_network(out_channels=classes).double(), batch()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)  # answers that are neither sure nor flat
        logits = network(image)
    generator = torch.Generator().manual_seed(2)
    start = (torch.rand(SHAPE, generator=generator, dtype=torch.float64) - 0.5) * EPSILON
    shape = (2, classes, *SHAPE[2:])
    teacher = torch.rand(shape, generator=generator, dtype=torch.float64)
    teacher = teacher if classes == 1 else teacher / teacher.sum(dim=1, keepdim=True)
    options = {"probabilities": teacher} if kind == "given" else {"reference": kind}

    point = start.clone().requires_grad_()
    found = network(image + point)
    if classes == 1:
        both = lambda p: torch.cat([1 - p, p], dim=1)  # noqa: E731
        log_found, own = both(found.sigmoid()).log(), both(logits.sigmoid())
        teacher = both(teacher)
    else:
        log_found, own = found.log_softmax(dim=1), logits.softmax(dim=1)
    hard = F.one_hot(own.argmax(dim=1), own.shape[1]).movedim(-1, 1).double()
    soft = {"prediction": hard, "probabilities": own, "given": teacher}[kind]
    divergence = F.kl_div(log_found, soft, reduction="sum") / (2 * math.prod(SHAPE[2:]))
    divergence.backward()
    assert point.grad is not None
    expected = (start + EPSILON / 4 * point.grad.sign()).clamp(-EPSILON, EPSILON)

    attack = PGD(EPSILON, steps=1, step_size=EPSILON / 4, objective="cross_entropy")
    made = attack.perturb(network, image, label % 2 if classes == 1 else label, start=(start,), **options)
    assert torch.equal(made.parameters[0], expected)
    entropy = -torch.xlogy(soft, soft).sum(dim=1).mean()
    torch.testing.assert_close(made.objective.mean(), (divergence + entropy).detach())


def test_a_reference_of_the_network_needs_no_label() -> None:
    network, (image, label) = tiny_segmentation_network(), batch(torch.float32)
    without = PGD(EPSILON, steps=2).perturb(network, image, reference="prediction")
    assert without.label is None
    given = PGD(EPSILON, steps=2).perturb(network, image, label, reference="prediction")
    assert given.label is label and torch.equal(given.adversarial, without.adversarial)


@pytest.mark.parametrize(
    "attack",
    [ElasticAttack(4.0, control_spacing=3.0, steps=2), AffineAttack(20.0, 2.0, 0.1, steps=2)],
    ids=["elastic", "affine"],
)
def test_a_geometric_attack_moves_the_label(attack: Attack) -> None:
    network = tiny_segmentation_network()
    image, label = as_metatensor(random_image((1, 8, 7, 6))[0]), as_metatensor(random_label((1, 8, 7, 6))[0])
    made = attack.perturb(network, image[None, None], label[None, None])
    assert isinstance(made.label, MetaTensor) and made.label.dtype == label.dtype
    assert isinstance(made.adversarial, MetaTensor)
    assert isinstance(made.bound, BoundGeometric)
    displacement = made.bound.displacement(made.parameters)[0].double().numpy()
    position = np.stack(np.meshgrid(*[np.arange(n) for n in label.shape], indexing="ij")) + displacement
    expected = map_coordinates(label.numpy(), position, order=0, mode="nearest")
    assert (made.label[0, 0].numpy() == expected).all()
    assert (expected != label.numpy()).any()


def test_an_intensity_attack_hands_the_label_back() -> None:
    image, label = batch(torch.float32)
    assert PGD(EPSILON, steps=1).perturb(tiny_segmentation_network(), image, label).label is label


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["noise", "elastic"])
def test_the_network_is_left_as_it_was(kind: str, fails: bool) -> None:
    network = trained_like_network()
    network.model[0].eval()  # type: ignore[operator, index, union-attr]
    for i, weight in enumerate(network.parameters()):
        weight.grad = torch.full_like(weight, 3.0) if i % 2 else None
    next(network.parameters()).requires_grad_(False)
    image, label = random_image((2, 1, 8, 8, 8)), random_label((2, 1, 8, 8, 8))
    before = snapshot(network)
    attack: Attack = PGD(EPSILON, steps=3) if kind == "noise" else ElasticAttack(4.0, control_spacing=3.0, steps=2)
    calls = itertools.count()

    def predict(seen: torch.Tensor) -> torch.Tensor:
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())
        if fails and next(calls) == 1:
            raise ArithmeticError("second step")
        return network(seen)

    if fails:
        with pytest.raises(ArithmeticError, match="second step"):
            attack.perturb(predict, image, label, spacing=1.0)
    else:
        made = attack.perturb(predict, image, label, spacing=1.0)
        assert not made.adversarial.requires_grad
        assert not torch.equal(made.adversarial, image)
    assert_unchanged(network, before)


def test_the_stream_changes_the_random_start_and_the_order_of_the_batch_does_not() -> None:
    image, label = random_image((3, 1, 4, 4, 4)), random_label((3, 1, 4, 4, 4), classes=2)
    attack, network = PGD(EPSILON, steps=1, step_size=EPSILON / 10), LinearNetwork()

    def made(order: list[int], stream: int) -> torch.Tensor:
        return attack.perturb(network, image[order], label[order], stream=stream).adversarial

    first = made([0, 1, 2], 1)
    assert torch.equal(made([0, 1, 2], 1), first)
    assert torch.equal(made([2, 0, 1], 1), first[[2, 0, 1]])
    assert torch.equal(made([1], 1), first[[1]])
    assert not any(torch.equal(a, b) for a, b in zip(made([0, 1, 2], 2), first, strict=True))


PERTURBATIONS: list[Perturbation] = [
    AdditiveNoise(8.0, units="HU"),
    AdditiveNoise(8.0, "l2", "HU"),
    BiasField(0.4, degree=2),
    AffineTransform(20.0, (3.0, 2.0, 1.0), 0.2, 0.1),
    ElasticDeformation(3.0, control_spacing=4.0, diffeomorphic=False),
    ElasticDeformation((3.0, 2.0, 1.0), control_spacing=4.0, norm="per_axis"),
    Chain([BiasField(0.4), Chain([ElasticDeformation(2.0, control_spacing=4.0), AdditiveNoise(8.0, units="HU")])]),
]


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: type(p).__name__)
def test_scaled_multiplies_the_budget_of_every_perturbation(perturbation: Perturbation, factor: float) -> None:
    attack = Attack(perturbation, steps=7, search=SteepestAscent(0.5))
    described = repr(attack)
    scaled = attack.scaled(factor, 3)
    assert (scaled.steps, attack.steps) == (3, 7)
    assert repr(attack) == described, "the attack that is scaled must stay as it is"
    assert type(scaled) is type(attack) and scaled.search is attack.search
    assert attack.scaled(factor).steps == 7
    scene = hounsfield_scene((8, 7, 6), (1.0, 1.0, 1.0))
    before, after = perturbation.bind(scene), scaled.perturbation.bind(scene)

    def compare(old: Any, new: Any) -> None:
        if hasattr(old, "members"):
            for pair in zip(old.members, new.members, strict=True):
                compare(*pair)
            return
        gain = isinstance(old, BoundBiasField)  # its parameters are logarithms of the gain
        for now, radius in zip(new.radii, old.radii, strict=True):
            torch.testing.assert_close(now, (factor * radius.expm1()).log1p() if gain else factor * radius)

    compare(before, after)
    parameters = after.random(scene.generators())
    after.verify(scene.image, after.apply(scene.image, parameters), parameters)
    if factor == 0:
        torch.testing.assert_close(after.apply(scene.image, parameters), scene.image, rtol=0, atol=1e-3)


def test_the_step_is_scaled_with_the_budget() -> None:
    image, label = random_image((1, 1, 4, 4, 4)), random_label((1, 1, 4, 4, 4), classes=2)
    attack = PGD(0.2, steps=1, step_size=0.05, random_start=False).scaled(0.5)
    change = attack.perturb(LinearNetwork(), image, label).adversarial - image
    torch.testing.assert_close(change.abs(), torch.full_like(image, 0.025))


class Unknown(AdditiveNoise):
    budget_attributes: tuple[str, ...] = ()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: PGD(0.1).scaled(-1.0), ValueError, "factor"),
        (lambda: PGD(0.1).scaled(math.nan), ValueError, "factor"),
        (lambda: PGD(0.1).scaled(1.0, 0), ValueError, "steps"),
        (lambda: Attack(Unknown(0.1)).scaled(0.5), NotImplementedError, "Unknown has no budget_attributes"),
        (lambda: Attack(Chain([Unknown(0.1)])).scaled(0.5), NotImplementedError, "Unknown has no budget_attributes"),
        (lambda: PGD(0.1).perturb(LinearNetwork(), torch.rand(1, 1, 4, 4)), ValueError, "needs label="),
        (
            lambda: PGD(0.1).perturb(LinearNetwork(), torch.rand(1, 1, 4, 4), reference="logits"),
            ValueError,
            "reference",
        ),
        (
            lambda: PGD(0.1).perturb(LinearNetwork(), torch.rand(1, 1, 4, 4), probabilities=torch.rand(1, 2, 3, 4)),
            ValueError,
            "shape",
        ),
    ],
)
def test_bad_input_is_named(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        change()


def inside_slowly(way: np.ndarray) -> np.ndarray:
    """Voxel by voxel: does the way back end inside the volume?"""
    found = np.zeros(way.shape[1:], dtype=bool)
    for place in np.ndindex(*way.shape[1:]):
        ends = [p + way[(axis, *place)] for axis, p in enumerate(place)]
        found[place] = all(0 <= end <= n - 1 for end, n in zip(ends, way.shape[1:], strict=True))
    return found


@pytest.mark.parametrize(
    "perturbation",
    [
        AffineTransform(15.0, 2.0, 0.1),
        ElasticDeformation(3.0, control_spacing=4.0),
        Chain([AdditiveNoise(5.0, units="HU"), ElasticDeformation(3.0, control_spacing=4.0)]),
        Chain([AffineTransform(15.0, 2.0, 0.1), ElasticDeformation(3.0, control_spacing=4.0)]),
    ],
    ids=["affine", "elastic", "chain", "two"],
)
def test_what_is_pulled_from_inside_is_found_voxel_by_voxel(perturbation: Perturbation) -> None:
    scene = hounsfield_scene((8, 7, 6), (1.0, 1.0, 1.0), batch=2)
    bound = perturbation.bind(scene)
    parameters = bound.random(scene.generators())
    inside = bound.pulled_from_inside(parameters)
    assert inside is not None and inside.shape == (2, 1, 8, 7, 6) and inside.dtype == torch.bool
    members: Any = getattr(bound, "members", (bound,))  # each of them has one parameter tensor
    moving = [(member, (own,)) for member, own in zip(members, parameters, strict=True) if member.geometric]
    for sample in range(2):
        ways = [member.displacement(p, inverse=True)[sample].double().numpy() for member, p in moving]
        expected = inside_slowly(ways[0])
        if len(ways) == 2:  # the way back goes through the first member's inverse to the second one's
            position = np.indices((8, 7, 6)) + ways[0]
            later = map_coordinates(inside_slowly(ways[1]).astype(float), position, order=1, mode="nearest")
            expected &= later > 0.5
        assert 0 < expected.sum() < expected.size, "the test must show both answers"
        assert (inside[sample, 0].numpy() == expected).all()


def test_a_translation_pulls_all_but_a_border_from_inside() -> None:
    scene = hounsfield_scene((8, 7, 6), (1.0, 1.0, 1.0))
    bound = AffineTransform(0.0, 5.0, 0.0).bind(scene)
    (parameters,) = bound.zeros()
    parameters[0, 3] = 1.5  # mm along the first axis, after three angles
    forward = bound.displacement((parameters,))[0, :, 0, 0, 0].tolist()
    assert [abs(value) for value in forward] == pytest.approx([1.5, 0.0, 0.0], abs=1e-5)
    expected = torch.zeros(8, 7, 6, dtype=torch.bool)
    expected[slice(2, None) if forward[0] > 0 else slice(None, -2)] = True
    assert torch.equal(bound.pulled_from_inside((parameters,))[0, 0], expected)


def test_noise_is_pulled_from_everywhere() -> None:
    scene = hounsfield_scene((8, 7, 6))
    for perturbation in (AdditiveNoise(5.0, units="HU"), Chain([AdditiveNoise(5.0, units="HU"), BiasField(0.1)])):
        bound = perturbation.bind(scene)
        assert bound.pulled_from_inside(bound.random(scene.generators())) is None
