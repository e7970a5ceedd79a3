# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.attacks.perturbations import (
    AdditiveNoise,
    AffineTransform,
    BiasField,
    BudgetError,
    Chain,
    ElasticDeformation,
)
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves


def chain() -> Chain:
    return Chain([AffineTransform(5.0, 3.0), BiasField(0.2, degree=1), ElasticDeformation(3.0, 12.0)])


def test_members_act_in_order() -> None:
    scene = hounsfield_scene()
    bound = chain().bind(scene)
    parameters = bound.random(scene.generators())
    image = scene.image
    for member, own in zip(bound.members, parameters, strict=True):
        image = member.apply(image, (own,))
    assert torch.equal(bound.apply(scene.image, parameters), image)


def test_labels_move_with_the_geometric_members() -> None:
    scene = hounsfield_scene((20, 18, 10))
    label = (scene.image / 100).round().clamp(0, 2).long()
    bound = chain().bind(scene)
    assert bound.geometric
    parameters = bound.random(scene.generators())
    affine, _, elastic = bound.members
    expected = elastic.move_label(affine.move_label(label, parameters[:1]), parameters[2:])
    assert torch.equal(bound.move_label(label, parameters), expected)
    soft = bound.move_class_map(label[:, 0], 3, parameters)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones_like(soft[:, 0]))
    one_hot = torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    torch.testing.assert_close(soft, bound.move_soft_label(one_hot, parameters), atol=1e-5, rtol=0)
    sure = soft.amax(dim=1) > 0.95
    assert float((soft.argmax(dim=1) == expected[:, 0])[sure].float().mean()) > 0.97


def test_a_chain_without_geometry_leaves_labels() -> None:
    scene = hounsfield_scene()
    bound = Chain([BiasField(0.2), AdditiveNoise(4.0, units="HU")]).bind(scene)
    assert not bound.geometric
    label = torch.ones_like(scene.image)
    assert bound.move_label(label, bound.zeros()) is label
    with pytest.raises(NotImplementedError):
        bound.move_class_map(label[:, 0].long(), 2, bound.zeros())


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 20), st.integers(0, 9999))
def test_each_member_keeps_its_budget(size: float, seed: int) -> None:
    scene = hounsfield_scene((10, 9, 8), batch=2)
    bound = Chain([*chain().perturbations, AdditiveNoise(6.0, units="HU")]).bind(scene)
    generator = torch.Generator().manual_seed(seed)
    draw = tuple(
        torch.randn(z.shape, generator=generator) * size * r for z, r in zip(bound.zeros(), bound.radii, strict=True)
    )
    parameters = bound.project(draw)
    adversarial = bound.apply(scene.image, parameters)
    measured = bound.verify(scene.image, adversarial, parameters)
    assert float(measured["3_AdditiveNoise_noise_linf"].values.max()) <= 6.0 * (1 + 1e-4)
    assert float(measured["1_BiasField_gain"].values.max()) <= 20.0 * (1 + 1e-4)
    assert measured["2_ElasticDeformation_displacement_euclidean"].limit == 3.0
    bound.verify(scene.image, bound.quantize(scene.image, adversarial, parameters), parameters, rounding=0.5)


def test_the_finished_image_is_held_against_the_last_member() -> None:
    scene = hounsfield_scene()
    bound = chain().bind(scene)
    parameters = bound.random(scene.generators())
    adversarial = bound.apply(scene.image, parameters)
    bound.verify(scene.image, adversarial, parameters)
    with pytest.raises(BudgetError, match="2_ElasticDeformation_unexplained_change"):
        bound.verify(scene.image, adversarial + 9, parameters)


def test_a_member_outside_its_budget_is_named() -> None:
    scene = hounsfield_scene()
    bound = chain().bind(scene)
    affine, bias, elastic = bound.random(scene.generators())
    with pytest.raises(BudgetError, match="1_BiasField_gain"):
        bound.verify(scene.image, bound.apply(scene.image, (affine, bias * 3, elastic)), (affine, bias * 3, elastic))


def test_gradient_reaches_every_member() -> None:
    scene = hounsfield_scene((4, 5), (1.3, 2.1), dtype=torch.float64)
    bound = Chain([AdditiveNoise(3.0, units="HU"), *chain().perturbations]).bind(scene)
    parameters = leaves(bound.random(scene.generators()))
    image = scene.image / 10
    assert torch.autograd.gradcheck(lambda *p: bound.apply(image, p), parameters)


def test_zero_parameters_are_the_identity() -> None:
    scene = hounsfield_scene()
    bound = chain().bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_control_and_shapes_follow_the_members() -> None:
    scene = hounsfield_scene(batch=2)
    bound = Chain([AdditiveNoise(3.0, norm="l2", units="HU"), *chain().perturbations]).bind(scene)
    parameters = bound.random(scene.generators())
    control = bound.random_control(scene.generators(stream=1), parameters)
    assert [c.shape for c in control] == [p.shape for p in parameters] == [z.shape for z in bound.zeros()]
    assert bound.norms == ("l2", "linf", "l2", "vector")
    assert len(bound.radii) == 4
    bound.verify(scene.image, bound.apply(scene.image, control), control)
    frozen = bound.frozen_fraction(tuple(torch.zeros_like(p) for p in parameters))
    torch.testing.assert_close(frozen, torch.ones_like(frozen))


def test_pull_back_goes_in_reverse() -> None:
    scene = hounsfield_scene((24, 22, 20), (1.0, 1.0, 1.0))
    bound = Chain([AffineTransform(5.0, 2.0, 0.05), ElasticDeformation(2.0, 16.0)]).bind(scene)
    parameters = bound.random(scene.generators())
    moved = bound.apply(scene.image, parameters)
    core = (..., slice(6, -6), slice(6, -6), slice(6, -6))
    error = (bound.pull_back(moved, parameters) - scene.image)[core].abs().mean()
    assert float(error) < 0.3 * float((moved - scene.image)[core].abs().mean())


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="perturbations"):
        Chain([])
    with pytest.raises(TypeError, match="perturbations"):
        Chain([torch.nn.Identity()])  # type: ignore[list-item]
    bound = chain().bind(hounsfield_scene())
    with pytest.raises(ValueError, match="parameters"):
        bound.apply(bound.scene.image, bound.zeros()[:1])
