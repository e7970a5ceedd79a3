# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

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
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.attacks.perturbations.scenes import WINDOW, hounsfield_scene, leaves


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
    # In a file of whole numbers each member is rounded inside its own budget, without any room.
    stored = Chain(bound.kinds).bind(replace(scene, stored=StoredGrid()))
    finished = stored.finished(scene.image, parameters)
    assert torch.equal(finished, finished.round())
    stored.verify(scene.image, finished, parameters)


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


def inputs(bound: BoundPerturbation, parameters: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What each member of a chain gets, and what the last one makes."""
    images = [bound.scene.image]
    for member, own in bound._each(parameters):  # type: ignore[attr-defined]
        images.append(member.apply(images[-1], own))
    return images


def test_noise_is_bounded_around_what_it_gets() -> None:
    # Air, padding and tissue: bounded on the clean image the second ball would reach -1060 HU.
    image = torch.tensor([-2048.0, -1024.0, -1010.0, -1000.0, 40.0]).view(1, 1, 5)
    scene = Scene(image, (0,), image_units="HU")
    bound = Chain([AdditiveNoise(30.0, units="HU"), AdditiveNoise(30.0, units="HU")]).bind(scene)
    parameters = bound.project((torch.full_like(image, -99.0), torch.full_like(image, -99.0)))
    finished = bound.apply(image, parameters)
    assert finished.flatten().tolist() == [-2048.0, -1024.0, -1024.0, -1024.0, -20.0]
    bound.verify(image, finished, parameters)
    on_clean = (parameters[0], torch.tensor([0.0, 0.0, -14.0, -24.0, -30.0]).view(1, 1, 5))
    with pytest.raises(BudgetError, match="outside_valid_range of sample 0 is 24 HU"):
        bound.verify(image, bound.apply(image, on_clean), on_clean)


@pytest.mark.parametrize("domain", ["HU", "network"])
@pytest.mark.parametrize("geometric", [False, True])
@settings(max_examples=8, deadline=None)
@given(st.floats(0.1, 20), st.integers(0, 9999))
def test_no_chain_leaves_the_valid_range(domain: str, geometric: bool, size: float, seed: int) -> None:
    scene = hounsfield_scene((10, 9, 8), batch=2, seed=seed % 5)
    scene = replace(scene, image=(scene.image * 4 - 300).clamp(-1024, 3000))
    if domain == "network":
        scene = replace(scene, image=WINDOW(scene.image), image_units="network")
    noise = AdditiveNoise(40.0, units="HU")
    members = [noise, BiasField(0.3, domain="window" if domain == "network" else "image"), noise]
    if geometric:
        members = [ElasticDeformation(4.0, 12.0), *members, AffineTransform(5.0, 3.0), noise]
    bound = Chain(members).bind(scene)
    generator = torch.Generator().manual_seed(seed)
    draw = tuple(
        torch.randn(z.shape, generator=generator) * size * r for z, r in zip(bound.zeros(), bound.radii, strict=True)
    )
    projected = bound.project(draw)
    for parameters in (
        projected,
        bound.random(scene.generators()),
        bound.random_control(scene.generators(), projected),
    ):
        finished = bound.apply(scene.image, parameters)
        low, high = (0.0, 1.0) if domain == "network" else (-1024.0, float("inf"))
        assert float(finished.min()) >= low - 1e-4 and float(finished.max()) <= high + 1e-6
        measured = bound.verify(scene.image, finished, parameters)
        assert "outside_valid_range" in measured
        for before, after in zip(inputs(bound, parameters), inputs(bound, parameters)[1:], strict=False):
            if domain == "network":
                assert float(after.min()) >= -1e-6 and float(after.max()) <= 1 + 1e-6
            assert after.shape == before.shape
    torch.testing.assert_close(bound.project(projected), projected, atol=1e-4, rtol=1e-4)


def test_projecting_changes_nothing_where_no_member_looks_at_the_voxels() -> None:
    scene = hounsfield_scene()
    bound = chain().bind(scene)
    parameters = tuple(torch.randn_like(z) * 9 for z in bound.zeros())
    expected = [own for member, p in zip(bound.members, parameters, strict=True) for own in member.project((p,))]
    assert all(torch.equal(a, b) for a, b in zip(bound.project(parameters), expected, strict=True))


def test_a_moved_image_is_attacked_where_its_own_voxels_allow_it() -> None:
    # In network values, voxels that the window has clipped do not change: after a shift those are others.
    image = torch.tensor([0.0, 0.0, 0.3, 0.6, 0.9, 0.9]).view(1, 1, 6)
    scene = Scene(image, (0,), torch.ones(1, 1, dtype=torch.float64), None, WINDOW, "network")
    bound = Chain([AffineTransform(max_translation=2.0), AdditiveNoise(0.05)]).bind(scene)
    shift = torch.zeros_like(bound.zeros()[0])
    shift[0, 0] = 1.0
    parameters = bound.project((shift, torch.full_like(image, 0.05)))
    torch.testing.assert_close(parameters[1].flatten(), torch.tensor([0.0, 0.05, 0.05, 0.05, 0.05, 0.05]))
    bound.verify(image, bound.apply(image, parameters), parameters)


def test_a_finished_chain_lies_on_the_grid_of_its_file_and_leaves_the_rest() -> None:
    scene = hounsfield_scene((10, 9, 8))
    region = scene.image > 0
    scene = replace(
        scene, image=scene.image.round().clamp(-200, 300), region=region, stored=StoredGrid(1, 0, -200, 300)
    )
    bound = Chain([BiasField(0.3, domain="image"), AdditiveNoise(20.0, units="HU")]).bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.quantize(scene.image, bound.apply(scene.image, parameters), parameters)
    assert torch.equal(finished, finished.round())
    assert float(finished.min()) >= -200 and float(finished.max()) <= 300
    assert torch.equal(finished[~region], scene.image[~region])
    bound.verify(scene.image, finished, parameters, rounding=0.5)
    with pytest.raises(BudgetError, match="change_outside_region"):
        bound.verify(scene.image, torch.where(region, finished, scene.image + 1), parameters, rounding=0.5)


def test_a_chain_in_a_chain_is_bounded_on_its_input_too() -> None:
    image = torch.tensor([-1010.0, 40.0]).view(1, 1, 2)
    scene = Scene(image, (0,), image_units="HU")
    noise = AdditiveNoise(30.0, units="HU")
    bound = Chain([noise, Chain([noise, noise])]).bind(scene)
    parameters = bound.project(tuple(torch.full_like(image, -99.0) for _ in range(3)))
    assert bound.apply(image, parameters).flatten().tolist() == [-1024.0, -50.0]
    bound.verify(image, bound.apply(image, parameters), parameters)
