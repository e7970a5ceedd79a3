# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.attacks import ElasticAttack
from monai_adversarial.attacks.perturbations import BudgetError, Chain, ElasticDeformation, jacobian_determinant
from monai_adversarial.attacks.perturbations.deformation import BoundElasticDeformation
from monai_adversarial.attacks.perturbations.warp import warp_linear
from monai_adversarial.utils.jacobian import lowest_corner_determinant
from monai_adversarial.utils.scene import Scene
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves
from tests.helpers import tiny_segmentation_network

SPACING = (1.0, 1.5, 3.0)


def inverse_error(bound: BoundElasticDeformation, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Distance in voxels by which forward and inverse miss the identity, where the inverse stays inside the volume."""
    forward, inverse = bound.displacement(parameters), bound.displacement(parameters, inverse=True)
    shape = forward.shape[2:]
    points = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"))
    target = points + inverse
    upper = (torch.tensor(shape) - 1).view(-1, *[1] * len(shape))
    inside = ((target >= 0) & (target <= upper)).all(dim=1)
    return (inverse + warp_linear(forward, inverse)).norm(dim=1)[inside]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.floats(0, 6), st.floats(0, 6), st.floats(0, 6)),
    st.sampled_from([8.0, 12.0, 40.0]),
    st.booleans(),
    st.floats(0.1, 30),
    st.integers(0, 10_000),
)
def test_displacement_stays_inside_the_budget_along_each_axis(
    limits: tuple[float, float, float], control_spacing: float, diffeomorphic: bool, size: float, seed: int
) -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING, batch=2, seed=seed % 5)
    bound = ElasticDeformation(limits, control_spacing, diffeomorphic, norm="per_axis").bind(scene)
    (zero,) = bound.zeros()
    draw = torch.randn(zero.shape, generator=torch.Generator().manual_seed(seed)) * size
    parameters = bound.project((draw,))
    finished = bound.apply(scene.image, parameters).round()
    measured = bound.verify(scene.image, finished, parameters, rounding=0.5)
    in_mm = bound.displacement_mm(parameters).abs().flatten(2).amax(dim=2)
    for axis, limit in enumerate(limits):
        assert float(in_mm[:, axis].max()) <= limit * (1 + 1e-4) + 1e-6
        assert measured[f"displacement_axis_{axis}"].limit == limit
    torch.testing.assert_close(bound.project(parameters), parameters, atol=1e-6, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 8), st.sampled_from([8.0, 12.0, 40.0]), st.booleans(), st.floats(0.1, 30), st.integers(0, 10_000))
def test_no_displacement_is_longer_than_a_euclidean_budget(
    limit: float, control_spacing: float, diffeomorphic: bool, size: float, seed: int
) -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING, batch=2, seed=seed % 5)
    bound = ElasticDeformation(limit, control_spacing, diffeomorphic).bind(scene)
    (zero,) = bound.zeros()
    draw = torch.randn(zero.shape, generator=torch.Generator().manual_seed(seed)) * size
    for parameters in (bound.project((draw,)), bound.random(scene.generators())):
        measured = bound.verify(scene.image, bound.apply(scene.image, parameters), parameters)
        assert float(bound.displacement_mm(parameters).norm(dim=1).max()) <= limit * (1 + 1e-4) + 1e-6
        assert measured["displacement_euclidean"].limit == limit
        assert "displacement_axis_0" not in measured
        torch.testing.assert_close(bound.project(parameters), parameters, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("control_spacing", [8.0, 12.0])
def test_a_euclidean_budget_does_no_less_harm_than_a_box_inside_it(control_spacing: float) -> None:
    network = tiny_segmentation_network(features=8)
    image = hounsfield_scene((16, 16, 16), (1.0, 1.0, 1.0), batch=2).image / 200
    with torch.no_grad():
        label = network(image).argmax(dim=1, keepdim=True)
    found = {}
    for norm, budget in (("euclidean", 4.0), ("per_axis", 4.0 / 3**0.5)):
        attack = ElasticAttack(budget, control_spacing=control_spacing, steps=8, norm=norm)
        result = attack(network, image, label, spacing=1.0)
        assert float(result.budgets["displacement_euclidean"].values.max()) <= 4.0 * (1 + 1e-4)
        found[norm] = result.objective.mean()
    assert float(found["euclidean"]) >= 0.99 * float(found["per_axis"])


def test_a_euclidean_budget_is_reached_along_a_diagonal_and_named_with_its_norm() -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING)
    deformation = ElasticDeformation(5.0, 12.0)
    assert "norm='euclidean'" in repr(deformation)
    bound = deformation.bind(scene)
    parameters = bound.project((torch.full_like(bound.zeros()[0], 99.0),))
    in_mm = bound.displacement_mm(parameters)
    torch.testing.assert_close(in_mm, torch.full_like(in_mm, 5 / 3**0.5), rtol=1e-4, atol=0)
    per_axis = ElasticDeformation(5.0, 12.0, norm="per_axis").bind(scene)
    parameters = per_axis.project((torch.full_like(bound.zeros()[0], 99.0),))
    # What "5 mm" was before it had a norm.
    assert float(per_axis.longest_displacement(parameters)) == pytest.approx(5 * 3**0.5, rel=1e-3)


@pytest.mark.parametrize("diffeomorphic", [True, False])
def test_a_constant_displacement_reaches_the_budget_exactly(diffeomorphic: bool) -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING)
    bound = ElasticDeformation((2.0, 3.0, 3.0), 12.0, diffeomorphic, norm="per_axis").bind(scene)
    parameters = bound.project((torch.full_like(bound.zeros()[0], 99.0),))
    expected = torch.tensor([2.0 / 1.0, 3.0 / 1.5, 3.0 / 3.0]).view(1, 3, 1, 1, 1)
    displacement = bound.displacement(parameters)
    torch.testing.assert_close(displacement, expected.expand_as(displacement))
    moved = bound.apply(scene.image, parameters)
    torch.testing.assert_close(moved[..., :-2, :-2, :-1], scene.image[..., 2:, 2:, 1:], rtol=1e-4, atol=0.01)


def sink(bound: BoundElasticDeformation, axes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Controls that run into the center from both sides along some axes: the strongest shrinking there is."""
    controls = bound.zeros()[0].clone()
    for axis in axes:
        count = bound.parameter_shape[axis + 1]
        view = [1] * (controls.ndim - 2)
        view[axis] = count
        toward = torch.where(torch.arange(count) < count // 2, 1.0, -1.0)
        controls[:, axis] = toward.view(view) * 100
    return bound.project((controls,))


@pytest.mark.parametrize("bound_of_jacobian", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
def test_jacobian_bound_holds_and_is_used_where_everything_shrinks(
    bound_of_jacobian: float, axes: tuple[int, ...]
) -> None:
    scene = hounsfield_scene((32, 30, 12), (1.0, 1.0, 3.0))
    bound = ElasticDeformation(20.0, 6.0, min_jacobian=bound_of_jacobian).bind(scene)
    assert not bound.certified
    parameters = sink(bound, axes)
    measured = bound.verify(scene.image, bound.apply(scene.image, parameters), parameters)
    lowest = float(measured["jacobian_minimum"].values[0])
    assert bound_of_jacobian <= lowest <= bound_of_jacobian**0.6
    assert float(measured["folded_fraction"].values[0]) == 0


def test_jacobian_bound_holds_for_random_deformations_of_full_size() -> None:
    for seed in range(4):
        scene = hounsfield_scene((32, 32, 16), (1.0, 1.0, 2.0), seed=seed)
        bound = ElasticDeformation(8.0, 10.0, min_jacobian=0.2).bind(scene)
        parameters = bound.project((bound.random(scene.generators())[0].sign() * 8.0,))
        moved = bound.displacement(parameters)
        assert float(moved.abs().max()) > 1.5
        assert float(jacobian_determinant(moved).min()) > 0.2
        assert float(inverse_error(bound, parameters).max()) < 0.5


def test_jacobian_bound_holds_against_an_attack_on_it() -> None:
    scene = hounsfield_scene((18, 16, 8), (1.0, 1.0, 3.0))
    bound = ElasticDeformation(15.0, 8.0, min_jacobian=0.2).bind(scene)
    (controls,) = bound.random(scene.generators())
    lowest = []
    for _ in range(25):
        controls = controls.detach().requires_grad_()
        determinant = jacobian_determinant(bound.displacement((controls,)))
        lowest.append(float(determinant.detach().min()))
        (gradient,) = torch.autograd.grad(torch.logsumexp(-30 * determinant.flatten(), dim=0), controls)
        (controls,) = bound.project((controls.detach() + 0.1 * bound.limit * gradient.sign(),))
    assert 0.2 < min(lowest) < 0.35  # the attack comes close


def attack_the_corners(bound: BoundElasticDeformation, steps: int = 16) -> float:
    """The lowest determinant at the corner of a cell that gradient steps on the controls find."""
    (controls,) = bound.project((bound.random(bound.scene.generators())[0].sign() * bound.limit,))
    lowest = []
    for step in range(steps):
        controls = controls.detach().requires_grad_()
        moved = bound.displacement((controls,))
        lowest.append(float(lowest_corner_determinant(moved.detach()).min()))
        determinant = lowest_corner_determinant(moved).sum() + jacobian_determinant(moved).min()
        (gradient,) = torch.autograd.grad(-determinant, controls)
        gradient = gradient.sign() if step % 2 else gradient / gradient.abs().max()
        (controls,) = bound.project((controls.detach() + 0.15 * bound.limit * gradient,))
    return min(lowest)


@pytest.mark.parametrize("norm", ["euclidean", "per_axis"])
@pytest.mark.parametrize("min_jacobian", [0.1, 0.02])
@pytest.mark.parametrize(("control_spacing", "displacement"), [(12.0, 8.0), (8.0, 15.0)])
def test_jacobian_bound_holds_at_the_corners_of_cells(
    norm: str, min_jacobian: float, control_spacing: float, displacement: float
) -> None:
    scene = hounsfield_scene((18, 16, 8), (1.0, 1.0, 3.0))
    bound = ElasticDeformation(displacement, control_spacing, min_jacobian=min_jacobian, norm=norm).bind(scene)
    assert attack_the_corners(bound) >= min_jacobian


def test_shear_cannot_fold_the_voxels_although_nothing_shrinks() -> None:
    # Controls that slide along each other leave the divergence at 0 and fold a coarse grid.
    scene = hounsfield_scene((18, 16, 8), (1.0, 1.0, 3.0))
    bound = ElasticDeformation(15.0, 8.0, norm="per_axis").bind(scene)
    for seed in range(6):
        draw = torch.randn(bound.zeros()[0].shape, generator=torch.Generator().manual_seed(seed)) * 50
        parameters = bound.project((draw,))
        measured = bound.verify(scene.image, bound.apply(scene.image, parameters), parameters)
        assert float(measured["jacobian_minimum"].values[0]) >= 0.1
        assert float(parameters[0].abs().max()) > 1.0


def test_a_free_displacement_may_fold_and_says_so() -> None:
    scene = hounsfield_scene((24, 24), (1.0, 1.0))
    bound = ElasticDeformation(12.0, 5.0, diffeomorphic=False).bind(scene)
    parameters = sink(bound, (0, 1))
    measured = bound.verify(scene.image, bound.apply(scene.image, parameters), parameters)
    assert float(measured["folded_fraction"].values[0]) > 0
    assert measured["jacobian_minimum"].limit is None


@pytest.mark.parametrize("diffeomorphic", [True, False])
def test_pull_back_undoes_the_motion(diffeomorphic: bool) -> None:
    scene = hounsfield_scene((32, 32, 20), (1.0, 1.0, 2.0))
    bound = ElasticDeformation(4.0, 16.0, diffeomorphic, norm="per_axis").bind(scene)
    parameters = bound.random(scene.generators())
    assert float(inverse_error(bound, parameters).max()) < (0.5 if diffeomorphic else 0.01)
    moved = bound.apply(scene.image, parameters)
    core = (..., slice(5, -5), slice(5, -5), slice(3, -3))
    returned = bound.pull_back(moved, parameters)
    before = float((moved - scene.image)[core].abs().mean())
    assert float((returned - scene.image)[core].abs().mean()) < 0.1 * before
    nearest = bound.pull_back(torch.ones_like(moved, dtype=torch.long), parameters, mode="nearest")
    assert nearest.dtype == torch.long


@pytest.mark.parametrize("diffeomorphic", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (4, 3, 4)])
def test_gradient_passes_gradcheck(diffeomorphic: bool, shape: tuple[int, ...]) -> None:
    scene = hounsfield_scene(shape, (1.3, 2.1, 3.2)[: len(shape)], dtype=torch.float64)
    bound = ElasticDeformation(3.0, 8.0, diffeomorphic).bind(scene)
    parameters = leaves(bound.random(scene.generators()))
    image = (scene.image / 200).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: bound.apply(x, (p,)), (image, *parameters), fast_mode=True)
    label = torch.randint(0, 3, (1, *shape))
    assert torch.autograd.gradcheck(lambda p: bound.move_class_map(label, 3, (p,)), parameters, fast_mode=True)


@pytest.mark.parametrize("diffeomorphic", [True, False])
def test_zero_parameters_are_the_identity(diffeomorphic: bool) -> None:
    scene = hounsfield_scene((9, 8, 7), SPACING)
    bound = ElasticDeformation(5.0, 10.0, diffeomorphic).bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
    nothing = ElasticDeformation(0.0, 10.0, diffeomorphic).bind(scene)
    assert torch.equal(nothing.apply(scene.image, nothing.random(scene.generators())), scene.image)


def test_labels_move_with_the_image() -> None:
    scene = hounsfield_scene((20, 20, 10), SPACING)
    label = (scene.image / 100).round().clamp(0, 3).long()
    bound = ElasticDeformation(5.0, 16.0).bind(scene)
    parameters = bound.random(scene.generators())
    moved = bound.move_label(label, parameters)
    assert not torch.equal(moved, label)
    # an image that is its own label
    assert torch.equal(moved.float(), bound.move_label(label.float(), parameters))
    soft = bound.move_class_map(label[:, 0], 4, parameters)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones_like(soft[:, 0]))
    one_hot = torch.nn.functional.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    torch.testing.assert_close(soft, bound.move_soft_label(one_hot, parameters), atol=1e-5, rtol=0)
    sure = soft.amax(dim=1) > 0.99
    assert torch.equal(soft.argmax(dim=1)[sure], moved[:, 0][sure])
    assert float(sure.float().mean()) > 0.3


def test_integration_grid_may_be_coarser_than_the_image() -> None:
    scene = hounsfield_scene((40, 40), (1.0, 1.0))
    coarse = ElasticDeformation(4.0, 32.0).bind(scene)
    assert coarse.upsampling is not None
    parameters = coarse.random(scene.generators())
    fine = ElasticDeformation(4.0, 32.0, integration_steps=8).bind(scene)
    torch.testing.assert_close(coarse.displacement(parameters), fine.displacement(parameters), atol=0.1, rtol=0)


def test_region_confines_the_motion() -> None:
    region = torch.zeros(1, 1, 40, 36, dtype=torch.bool)
    region[..., 6:34, 5:33] = True
    for diffeomorphic in (True, False):
        scene = hounsfield_scene((40, 36), (1.0, 1.0), region=region)
        bound = ElasticDeformation(2.0, 5.0, diffeomorphic).bind(scene)
        parameters = bound.random(scene.generators())
        displacement = bound.displacement(parameters)
        assert float((displacement * ~region).abs().max()) == 0
        assert float(displacement.abs().max()) > 0.3
        moved = bound.apply(scene.image, parameters)
        for finished in (moved, bound.quantize(scene.image, moved, parameters)):
            assert torch.equal(finished[~region], scene.image[~region])
        bound.verify(scene.image, bound.quantize(scene.image, moved, parameters), parameters, rounding=0.5)
    with pytest.raises(ValueError, match="region"):
        ElasticDeformation(2.0, 32.0).bind(scene)


@pytest.mark.parametrize("norm", ["euclidean", "per_axis"])
def test_control_has_the_attacks_largest_displacement(norm: str) -> None:
    scene = hounsfield_scene((24, 20, 12), SPACING, batch=2)
    bound = ElasticDeformation(5.0, 12.0, norm=norm).bind(scene)
    attack = bound.project((bound.random(scene.generators())[0] * 0.8,))
    control = bound.random_control(scene.generators(stream=1), attack)
    assert not torch.allclose(attack[0], control[0])
    size = bound.longest_displacement if norm == "euclidean" else bound.largest_displacement
    sizes = [size(p) for p in (attack, control)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0.02)


def test_an_image_that_the_parameters_do_not_explain_is_refused() -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING)
    bound = ElasticDeformation(5.0, 12.0).bind(scene)
    parameters = bound.random(scene.generators())
    finished = bound.apply(scene.image, parameters)
    bound.verify(scene.image, finished, parameters)
    with pytest.raises(BudgetError, match="unexplained_change"):
        bound.verify(scene.image, finished + 5, parameters)
    too_far = (torch.full_like(parameters[0], 7.0),)
    with pytest.raises(BudgetError, match=r"displacement_euclidean of sample 0 is 12\.1244 mm"):
        bound.verify(scene.image, bound.apply(scene.image, too_far), too_far)
    box = ElasticDeformation(5.0, 12.0, norm="per_axis").bind(scene)
    with pytest.raises(BudgetError, match="displacement_axis_0"):
        box.verify(scene.image, box.apply(scene.image, too_far), too_far)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    scene = hounsfield_scene((12, 10, 8), SPACING, batch=2)
    bound = ElasticDeformation(5.0, 12.0).bind(scene)
    together = bound.apply(scene.image, bound.random(scene.generators()))
    for i in range(2):
        alone = scene.select([i])
        single = ElasticDeformation(5.0, 12.0).bind(alone)
        torch.testing.assert_close(single.apply(alone.image, single.random(alone.generators())), together[i : i + 1])


def test_bad_input_is_named() -> None:
    image = torch.rand(2, 1, 6, 6, 6)
    no_spacing = Scene(image, (0, 1))
    different = Scene(image, (0, 1), torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]], dtype=torch.float64))
    cases = [
        (lambda: ElasticDeformation(-1.0), "max_displacement"),
        (lambda: ElasticDeformation(control_spacing=0.0), "control_spacing"),
        (lambda: ElasticDeformation(min_jacobian=1.0), "min_jacobian"),
        (lambda: ElasticDeformation(integration_steps=0), "integration_steps"),
        (lambda: ElasticDeformation().bind(no_spacing), "spacing is missing"),
        (lambda: ElasticDeformation().bind(different), "spacing must be the same"),
        (lambda: ElasticDeformation((1.0, 2.0), norm="per_axis").bind(different.select([0])), "max_displacement"),
        (lambda: ElasticDeformation((1.0, 2.0, 3.0)), "max_displacement must be one number.*norm='per_axis'"),
        (lambda: ElasticDeformation(norm="l1"), "norm must be one of 'euclidean', 'per_axis'"),
    ]
    for make, name in cases:
        with pytest.raises(ValueError, match=name):
            make()


@pytest.mark.parametrize("label_first", [False, True])
def test_image_and_label_of_a_step_move_by_one_displacement(label_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = hounsfield_scene((10, 9, 8), SPACING)
    chain = Chain([ElasticDeformation(4.0, control_spacing=8.0), ElasticDeformation(3.0, control_spacing=8.0)])
    bound = chain.bind(scene)
    label = (scene.image[:, 0] > 40).long()
    point = bound.random([torch.Generator().manual_seed(3)])
    counted: list[int] = []
    displacement = BoundElasticDeformation.displacement

    def count(self: BoundElasticDeformation, *args: object, **options: object) -> torch.Tensor:
        counted.append(1)
        return displacement(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BoundElasticDeformation, "displacement", count)

    def gradients() -> tuple[torch.Tensor, ...]:
        parameters = leaves(point)
        if label_first:  # without gradient: what follows must have one all the same
            bound.move_label(label[:, None], parameters)
        total = bound.apply(scene.image, parameters).square().mean()
        total = total + 1e4 * bound.move_class_map(label, 2, parameters)[:, 1].square().mean()
        return torch.autograd.grad(total, parameters)

    apart = gradients()
    alone = len(counted)
    counted.clear()
    with bound.sharing():
        together = gradients()
        assert len(counted) == (4 if label_first else 2) < alone
        counted.clear()
        bound.apply(scene.image, leaves(point))  # other parameters of the same values
        assert len(counted) == 2
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)
    assert all(float(one.abs().max()) > 0 for one in together)
    assert all(member._shared is None for member in bound.members)  # nothing is held beyond its step
