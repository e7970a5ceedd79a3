# SPDX-License-Identifier: Apache-2.0
"""What every objective promises: samples apart, regions and classes respected, modes that agree, no synchronization."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks.objectives import BalancedCrossEntropy, Dice, Target, get_objective
from tests.attacks.objectives.cases import (
    MODES,
    NAMES,
    PROGRESS,
    SHAPE,
    chosen_classes,
    random_index,
    random_logits,
    random_target,
)

VOXELWISE = [name for name in NAMES if "dice" not in name]


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_depend_on_each_other_or_on_their_order(name: str, mode: str, restricted: bool) -> None:
    logits = random_logits(mode, batch=3).requires_grad_()
    target = random_target(mode, batch=3, region=restricted, classes=chosen_classes(mode) if restricted else None)
    objective = get_objective(name)
    value = objective.value(logits, target, PROGRESS)
    assert value.shape == (3,)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    order = torch.tensor([2, 0, 1])
    permuted = objective.value(logits[order], target.select(order), PROGRESS)
    torch.testing.assert_close(permuted, value[order])
    for i in range(3):
        alone = logits[i : i + 1].detach().requires_grad_()
        one = objective.value(alone, target.select(torch.tensor([i])), PROGRESS)
        torch.testing.assert_close(one, value[i : i + 1])
        torch.testing.assert_close(torch.autograd.grad(one.sum(), alone)[0], gradient[i : i + 1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_voxels_outside_the_region_do_not_count(name: str, mode: str) -> None:
    region = torch.zeros(2, *SHAPE, dtype=torch.bool)
    region[:, :, 1:] = True
    start, logits = random_target(mode), random_logits(mode)
    target = Target(start.classes, index=start.index, soft=start.soft, weight=region, activation=start.activation)
    changed = torch.where(region.unsqueeze(1), logits, 7 * random_logits(mode, seed=5))
    objective = get_objective(name)
    value = objective.value(logits, target, PROGRESS)
    torch.testing.assert_close(objective.value(changed, target, PROGRESS), value, rtol=1e-12, atol=0)
    # the region alone, cut out, has the same value
    box = (slice(None), slice(None), slice(1, None))
    cut = Target(
        start.classes,
        index=None if start.index is None else start.index[box],
        soft=None if start.soft is None else start.soft[(slice(None), *box)],
        activation=start.activation,
    )
    torch.testing.assert_close(objective.value(logits[(slice(None), *box)], cut, PROGRESS), value)


@pytest.mark.parametrize("name", VOXELWISE)
def test_only_voxels_of_the_chosen_classes_count(name: str) -> None:
    target = random_target("hard", classes=(1, 2))
    logits = random_logits("hard")
    counts = (target.index > 0).unsqueeze(1)
    objective = get_objective(name)
    value = objective.value(logits, target, PROGRESS)
    changed = torch.where(counts, logits, random_logits("hard", seed=5))
    torch.testing.assert_close(objective.value(changed, target, PROGRESS), value, rtol=1e-12, atol=0)
    region = Target(3, index=target.index, weight=counts[:, 0])
    torch.testing.assert_close(objective.value(logits, region, PROGRESS), value)


@pytest.mark.parametrize("name", NAMES)
def test_with_sigmoid_only_the_chosen_channels_count(name: str) -> None:
    target, logits = random_target("sigmoid", classes=(0, 2)), random_logits("sigmoid")
    objective = get_objective(name)
    value = objective.value(logits, target, PROGRESS)
    changed = logits.clone()
    changed[:, 1] += 3
    assert torch.equal(objective.value(changed, target, PROGRESS), value)
    alone = Target(2, soft=target.soft[:, [0, 2]], activation="sigmoid")
    torch.testing.assert_close(objective.value(logits[:, [0, 2]], alone, PROGRESS), value)


def test_dice_averages_the_chosen_classes() -> None:
    logits, target = random_logits("hard"), random_target("hard")

    def dice(classes: tuple[int, ...], background: bool = False) -> torch.Tensor:
        mask = torch.tensor([number in classes for number in range(3)])
        chosen = Target(3, index=target.index, class_mask=mask)
        return Dice(include_background=background).value(logits, chosen, PROGRESS)

    everything = Dice().value(logits, target, PROGRESS)
    torch.testing.assert_close((dice((1,)) + dice((2,))) / 2, everything)
    torch.testing.assert_close(dice((0, 1)), dice((1,)))
    torch.testing.assert_close((dice((0,), True) + dice((1,), True)) / 2, dice((0, 1), True))
    with pytest.raises(ValueError, match="selects nothing else"):
        dice((0,))


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_hard_references_equal_their_one_hot_form(name: str, targeted: bool, restricted: bool) -> None:
    hard = random_target("hard", region=restricted, classes=(1, 2) if restricted else None)
    logits = random_logits("hard").requires_grad_()
    soft = hard.with_soft(hard.one_hot(torch.float64))
    values = [get_objective(name).value(logits, target, PROGRESS, targeted) for target in (hard, soft)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in values))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_one_sigmoid_channel_equals_a_two_class_softmax(name: str, targeted: bool, weighted: bool) -> None:
    sigmoid = random_target("sigmoid_one_channel", region=weighted)
    softmax = Target(2, index=sigmoid.soft[:, 0].long(), weight=sigmoid.weight)
    logit = random_logits("sigmoid_one_channel").requires_grad_()
    values = [
        get_objective(name).value(logit, sigmoid, PROGRESS, targeted),
        get_objective(name).value(torch.cat([torch.zeros_like(logit), logit], dim=1), softmax, PROGRESS, targeted),
    ]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logit)[0] for value in values))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_value_of_the_same_target_is_the_same(name: str) -> None:
    for mode in MODES:
        target, logits = random_target(mode, region=True, classes=chosen_classes(mode)), random_logits(mode)
        first = get_objective(name).value(logits, target, PROGRESS)
        with torch.inference_mode():
            get_objective(name).value(logits, target, PROGRESS)
        other = get_objective(name).value(logits.float(), target, PROGRESS)
        assert other.dtype == torch.float32
        assert torch.equal(get_objective(name).value(logits, target, PROGRESS), first)


def test_inference_mode_leaves_nothing_behind_that_a_gradient_cannot_use() -> None:
    target, logits = random_target("hard", region=True), random_logits("hard").requires_grad_()
    with torch.inference_mode():
        BalancedCrossEntropy().value(logits, target, PROGRESS)
    BalancedCrossEntropy().value(logits, target, PROGRESS).sum().backward()
    assert logits.grad is not None


@pytest.mark.parametrize("layout", ["channels_last", "expanded"])
@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name: str, layout: str) -> None:
    for mode in MODES:
        target = random_target(mode, region=True)
        plain = random_logits(mode)
        if layout == "expanded":
            plain = plain[:1].expand_as(plain).clone()
            other = plain[:1].expand_as(plain)
        else:
            other = plain.contiguous(memory_format=torch.channels_last_3d)
        results = []
        for logits in (plain, other):
            logits = logits.detach().requires_grad_()
            value = get_objective(name).value(logits, target, PROGRESS)
            results.append((value.detach(), torch.autograd.grad(value.sum(), logits)[0]))
        torch.testing.assert_close(*(value for value, _ in results))
        torch.testing.assert_close(*(gradient for _, gradient in results))


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_depends_on_data_that_the_host_would_have_to_wait_for(name: str, mode: str, restricted: bool) -> None:
    # The meta device has shapes and no values: reading one raises.
    target = random_target(mode, region=restricted, classes=chosen_classes(mode) if restricted else None)

    def meta(part: torch.Tensor | None) -> torch.Tensor | None:
        return None if part is None else part.to("meta")

    far = Target(
        target.classes, meta(target.index), meta(target.soft), meta(target.weight), target.class_mask, target.activation
    )
    logits = random_logits(mode).to("meta").requires_grad_()
    for targeted in (False, True):
        value, rank = get_objective(name).value_and_rank(logits, far, PROGRESS, targeted)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.shape == rank.shape == (2,) and gradient.shape == logits.shape and value.device.type == "meta"
    soft = far.one_hot(torch.float64).requires_grad_()
    assert get_objective(name).value(logits, far.with_soft(soft), PROGRESS).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_values_on_a_gpu_equal_those_on_the_cpu(name: str) -> None:
    for mode in MODES:
        target, logits = random_target(mode, region=True), random_logits(mode)

        def there(part: torch.Tensor | None) -> torch.Tensor | None:
            return None if part is None else part.cuda()

        far = Target(
            target.classes, there(target.index), there(target.soft), there(target.weight), None, target.activation
        )
        results = []
        for z, reference in ((logits, target), (logits.cuda(), far)):
            z = z.detach().requires_grad_()
            value = get_objective(name).value(z, reference, PROGRESS)
            results.append((value.detach().cpu(), torch.autograd.grad(value.sum(), z)[0].cpu()))
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_spatial_dimensions(name: str, dimensions: int) -> None:
    shape = (4, 3, 1)[:dimensions]
    index = random_index(2, 3, torch.Generator().manual_seed(0)).flatten(1)[:, : torch.Size(shape).numel()]
    logits = random_logits("hard").flatten(2)[..., : index.shape[1]]
    flat = get_objective(name).value(logits, Target(3, index=index), PROGRESS)
    shaped = get_objective(name).value(
        logits.reshape(2, 3, *shape), Target(3, index=index.reshape(2, *shape)), PROGRESS
    )
    torch.testing.assert_close(shaped, flat)


def test_logits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="logits must have shape"):
        get_objective("ce").value(torch.zeros(2, 4, *SHAPE), random_target("hard"), PROGRESS)
