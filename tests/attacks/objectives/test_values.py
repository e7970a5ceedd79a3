# SPDX-License-Identifier: Apache-2.0
"""Values by hand and against torch and MONAI."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss

from monai_adversarial.attacks.objectives import (
    AnnealedDice,
    BalancedMaskedCrossEntropy,
    CosPGD,
    Dice,
    DiceCE,
    JensenShannon,
    Margin,
    Progress,
    SegPGD,
    Target,
    get_objective,
)
from tests.attacks.objectives.cases import PROGRESS, chosen_classes, random_logits, random_target

# Two voxels, two classes, both of reference class 0: probability of the reference 3/4 (right) and 1/5 (wrong).
LOGITS = torch.tensor([[[math.log(3.0), 0.0], [0.0, math.log(4.0)]]], dtype=torch.float64)
TARGET = Target(2, index=torch.tensor([[0, 0]]))
RIGHT, WRONG = math.log(4 / 3), math.log(5.0)
COSINE_RIGHT, COSINE_WRONG = 0.75 / math.hypot(0.75, 0.25), 0.2 / math.hypot(0.2, 0.8)


def jensen_shannon(p: float) -> float:
    """Against a one-hot reference, from the definition with the middle distribution."""
    middle = ((p + 1) / 2, (1 - p) / 2)
    divergence_p = p * math.log(p / middle[0]) + (1 - p) * math.log((1 - p) / middle[1])
    return 0.5 * divergence_p + 0.5 * math.log(1 / middle[0])


@pytest.mark.parametrize(
    ("name", "targeted", "expected"),
    [
        ("cross_entropy", False, (RIGHT + WRONG) / 2),
        ("cross_entropy", True, (RIGHT + WRONG) / 2),
        ("balanced_cross_entropy", False, (RIGHT + WRONG) / 2),
        ("masked_cross_entropy", False, RIGHT / 2),
        ("masked_cross_entropy", True, WRONG / 2),
        ("balanced_masked_cross_entropy", False, RIGHT / 2),
        ("balanced_masked_cross_entropy", True, WRONG / 2),
        ("segpgd", False, (0.85 * RIGHT + 0.15 * WRONG) / 2),
        ("segpgd", True, (0.85 * WRONG + 0.15 * RIGHT) / 2),
        ("cospgd", False, (COSINE_RIGHT * RIGHT + COSINE_WRONG * WRONG) / 2),
        ("cospgd", True, ((1 - COSINE_RIGHT) * RIGHT + (1 - COSINE_WRONG) * WRONG) / 2),
        ("jensen_shannon", False, (jensen_shannon(0.75) + jensen_shannon(0.2)) / 2),
        ("margin", False, (-math.log(3.0) + 0.0) / 2),  # the wrong voxel is clipped at 0
        ("margin", True, (0.0 + math.log(4.0)) / 2),  # the voxel that is as wanted is clipped at 0
    ],
)
def test_two_voxels_by_hand(name: str, targeted: bool, expected: float) -> None:
    value = get_objective(name).value(LOGITS, TARGET, Progress(3, 10), targeted)
    assert value.tolist() == pytest.approx([expected], rel=1e-12)


def test_dice_by_hand() -> None:
    # probabilities of class 1: 1/4 and 4/5; reference: class 0, class 1
    target = Target(2, index=torch.tensor([[0, 1]]))
    expected = 1 - (2 * 0.8 + 1e-5) / (0.25 + 0.8 + 1 + 1e-5)
    assert get_objective("dice").value(LOGITS, target, PROGRESS).item() == pytest.approx(expected, rel=1e-12)
    background = 1 - (2 * 0.75 + 1e-5) / (0.75 + 0.2 + 1 + 1e-5)
    both = Dice(include_background=True).value(LOGITS, target, PROGRESS).item()
    assert both == pytest.approx((expected + background) / 2, rel=1e-12)


def test_cross_entropy_equals_torch() -> None:
    logits, target = random_logits("hard"), random_target("hard")
    value = get_objective("ce").value(logits, target, PROGRESS)
    expected = [F.cross_entropy(logits[i : i + 1], target.index[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(value, torch.stack(expected))


def test_cross_entropy_on_soft_references_equals_torch() -> None:
    logits, target = random_logits("soft"), random_target("soft")
    expected = F.cross_entropy(logits, target.soft, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(get_objective("ce").value(logits, target, PROGRESS), expected)


def test_cross_entropy_with_sigmoid_equals_torch() -> None:
    logits, target = random_logits("sigmoid"), random_target("sigmoid")
    expected = F.binary_cross_entropy_with_logits(logits, target.soft, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(get_objective("ce").value(logits, target, PROGRESS), expected)


def test_balanced_cross_entropy_equals_torch_with_class_weights_of_each_sample() -> None:
    logits, target = random_logits("hard"), random_target("hard")
    expected = []
    for i in range(2):
        weights = 1 / torch.bincount(target.index[i].flatten(), minlength=3).double()
        expected.append(F.cross_entropy(logits[i : i + 1], target.index[i : i + 1], weight=weights))
    value = get_objective("balanced_cross_entropy").value(logits, target, PROGRESS)
    torch.testing.assert_close(value, torch.stack(expected))


def test_balanced_cross_entropy_ignores_absent_classes() -> None:
    logits = random_logits("hard", batch=1)
    index = random_target("hard", batch=1).index.clamp_max(1)  # class 2 does not occur
    losses = F.cross_entropy(logits, index, reduction="none")
    expected = (losses[index == 0].mean() + losses[index == 1].mean()) / 2
    value = get_objective("balanced_cross_entropy").value(logits, Target(3, index=index), PROGRESS)
    torch.testing.assert_close(value[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("include_background", [False, True])
def test_dice_and_dice_ce_equal_monai_for_each_sample(dtype: torch.dtype, include_background: bool) -> None:
    logits, target = random_logits("hard", dtype=dtype), random_target("hard")
    settings = {"include_background": include_background, "to_onehot_y": True, "softmax": True}
    for ours, theirs in (
        (Dice(include_background=include_background), DiceLoss(**settings)),
        (DiceCE(include_background=include_background), DiceCELoss(**settings)),
    ):
        ours_at, theirs_at = (logits.clone().requires_grad_() for _ in range(2))
        value = ours.value(ours_at, target, PROGRESS)
        expected = torch.stack([theirs(theirs_at[i : i + 1], target.index[i : i + 1].unsqueeze(1)) for i in range(2)])
        torch.testing.assert_close(value, expected)
        gradients = [torch.autograd.grad(v.sum(), at)[0] for v, at in ((value, ours_at), (expected, theirs_at))]
        torch.testing.assert_close(*gradients)


def test_dice_with_sigmoid_equals_monai_over_all_channels() -> None:
    logits, target = random_logits("sigmoid"), random_target("sigmoid")
    expected = DiceLoss(sigmoid=True, reduction="none")(logits, target.soft).flatten(1).mean(1)
    torch.testing.assert_close(get_objective("dice").value(logits, target, PROGRESS), expected)


def test_dice_leaves_out_absent_classes_unless_none_is_left() -> None:
    logits = random_logits("hard", batch=2)
    index = random_target("hard", batch=2).index.clamp_max(1)  # class 2 does not occur
    index[1] = 0  # only background
    value = get_objective("dice").value(logits, Target(3, index=index), PROGRESS)
    monai = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, reduction="none")
    per_class = monai(logits, index.unsqueeze(1)).flatten(1)
    torch.testing.assert_close(value, torch.stack([per_class[0, 0], per_class[1].mean()]))
    everything = Dice(skip_absent=False).value(logits, Target(3, index=index), PROGRESS)
    torch.testing.assert_close(everything, per_class.mean(1))


@pytest.mark.parametrize("mode", ["hard", "soft", "sigmoid"])
def test_sharpness_multiplies_the_logits(mode: str) -> None:
    logits, target = random_logits(mode), random_target(mode, classes=chosen_classes(mode))
    expected = Dice().value(4 * logits, target, PROGRESS)
    torch.testing.assert_close(Dice(sharpness=4.0).value(logits, target, PROGRESS), expected)
    assert not torch.allclose(expected, Dice().value(logits, target, PROGRESS))


def test_sharp_dice_is_the_dice_of_the_decision() -> None:
    """Softmax far from ties is the decision itself."""
    logits, target = random_logits("hard"), random_target("hard")
    decided = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).double()
    index = target.index.unsqueeze(1)
    expected = DiceLoss(include_background=False, to_onehot_y=True, reduction="none")(decided, index)
    value = Dice(sharpness=1e6).value(logits, target, PROGRESS)
    torch.testing.assert_close(value, expected.flatten(1).mean(1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["hard", "soft", "sigmoid"])
def test_annealed_dice_sharpens_from_step_to_step_and_ranks_by_the_decisions(mode: str) -> None:
    logits, target = random_logits(mode), random_target(mode, region=True, classes=chosen_classes(mode))
    objective = AnnealedDice(first_sharpness=0.5, last_sharpness=8.0, cross_entropy_weight=0.7)
    masked = BalancedMaskedCrossEntropy()
    decisions = Dice(sharpness=1e6).value(logits, target, PROGRESS)
    # Four doublings in four steps; the point where the run ends is looked at like the last step's.
    for step, sharpness in enumerate((0.5, 1.0, 2.0, 4.0, 8.0, 8.0)):
        value, rank = objective.value_and_rank(logits, target, Progress(step, 5))
        expected = Dice(sharpness=sharpness).value(logits, target, PROGRESS)
        expected = expected + 0.7 / sharpness * masked.value(sharpness * logits, target, PROGRESS)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(rank, decisions)
    one, first = (objective.value(logits, target, Progress(0, steps)) for steps in (1, 5))
    torch.testing.assert_close(one, first)


def test_dice_ce_weights_its_parts() -> None:
    logits, target = random_logits("hard"), random_target("hard")
    dice, cross_entropy = (get_objective(name).value(logits, target, PROGRESS) for name in ("dice", "ce"))
    value = DiceCE(dice_weight=0.25, cross_entropy_weight=3.0).value(logits, target, PROGRESS)
    torch.testing.assert_close(value, 0.25 * dice + 3 * cross_entropy)


def test_segpgd_goes_from_correct_voxels_to_half_of_all() -> None:
    logits, target = random_logits("hard"), random_target("hard")
    losses = F.cross_entropy(logits, target.index, reduction="none")
    correct = logits.argmax(1) == target.index
    assert correct.any() and not correct.all()
    first = SegPGD().value(logits, target, Progress(0, 10))
    torch.testing.assert_close(first, (losses * correct).flatten(1).mean(1))
    torch.testing.assert_close(first, get_objective("mce").value(logits, target, Progress(7, 10)))
    torch.testing.assert_close(SegPGD().value(logits, target, Progress(10, 10)), losses.flatten(1).mean(1) / 2)


def test_cospgd_weights_have_no_gradient() -> None:
    logits, target = random_logits("hard").requires_grad_(), random_target("hard")
    weights = F.cosine_similarity(logits.softmax(1), target.one_hot(torch.float64), dim=1).detach()
    expected = (weights * F.cross_entropy(logits, target.index, reduction="none")).flatten(1).mean(1)
    value = CosPGD().value(logits, target, PROGRESS)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), logits)[0] for v in (value, expected)))


def test_jensen_shannon_is_bounded_by_log_two() -> None:
    target = Target(2, index=torch.tensor([[0]]))
    for logit, expected in ((60.0, 0.0), (-60.0, math.log(2))):
        value = JensenShannon().value(torch.tensor([[[logit], [0.0]]]), target, PROGRESS)
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_margin_is_valid_for_two_classes_and_for_three() -> None:
    two = torch.tensor([[[2.0], [5.0]]])
    three = torch.tensor([[[2.0], [5.0], [4.0]]])
    free = Margin(confidence=math.inf)
    assert free.value(two, Target(2, index=torch.tensor([[0]])), PROGRESS).tolist() == [3.0]
    assert free.value(two, Target(2, index=torch.tensor([[1]])), PROGRESS).tolist() == [-3.0]
    assert free.value(three, Target(3, index=torch.tensor([[1]])), PROGRESS).tolist() == [-1.0]
    assert free.value(three, Target(3, index=torch.tensor([[2]])), PROGRESS).tolist() == [1.0]


def test_margin_is_clipped_at_its_confidence() -> None:
    logits, target = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]]), Target(2, index=torch.tensor([[0, 0]]))
    assert Margin(2.0).value(logits, target, PROGRESS).tolist() == [(2.0 - 9.0) / 2]
    assert Margin(2.0).value(logits, target, PROGRESS, targeted=True).tolist() == [(9.0 - 2.0) / 2]
    with pytest.raises(ValueError, match="confidence must be"):
        Margin(-1.0)


def test_margin_with_sigmoid_is_the_signed_logit() -> None:
    logits = torch.tensor([[[1.0, -2.0, 3.0]]])
    target = Target(1, soft=torch.tensor([[[1.0, 1.0, 0.0]]]), activation="sigmoid")
    assert Margin(math.inf).value(logits, target, PROGRESS).item() == pytest.approx((-1 + 2 + 3) / 3)


def test_rank_compares_candidates_where_the_value_does_not() -> None:
    # the second candidate is wrong at more voxels, yet fewer correct voxels are left for the masked loss
    target = Target(2, index=torch.zeros(2, 4, dtype=torch.int64))
    first = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[-1.0, -1.0, -1.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
    value, rank = get_objective("mce").value_and_rank(torch.stack([first, second]), target, PROGRESS)
    assert value[0] > value[1] and rank.tolist() == [0.0, 0.75]
    value, rank = get_objective("ce").value_and_rank(torch.stack([first, second]), target, PROGRESS)
    assert torch.equal(value, rank) and rank[1] > rank[0]
