# SPDX-License-Identifier: Apache-2.0
"""Searches on functions whose optimum is known."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search import AutoPGD, ProjectedAdam, SteepestAscent, steepest_direction
from monai_adversarial.attacks.search.apgd import checkpoints
from monai_adversarial.utils.scene import Scene

SHAPE = (2, 1, 5, 6)


def ascend(search, function, steps=40, epsilon=1.0, norm="linf", start=None):
    bound = AdditiveNoise(epsilon, norm).bind(Scene(torch.zeros(SHAPE, dtype=torch.float64), (0, 1)))
    run = search.begin(bound, steps)
    parameters = bound.zeros() if start is None else (start,)
    path = []
    for step in range(steps):
        leaf = parameters[0].detach().requires_grad_()
        values = function(leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        path.append(values.detach())
        parameters = run.advance((leaf.detach(),), (gradient,), values.detach(), step)
    return parameters[0], torch.stack(path), run


def test_checkpoints_of_the_paper():
    """For 100 steps the published schedule judges after 22, 41, 57, 70, 80, 87, 93 and 99 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []
    assert all(0 < mark < 10 for mark in checkpoints(10))


def test_steepest_directions():
    gradient = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    assert torch.equal(steepest_direction(gradient, "linf"), gradient.sign())
    torch.testing.assert_close(steepest_direction(gradient, "l2"), torch.tensor([[0.6, -0.8], [0.0, 1.0]]))
    assert torch.isfinite(steepest_direction(torch.zeros(1, 2), "l2")).all()


@pytest.mark.parametrize(
    ("search", "norm"),
    [
        (search, norm)
        for search in (
            SteepestAscent(0.3),
            SteepestAscent(2.0, schedule="linear"),
            SteepestAscent(0.3, momentum=1.0),
            AutoPGD(),
            ProjectedAdam(0.2),
        )
        for norm in ("linf", "l2")
        # Adam's voxelwise scaling turns the direction away from the gradient, which is what a Euclidean ball wants.
        if not (isinstance(search, ProjectedAdam) and norm == "l2")
    ],
)
def test_linear_function_is_maximized_in_every_ball(search, norm):
    torch.manual_seed(0)
    weights = torch.randn(SHAPE, dtype=torch.float64)
    found, _, _ = ascend(search, lambda x: (weights * x).flatten(1).sum(1), norm=norm, epsilon=2.0, steps=60)
    reached = (weights * found).flatten(1).sum(1)
    dual = weights.flatten(1).abs().sum(1) if norm == "linf" else weights.flatten(1).norm(dim=1)
    assert (reached > 0.97 * 2.0 * dual).all()
    assert (reached <= 2.0 * dual * (1 + 1e-9)).all()


def test_step_of_momentum_equals_the_formula():
    """Two steps by hand: g <- mu g + grad / mean|grad|; x <- x + alpha sign(g)."""
    gradients = [torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[[[-8.0, 1.0]]]])]
    bound = AdditiveNoise(10.0).bind(Scene(torch.zeros(1, 1, 1, 2), (0,)))
    run = SteepestAscent(0.1, momentum=0.5).begin(bound, 2)
    x = bound.zeros()
    x = run.advance(x, (gradients[0],), torch.zeros(1), 0)
    torch.testing.assert_close(x[0], torch.tensor([[[[1.0, -1.0]]]]))
    # velocity = .5 * (.5, -1.5) + (-8, 1) / 4.5 = (-1.53, -.53)
    x = run.advance(x, (gradients[1],), torch.zeros(1), 1)
    torch.testing.assert_close(x[0], torch.tensor([[[[0.0, -2.0]]]]))


@pytest.mark.parametrize(
    ("schedule", "sizes"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0]),
        ("linear", [2.0, 1.5, 1.0, 0.5]),
        ("cosine", [2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5]),
    ],
)
def test_steps_have_the_sizes_of_the_schedule(schedule, sizes):
    """In a budget that is never reached, the way between two points is the step; the last one still moves."""
    scene = Scene(torch.zeros(1, 1, 2, 2, dtype=torch.float64), (0,))
    for norm, length in (("linf", 3.0), ("l2", 3.0), ("rms", 6.0)):
        bound = AdditiveNoise(3.0, norm).bind(scene)
        run = SteepestAscent(2.0, schedule=schedule).begin(bound, 4)
        gradient = torch.ones(1, 1, 2, 2, dtype=torch.float64)
        for step, size in enumerate(sizes):
            bound.project = lambda parameters: parameters
            (x,) = run.advance(bound.zeros(), (gradient,), torch.zeros(1), step)
            way = x.abs().max() if norm == "linf" else x.norm()
            assert float(way) == pytest.approx(size * length, rel=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_changes_nothing_in_a_run_of_one_step(schedule):
    gradient = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bound = AdditiveNoise(0.1).bind(Scene(torch.zeros(SHAPE, dtype=torch.float64), (0, 1)))
    moved = [
        SteepestAscent(0.7, schedule=name).begin(bound, 1).advance(bound.zeros(), (gradient,), torch.zeros(2), 0)[0]
        for name in ("constant", schedule)
    ]
    assert torch.equal(*moved)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_falling_steps_settle_where_constant_ones_jump_over(schedule):
    """The top of a hill that lies at no multiple of the step."""
    top = torch.full(SHAPE, 0.137, dtype=torch.float64)

    def distance(search):
        return float((ascend(search, lambda x: -(x - top).square().flatten(1).sum(1), steps=10)[0] - top).abs().max())

    assert distance(SteepestAscent(2.0, schedule=schedule)) < 0.2 < distance(SteepestAscent(2.0))
    assert distance(SteepestAscent(2.0, schedule=schedule)) == distance(SteepestAscent(2.0, schedule=schedule))


def test_auto_pgd_halves_only_the_sample_that_stalls():
    """Sample 0 climbs a slope; sample 1 sits on the top of a narrow hill."""

    def function(x):
        slope = x[:1].flatten(1).sum(1)
        hill = -(x[1:] * 1000).square().flatten(1).sum(1)
        return torch.cat([slope, hill])

    start = torch.full(SHAPE, 0.01, dtype=torch.float64)
    start[0] = -1.0
    _, _, run = ascend(AutoPGD(relative_step=0.02), function, steps=60, start=start)
    assert run.state["step_size"][1] < run.state["step_size"][0]


@pytest.mark.parametrize(("schedule", "sizes"), [("constant", [2.0, 2.0, 2.0, 1.0]), ("linear", [2.0, 1.5, 1.0, 0.25])])
def test_steps_of_auto_pgd_fall_with_the_schedule_besides_being_halved(schedule, sizes):
    """Values that never rise: the step halves at the one checkpoint of four steps that is far enough."""
    scene = Scene(torch.zeros(1, 1, 2, 2, dtype=torch.float64), (0,))
    bound = AdditiveNoise(3.0).bind(scene)
    run = AutoPGD(momentum=1.0, schedule=schedule).begin(bound, 4)
    run.marks = [3]
    bound.project = lambda parameters: parameters
    gradient = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for step, size in enumerate(sizes):
        (x,) = run.advance(bound.zeros(), (gradient,), torch.zeros(1, dtype=torch.float64), step)
        assert float(x.abs().max()) == pytest.approx(3.0 * size, rel=1e-12)


def test_adam_is_invariant_to_the_scale_of_the_objective():
    """Gradients of a mean over a million voxels are near 1e-10: they must not vanish in the second moment."""
    torch.manual_seed(1)
    weights = torch.randn(SHAPE, dtype=torch.float64)

    def run(scale):
        return ascend(ProjectedAdam(0.05), lambda x: scale * (weights * x - x.square()).flatten(1).sum(1), steps=25)[0]

    torch.testing.assert_close(run(1.0), run(1e-12), atol=1e-6, rtol=1e-5)


def test_selected_samples_go_on_as_if_alone():
    weights = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for search in (
        SteepestAscent(0.1, momentum=0.9),
        SteepestAscent(2.0, schedule="linear"),
        AutoPGD(),
        ProjectedAdam(0.1),
    ):
        scene = Scene(torch.zeros(SHAPE, dtype=torch.float64), (0, 1))
        bound = AdditiveNoise(1.0).bind(scene)
        both, one = search.begin(bound, 8), search.begin(bound, 8)
        x, y = bound.zeros(), bound.zeros()
        for step in range(8):
            values = (weights * x[0] - x[0].square()).flatten(1).sum(1)
            x = both.advance(x, (weights - 2 * x[0],), values, step)
            if step == 4:
                where = torch.tensor([1])
                bound = AdditiveNoise(1.0).bind(scene.select([1]))
                one.select(where, bound)
                y = (y[0][where],)
            w = weights[1:] if step >= 4 else weights
            values = (w * y[0] - y[0].square()).flatten(1).sum(1)
            y = one.advance(y, (w - 2 * y[0],), values, step)
        torch.testing.assert_close(y[0], x[0][1:])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SteepestAscent(0.0),
        lambda: SteepestAscent(0.1, -1.0),
        lambda: SteepestAscent(0.1, schedule="exponential"),
        lambda: ProjectedAdam(beta1=1.0),
        lambda: AutoPGD(2.0),
        lambda: AutoPGD(relative_step=0.0),
        lambda: AutoPGD(schedule="exponential"),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ValueError, match="must be"):
        make()
