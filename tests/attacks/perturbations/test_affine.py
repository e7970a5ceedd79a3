# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.attacks.perturbations import AffineTransform, BudgetError
from monai_adversarial.utils.scene import Scene
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves

ORDER_3D = ("rotation",) * 3 + ("translation",) * 3 + ("scale",) * 3 + ("shear",) * 3


def parameter(**values: dict[int, float]) -> torch.Tensor:
    """Parameters of three dimensions by kind and number."""
    vector = torch.zeros(1, 12, dtype=torch.float64)
    for kind, numbers in values.items():
        for number, value in numbers.items():
            vector[0, ORDER_3D.index(kind) + number] = value
    return vector


def test_a_translation_by_whole_voxels_shifts_exactly() -> None:
    scene = hounsfield_scene((10, 9, 8), (1.0, 2.0, 3.0), dtype=torch.float64)
    bound = AffineTransform().bind(scene)
    moved = bound.apply(scene.image, (parameter(translation={0: 2.0, 1: 2.0, 2: -6.0}),))
    assert torch.equal(moved[..., :-2, :-1, 2:], scene.image[..., 2:, 1:, :-2])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_exchanges_the_other_axes(axis: int) -> None:
    image = torch.rand(1, 1, 5, 5, 5, dtype=torch.float64)
    scene = Scene(image, (0,), torch.ones(1, 3, dtype=torch.float64))
    bound = AffineTransform(max_rotation=90.0).bind(scene)
    moved = bound.apply(image, (parameter(rotation={axis: 90.0}),))
    a, b = [other + 2 for other in range(3) if other != axis]
    both = [torch.rot90(image, k, (a, b)) for k in (1, -1)]
    assert min(float((moved - turned).abs().max()) for turned in both) < 1e-12


def test_a_rotation_is_rigid_in_mm() -> None:
    scene = hounsfield_scene((8, 7, 6), (1.0, 2.0, 5.0), dtype=torch.float64)
    bound = AffineTransform(max_rotation=40.0).bind(scene)
    parameters = (parameter(rotation={0: 30.0, 1: -20.0, 2: 11.0}),)
    matrix, _ = bound.matrix(parameters)
    torch.testing.assert_close(matrix[0] @ matrix[0].T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(matrix)) == pytest.approx(1.0)
    # distances between displaced voxels, in mm, are those of the grid
    grid = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (8, 7, 6)], indexing="ij")
    points = torch.stack([g * s for g, s in zip(grid, (1.0, 2.0, 5.0), strict=True)]).flatten(1)
    moved = points + bound.displacement_mm(parameters)[0].flatten(1)
    torch.testing.assert_close(torch.cdist(moved.T, moved.T), torch.cdist(points.T, points.T), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(moved.mean(dim=1), points.mean(dim=1))  # about the center


def test_scale_and_shear_act_along_their_axes() -> None:
    scene = hounsfield_scene((9, 9, 9), (1.0, 1.0, 1.0), dtype=torch.float64)
    bound = AffineTransform(max_scale=0.5, max_shear=0.5).bind(scene)
    matrix, _ = bound.matrix((parameter(scale={1: 0.2}, shear={0: 0.3}),))
    expected = torch.tensor([[1.0, 0.36, 0.0], [0.0, 1.2, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(matrix[0], expected)


def test_two_dimensions_have_one_angle() -> None:
    scene = hounsfield_scene((8, 6), (1.0, 2.0), dtype=torch.float64)
    bound = AffineTransform(max_rotation=30.0, max_shear=0.1).bind(scene)
    assert bound.radii[0].tolist() == [[30.0, 10.0, 10.0, 0.1, 0.1, 0.1]]
    turn = torch.zeros(1, 6, dtype=torch.float64)
    turn[0, 0] = 30.0
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    expected = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    torch.testing.assert_close(bound.matrix((turn,))[0][0], expected)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 25), st.floats(0, 25), st.floats(0, 0.4), st.floats(0, 0.3), st.integers(0, 9999))
def test_every_number_stays_inside_its_budget(
    rotation: float, translation: float, scale: float, shear: float, seed: int
) -> None:
    scene = hounsfield_scene((8, 7, 6), batch=2)
    bound = AffineTransform(rotation, translation, scale, shear).bind(scene)
    draw = torch.randn(2, 12, generator=torch.Generator().manual_seed(seed)) * 40
    parameters = bound.project((draw,))
    measured = bound.verify(scene.image, bound.apply(scene.image, parameters).round(), parameters, rounding=0.5)
    for kind, limit in {"rotation": rotation, "translation": translation, "scale": scale, "shear": shear}.items():
        for number in range(3):
            name = "translation_axis" if kind == "translation" else kind
            assert float(measured[f"{name}_{number}"].values.max()) <= limit * (1 + 1e-6) + 1e-9
    # the corner has the largest displacement of all voxels
    everywhere = bound.displacement_mm(parameters).norm(dim=1).flatten(1).amax(dim=1)
    torch.testing.assert_close(measured["displacement_euclidean"].values, everywhere, rtol=1e-4, atol=1e-4)


def test_a_euclidean_translation_is_bounded_by_its_length() -> None:
    scene = hounsfield_scene((8, 7, 6), batch=2, dtype=torch.float64)
    bound = AffineTransform(5.0, 6.0, translation_norm="euclidean").bind(scene)
    assert "translation_norm='euclidean'" in repr(AffineTransform(translation_norm="euclidean"))
    far = torch.cat([parameter(translation={0: 99.0, 1: 99.0, 2: 99.0}), parameter(translation={1: 4.0, 2: -4.0})])
    (near,) = bound.project((far,))
    torch.testing.assert_close(near[:, 3:6].norm(dim=1), torch.tensor([6.0, 32**0.5], dtype=torch.float64))
    assert torch.equal(near[1], far[1])
    measured = bound.verify(scene.image, bound.apply(scene.image, (near,)), (near,))
    assert measured["translation_euclidean"].limit == 6.0 and "translation_axis_0" not in measured
    box = parameter(translation={0: 5.0, 1: 5.0, 2: 5.0}).expand(2, -1)
    with pytest.raises(BudgetError, match="translation_euclidean of sample 0 is 8.66025 mm"):
        bound.verify(scene.image, bound.apply(scene.image, (box,)), (box,))
    with pytest.raises(ValueError, match="max_translation must be one number"):
        AffineTransform(max_translation=(1.0, 2.0, 3.0), translation_norm="euclidean")


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradient_passes_gradcheck(shape: tuple[int, ...]) -> None:
    scene = hounsfield_scene(shape, (1.1, 2.3, 3.1)[: len(shape)], dtype=torch.float64)
    bound = AffineTransform(max_translation=3.0, max_shear=0.1).bind(scene)
    parameters = leaves(bound.random(scene.generators()))
    image = (scene.image / 200).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: bound.apply(x, (p,)), (image, *parameters))
    label = torch.randint(0, 3, (1, *shape))
    assert torch.autograd.gradcheck(lambda p: bound.move_class_map(label, 3, (p,)), parameters)


def test_zero_parameters_are_the_identity() -> None:
    scene = hounsfield_scene()
    bound = AffineTransform(max_shear=0.1).bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)


def test_pull_back_undoes_the_motion() -> None:
    scene = hounsfield_scene((16, 14, 12), (1.0, 2.0, 3.0), dtype=torch.float64)
    bound = AffineTransform(8.0, 3.0, 0.1, 0.05).bind(scene)
    parameters = bound.random(scene.generators())
    matrix, translation = bound.matrix(parameters)
    back, offset = bound._linear(parameters, inverse=True)
    point = torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64)
    there = matrix[0] @ point + translation[0]
    torch.testing.assert_close(there + back[0] @ there + offset[0], point)
    moved = bound.apply(scene.image, parameters)
    core = (..., slice(5, -5), slice(4, -4), slice(4, -4))
    error = (bound.pull_back(moved, parameters) - scene.image)[core].abs().mean()
    assert float(error) < 0.2 * float((moved - scene.image)[core].abs().mean())


def test_every_sample_has_its_own_spacing() -> None:
    image = torch.rand(2, 1, 6, 6, 6, dtype=torch.float64)
    spacing = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    bound = AffineTransform().bind(Scene(image, (0, 1), spacing))
    displacement = bound.displacement((parameter(translation={0: 2.0}).expand(2, -1),))
    assert displacement[:, 0].amax(dim=(1, 2, 3)).tolist() == [2.0, 1.0]


def test_control_has_the_attacks_largest_displacement() -> None:
    scene = hounsfield_scene(batch=2)
    bound = AffineTransform().bind(scene)
    attack = (bound.random(scene.generators())[0] * 0.7,)
    control = bound.random_control(scene.generators(stream=1), attack)
    sizes = [bound.corner_displacement(p) for p in (attack, control)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.02, atol=0.02)


def test_too_large_a_motion_is_refused() -> None:
    scene = hounsfield_scene()
    bound = AffineTransform(max_rotation=5.0).bind(scene)
    turn = (parameter(rotation={1: 6.0}).float(),)
    with pytest.raises(BudgetError, match="rotation_1"):
        bound.verify(scene.image, bound.apply(scene.image, turn), turn)


def test_bad_input_is_named() -> None:
    scene = hounsfield_scene()
    region = torch.ones_like(scene.image, dtype=torch.bool)
    cases = [
        (lambda: AffineTransform(max_rotation=-1.0), "max_rotation"),
        (lambda: AffineTransform(max_rotation=200.0), "max_rotation"),
        (lambda: AffineTransform(max_scale=1.0), "max_scale"),
        (lambda: AffineTransform(max_translation=(1.0, 2.0)).bind(scene), "max_translation"),
        (lambda: AffineTransform().bind(Scene(scene.image, (0,))), "spacing is missing"),
        (lambda: AffineTransform().bind(hounsfield_scene(region=region)), "region"),
    ]
    for make, name in cases:
        with pytest.raises(ValueError, match=name):
            make()
