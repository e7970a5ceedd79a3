# SPDX-License-Identifier: Apache-2.0
"""ADef: exact where everything is linear, and the smallest of deformations where it is not."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import (
    ADef,
    DDNSearch,
    LinearizedFlowSearch,
    MinimalFlow,
    MinimalNoise,
    MinimalNormAttack,
)
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice
from monai_adversarial.models import AttackedModel

SIZE, SPACING = 12, (1.0, 2.0, 3.0)


class LinearScore(torch.nn.Module):
    """Logits (0, score) of an image, with a score that is linear in its voxels and needs only those in the middle."""

    def __init__(self, seed: int = 0, margin: float = 1.0) -> None:
        super().__init__()
        weight = torch.zeros(1, SIZE, SIZE, SIZE)
        middle = (slice(None), *[slice(4, 8)] * 3)
        weight[middle] = torch.randn(weight[middle].shape, generator=torch.Generator().manual_seed(seed))
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(margin - (ramp() * weight).sum())
        self.eval()

    def score(self, image: torch.Tensor) -> torch.Tensor:
        return (image * self.weight).flatten(1).sum(dim=1) + self.bias

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.score(image)
        return torch.stack([torch.zeros_like(score), score], dim=1)


#: of the ramp, per mm along each axis
SLOPE = torch.tensor([0.03, -0.02, 0.01])


def ramp() -> torch.Tensor:
    """An image that is linear in its place, so that moving it is linear in the displacement."""
    axes = torch.meshgrid(*[torch.arange(SIZE) * step for step in SPACING], indexing="ij")
    return sum(axis * slope for axis, slope in zip(axes, SLOPE, strict=True))[None, None] + 0.3


def attacked(network: torch.nn.Module, attack: MinimalNormAttack):  # type: ignore[no-untyped-def]
    model = AttackedModel(network, task="classification", image_units="network", intensity={"a_min": 0.0, "a_max": 1.0})
    return attack(model, ramp(), torch.ones(1, dtype=torch.long), spacing=SPACING)


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_on_a_linear_score_one_step_is_the_least_squares_flow(smoothing: float) -> None:
    network = LinearScore()
    attack = ADef(smoothing=smoothing, steps=2, overshoot=1e-3, largest_step=None, boundary_queries=16)
    result = attacked(network, attack)
    assert bool(result.success)
    # By a displacement d in mm each voxel gains slope . d, so that the score's gradient is weight * slope.
    gradient = (network.weight.detach() * SLOPE.view(3, 1, 1, 1))[None]
    smooth = result.bound.smooth
    flow = smooth(smooth(gradient)) * (-network.score(ramp()) / smooth(gradient).square().sum()).detach()
    torch.testing.assert_close(result.parameters[0], flow, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(result.smallest_norm.values.float(), flow.norm(dim=1).max().view(1), rtol=2e-3, atol=0)
    # Less of it does not do.
    short = result.bound.apply(ramp(), (result.parameters[0] * 0.99,))
    assert network.score(short).item() > 0 >= network.score(torch.as_tensor(result.adversarial)).item()


def test_no_flow_of_the_same_energy_does_more_on_a_linear_score() -> None:
    network = LinearScore(1)
    result = attacked(network, ADef(smoothing=0.0, steps=2, overshoot=1e-3, largest_step=None))
    energy = result.parameters[0].norm()
    for seed in range(20):
        other = torch.randn(result.parameters[0].shape, generator=torch.Generator().manual_seed(seed))
        other = other * (network.weight != 0) * energy / (other * (network.weight != 0)).norm()
        assert network.score(result.bound.apply(ramp(), (other,))).item() > 0


def test_steps_are_limited_in_mm() -> None:
    whole = attacked(LinearScore(2, 3.0), ADef(0.0, steps=1, overshoot=0.0, largest_step=None, boundary_queries=1))
    length = float(whole.bound.length(whole.parameters[0]))
    limited = attacked(
        LinearScore(2, 3.0), ADef(0.0, steps=1, overshoot=0.0, largest_step=length / 3, boundary_queries=1)
    )
    assert not limited.success.any()
    torch.testing.assert_close(limited.parameters[0] * 3, whole.parameters[0], rtol=1e-3, atol=1e-5)


def test_of_a_segmentation_the_label_moves_and_the_flow_is_stronger_than_a_random_one() -> None:
    model, image, label = example_case(16)
    result = ADef(smoothing=4.0, steps=15)(model, image, label)
    assert bool(result.success), result
    assert result.bound.geometric and not torch.equal(torch.as_tensor(result.label), torch.as_tensor(label))
    size = float(result.smallest_norm.values)
    assert float(result.budgets["displacement_euclidean"].values) == pytest.approx(size, rel=1e-5)
    assert result.norm == "displacement" and f"smallest displacement with success: {size:.4g} mm" in str(result)
    # Scored with the moved label: against the old one it would be another number.
    with torch.no_grad():
        prediction = hard_prediction(model.network(model.intensity(torch.as_tensor(result.adversarial))), "softmax")
    moved = result.bound.move_label(torch.as_tensor(label), result.parameters)
    torch.testing.assert_close(
        mean_foreground_dice(prediction, moved, 4, "softmax").float(), result.adversarial_score.float()
    )
    for stream in range(5):
        control, control_label = result.random_control(stream)
        with torch.no_grad():
            prediction = hard_prediction(model.network(model.intensity(torch.as_tensor(control))), "softmax")
        dice = mean_foreground_dice(prediction, torch.as_tensor(control_label), 4, "softmax")
        assert float(dice) > float(result.adversarial_score) + 0.1


def test_a_limit_in_mm_is_kept_and_a_failure_is_said() -> None:
    model, image, label = example_case(16)
    result = ADef(smoothing=4.0, steps=4, max_displacement=0.2)(model, image, label)
    assert not result.success.any() and result.boundary_distance.isinf().all()
    assert float(result.budgets["displacement_euclidean"].values) <= 0.2 * (1 + 1e-5)
    assert result.budgets["displacement_euclidean"].limit == 0.2


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    model, image, label = example_case(16)
    images, labels = (
        torch.cat([torch.as_tensor(one).as_subclass(torch.Tensor), torch.as_tensor(two).as_subclass(torch.Tensor)])
        for one, two in zip((image, label), example_case(16, 3)[1:], strict=True)
    )
    attack = ADef(smoothing=4.0, steps=4)
    both = attack(model, images, labels, spacing=3.0)
    for row in range(2):
        alone = attack(model, images[row : row + 1], labels[row : row + 1], spacing=3.0)
        torch.testing.assert_close(both.parameters[0][row : row + 1], alone.parameters[0], rtol=1e-3, atol=1e-3)


def test_outside_a_region_nothing_moves() -> None:
    model, image, label = example_case(16)
    region = torch.zeros(label.shape, dtype=torch.bool)
    region[..., :8] = True
    result = ADef(smoothing=4.0, steps=3)(model, image, label, region=region)
    assert (result.parameters[0][..., 8:] == 0).all() and (result.parameters[0] != 0).any()
    control = result.bound.random_control(result.bound.scene.generators(5), result.parameters)[0]
    assert (control[..., 8:] == 0).all()
    torch.testing.assert_close(result.bound.length(control), result.bound.length(result.parameters[0]))


def test_parts_that_do_not_fit_are_refused() -> None:
    model, image, label = example_case(16)
    with pytest.raises(TypeError, match="DDNSearch needs MinimalNoise with a norm among 'l2', got MinimalFlow"):
        MinimalNormAttack(MinimalFlow(), "dice", DDNSearch(), steps=1)(model, image, label)
    with pytest.raises(TypeError, match="LinearizedFlowSearch needs MinimalFlow with a norm among 'displacement'"):
        MinimalNormAttack(MinimalNoise(), "dice", LinearizedFlowSearch(), steps=1)(model, image, label)
    with pytest.raises(
        ValueError, match="wrong_fraction compares voxels with a label that stays where it is, and MinimalFlow"
    ):
        ADef(wrong_fraction=0.99)
    with pytest.raises(ValueError, match="spacing"):
        ADef(steps=1)(model, image.as_tensor(), label.as_tensor())
    with pytest.raises(ValueError, match="smoothing must be"):
        MinimalFlow(smoothing=-1.0)
    with pytest.raises(ValueError, match="largest_step must be"):
        LinearizedFlowSearch(largest_step=0.0)
