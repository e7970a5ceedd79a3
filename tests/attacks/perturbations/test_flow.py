# SPDX-License-Identifier: Apache-2.0
"""Flow of every voxel, its total variation, and the attack that is made of them."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import (
    PGD,
    Attack,
    BudgetError,
    FlowField,
    FlowPenalized,
    StAdv,
)
from monai_adversarial.attacks.objectives import Progress, Target, get_objective
from monai_adversarial.attacks.perturbations import warp_class_map, warp_linear
from monai_adversarial.attacks.perturbations.flow import total_variation
from monai_adversarial.data.example import example_case
from tests.attacks.perturbations.scenes import hounsfield_scene, leaves

SPACING = (1.0, 1.5, 3.0)
LIMIT = 6.0  # mm, one voxel of the example


def draw(shape: tuple[int, ...], size: float = 1.0, seed: int = 0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_total_variation_is_that_of_a_double_loop_in_mm() -> None:
    flow, spacing = draw((2, 3, 3, 4, 2)), torch.tensor([SPACING, (2.0, 1.0, 1.0)], dtype=torch.float64)
    for sample in range(2):
        total = 0.0
        for point in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(2)).tolist():
            for axis in range(3):
                for side in (-1, 1):
                    other = list(point)
                    other[axis] += side
                    if 0 <= other[axis] < flow.shape[axis + 2]:
                        here, there = (flow[sample, :, x, y, z] for x, y, z in (point, other))
                        total += float((here - there).norm() / spacing[sample, axis])
        assert float(total_variation(flow, spacing)[sample]) == pytest.approx(total / 24, rel=1e-3)


def test_a_translation_has_no_total_variation_and_its_gradient_is_right() -> None:
    spacing = torch.tensor([SPACING], dtype=torch.float64)
    assert float(total_variation(torch.full((1, 3, 4, 4, 4), 2.0), spacing)) == 0
    flow = draw((1, 3, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: total_variation(f, spacing), (flow,))
    still = torch.zeros_like(flow).requires_grad_()
    assert not torch.autograd.grad(total_variation(still, spacing).sum(), still)[0].any()


def test_no_displacement_is_longer_than_the_budget_and_a_constant_one_is_a_shift() -> None:
    scene = hounsfield_scene((14, 12, 8), SPACING, batch=2)
    bound = FlowField(4.5).bind(scene)
    (flow,) = bound.project((draw((2, 3, 14, 12, 8), 10).float(),))
    lengths = flow.norm(dim=1)
    assert float(lengths.max()) <= 4.5 and float((lengths > 4.49).float().mean()) > 0.9
    torch.testing.assert_close(bound.project((flow,))[0], flow)
    along = torch.tensor([0.0, 4.5, 0.0]).view(1, 3, 1, 1, 1).expand_as(flow).contiguous()
    moved = bound.apply(scene.image, (along,))  # 3 voxels of 1.5 mm
    torch.testing.assert_close(moved[:, :, :, :-3], scene.image[:, :, :, 3:])
    measured = bound.verify(scene.image, moved, (along,))
    assert measured["displacement_euclidean"].values.tolist() == pytest.approx([4.5, 4.5])
    assert float(measured["flow_total_variation"].values.max()) == 0


def test_the_gradient_of_the_moved_image_passes_gradcheck() -> None:
    scene = hounsfield_scene((4, 3, 3), SPACING, dtype=torch.float64)
    bound = FlowField(2.0).bind(scene)
    (flow,) = leaves((0.3 * draw((1, 3, 4, 3, 3)),))
    assert torch.autograd.gradcheck(lambda f: bound.apply(scene.image, (f,)), (flow,))


def test_zero_flow_is_the_identity_to_the_bit_and_a_smooth_flow_is_pulled_back() -> None:
    scene = hounsfield_scene((16, 14, 12), (1.0, 1.0, 1.0))
    bound = FlowField(2.0).bind(scene)
    assert torch.equal(bound.apply(scene.image, bound.zeros()), scene.image)
    wave = torch.sin(torch.linspace(0, 3.14159, 16)).view(1, 1, -1, 1, 1).expand(1, 3, 16, 14, 12)
    parameters = bound.project((wave.contiguous(),))
    back = bound.pull_back(bound.apply(scene.image, parameters), parameters)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    assert float((back - scene.image)[inside].abs().mean()) < 0.1 * float(
        (bound.apply(scene.image, parameters) - scene.image)[inside].abs().mean()
    )


def test_region_confines_the_flow() -> None:
    region = torch.zeros(1, 1, 14, 12, 8, dtype=torch.bool)
    region[..., 4:10, 3:9, 2:6] = True
    scene = hounsfield_scene((14, 12, 8), SPACING, region=region)
    bound = FlowField(3.0).bind(scene)
    parameters = bound.random(scene.generators())
    moved = bound.finished(scene.image, parameters)
    assert torch.equal(moved[~region], scene.image[~region]) and bool((moved != scene.image)[region].any())
    bound.verify(scene.image, moved, parameters)


@pytest.fixture(scope="module")
def case():
    return example_case(16)


def test_stadv_moves_the_label_keeps_its_budget_on_whole_numbers_and_beats_its_control(case) -> None:
    model, image, label = case
    result = StAdv(LIMIT, steps=6)(model, image, label)
    assert float(result.budgets["displacement_euclidean"].values) <= LIMIT
    assert bool((result.label != label).any())
    assert torch.equal(result.label, result.bound.move_label(label, result.parameters).to(result.label))
    saved = result.adversarial.as_tensor().round()
    result.verify(saved, rounding=0.5)
    with pytest.raises(BudgetError, match="unexplained_change"):
        result.verify(saved + 30)
    control, moved = result.random_control()
    assert float(PGD(0.0, steps=1)(model, control, moved).clean_dice) > float(result.adversarial_dice) + 0.05


def test_more_budget_more_steps_and_less_smoothness_do_more_harm(case) -> None:
    model, image, label = case

    def found(**options):
        return StAdv(**{"max_displacement": LIMIT, "steps": 6, **options})(model, image, label)

    dice = [float(found(max_displacement=budget).adversarial_dice) for budget in (0.0, 1.5, LIMIT)]
    assert dice == sorted(dice, reverse=True) and dice[-1] < 0.8 * dice[0]
    values = [float(found(steps=steps, smoothness=0).objective) for steps in (1, 3, 8)]
    assert values == sorted(values)
    rough = [float(found(smoothness=tau).budgets["flow_total_variation"].values) for tau in (0.0, 0.05, 1.0)]
    assert rough == sorted(rough, reverse=True) and rough[-1] < 0.5 * rough[0]


def ten_lines(network, image, label, limit: float, spacing: float, steps: int) -> torch.Tensor:
    """What anybody would write: Adam on a flow in voxels, clipped to its longest; the label moves along."""
    flow = torch.zeros(1, 3, *image.shape[2:], requires_grad=True)
    adam, best = torch.optim.Adam([flow], lr=limit / spacing / 3), (-1.0, flow)
    for _ in range(steps):
        target = Target(4, soft=warp_class_map(label[:, 0], 4, flow))
        value = get_objective("dice").value(network(warp_linear(image, flow)), target, Progress(0, 1)).sum()
        best = max(best, (float(value.detach()), flow.detach().clone()), key=lambda one: one[0])
        adam.zero_grad()
        (-value).backward()
        adam.step()
        with torch.no_grad():
            flow *= (limit / spacing / flow.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1)
    return best[1] * spacing


def test_it_is_as_strong_as_ten_lines_of_adam_at_the_same_cost(case) -> None:
    model, image, label = case
    spacing = 6.0  # of the example of 16 voxels
    ours = Attack(FlowField(LIMIT), "dice", StAdv().search, steps=6, random_start=False)(model, image, label)
    scaled = ((image.as_tensor() + 160) / 500).clamp(0, 1)
    flow = ten_lines(model.network, scaled, label.as_tensor().long(), LIMIT, spacing, 6)
    theirs = Attack(FlowField(LIMIT), "dice", steps=1, random_start=False)(model, image, label, start=(flow,))
    assert float(ours.objective) >= float(theirs.objective_history[0]) - 1e-3


def test_a_batch_gives_what_its_samples_give_alone(case) -> None:
    model, first, first_label = case
    _, second, second_label = example_case(16, seed=1)
    image, label = torch.cat([first, second]), torch.cat([first_label, second_label])
    together = StAdv(LIMIT, steps=3)(model, image, label)
    for row in range(2):
        alone = StAdv(LIMIT, steps=3)(model, image[row : row + 1], label[row : row + 1])
        torch.testing.assert_close(together.adversarial[row : row + 1], alone.adversarial, atol=1e-2, rtol=1e-4)


def test_what_makes_no_sense_is_named(case) -> None:
    with pytest.raises(ValueError, match="max_displacement"):
        FlowField(-1.0)
    with pytest.raises(ValueError, match="smoothness"):
        FlowPenalized(smoothness=-1.0)
    with pytest.raises(TypeError, match="roughness of a FlowField, got AdditiveNoise"):
        PGD(8, "HU", steps=1, objective=FlowPenalized())(*case)
    with pytest.raises(ValueError, match="spacing is missing: max_displacement"):
        StAdv(2.0, steps=1)(torch.nn.Conv3d(1, 2, 1), torch.rand(1, 1, 8, 8, 8))
