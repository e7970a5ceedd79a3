# SPDX-License-Identifier: Apache-2.0
"""What all losses on logits share: formulas by hand, gradients, balance, deep supervision, precision, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss
from torch import nn

from monai_adversarial.losses.consistency import ConsistencyLoss
from monai_adversarial.losses.distillation import DistillationLoss
from monai_adversarial.losses.hat import HATLoss
from monai_adversarial.losses.mart import MARTLoss
from monai_adversarial.losses.trades import TRADESLoss
from tests.losses.formulas import class_map, divergence, probabilities, voxels

CLEAN = np.array([[0.2, -0.4, 1.0], [1.5, 0.3, -0.7]])
ATTACKED = np.array([[-0.3, 0.5, 0.4], [0.1, 1.2, -0.2]])
HELPER = np.array([[-0.8, 0.9, 0.1], [-0.6, 1.6, 0.2]])
P, Q, H = probabilities(CLEAN), probabilities(ATTACKED), probabilities(HELPER)
LABEL = [2, 0]


class _HATWithItsHelper(nn.Module):
    """HATLoss called like the others, the helper's logits made from the adversarial ones."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.loss = HATLoss(**settings)

    def forward(self, clean: Any, adversarial: Any, label: Any, mask: Any = None) -> torch.Tensor:
        several = isinstance(adversarial, (list, tuple))
        helper = [1.5 * part for part in adversarial] if several else 1.5 * adversarial
        return self.loss(clean, adversarial, label, mask, helper_logits=helper, standard_logits=clean)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "trades": TRADESLoss,
    "mart": MARTLoss,
    "maadvt": lambda **settings: MARTLoss(form="plain", **settings),
    "hat": _HATWithItsHelper,
    "distillation": lambda **settings: DistillationLoss(temperature=2.0, **settings),
}
ALL = {**LOSSES, "consistency": ConsistencyLoss}


def logits(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(shape: tuple[int, ...], classes: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def test_trades_by_hand():
    expected = 6.0 * np.mean([divergence(p, q) for p, q in zip(P, Q, strict=True)])
    found = TRADESLoss(beta=6.0)(voxels(CLEAN), voxels(ATTACKED), class_map(LABEL))
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["boosted", "plain"])
def test_mart_by_hand(form):
    values = []
    for p, q, y in zip(P, Q, LABEL, strict=True):
        task = -math.log(q[y])
        if form == "boosted":
            task -= math.log(1 - max(q[k] for k in range(3) if k != y))
        values.append(task + 5.0 * divergence(p, q) * (1 - p[y]))
    found = MARTLoss(beta=5.0, form=form)(voxels(CLEAN), voxels(ATTACKED), class_map(LABEL))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-12)


def test_hat_by_hand():
    standard = np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 3.0]])  # sees classes 1 and 2
    task = np.mean([-math.log(p[y]) for p, y in zip(P, LABEL, strict=True)])
    regularizer = np.mean([divergence(p, q) for p, q in zip(P, Q, strict=True)])
    helper = np.mean([-math.log(H[0][1]), -math.log(H[1][2])])
    others = {"helper_logits": voxels(HELPER), "standard_logits": voxels(standard)}
    loss = HATLoss(beta=3.0, gamma=0.5)
    assert loss.replaces_task_loss
    found = loss(voxels(CLEAN), voxels(ATTACKED), class_map(LABEL), **others)
    assert float(found) == pytest.approx(task + 3.0 * regularizer + 0.5 * helper, rel=1e-12)
    loss = HATLoss(beta=3.0, gamma=0.5, task_weight=0)
    assert not loss.replaces_task_loss and HATLoss.replaces_task_loss
    found = loss(voxels(CLEAN), voxels(ATTACKED), **others)
    assert float(found) == pytest.approx(3.0 * regularizer + 0.5 * helper, rel=1e-12)


def test_distillation_by_hand_and_the_teacher_gets_no_gradient():
    soft_teacher, soft_student = probabilities(CLEAN / 4), probabilities(ATTACKED / 4)
    expected = 16 * np.mean([divergence(p, q) for p, q in zip(soft_teacher, soft_student, strict=True)])
    student, teacher = voxels(ATTACKED).requires_grad_(), voxels(CLEAN).requires_grad_()
    found = DistillationLoss(temperature=4.0)(student, teacher)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert teacher.grad is None and float(student.grad.abs().sum()) > 0


def test_distillation_only_where_the_teacher_is_sure():
    values = [divergence(p, q) for p, q in zip(P, Q, strict=True)]
    assert P[0].max() < 0.6 < P[1].max() < 0.9
    student, teacher = voxels(ATTACKED), voxels(CLEAN)
    assert float(DistillationLoss(confidence=0.6)(student, teacher)) == pytest.approx(values[1], rel=1e-12)
    assert float(DistillationLoss(confidence=0.9)(student, teacher)) == 0.0
    # a temperature changes the divergence, not who is sure
    warm = DistillationLoss(temperature=3.0, confidence=0.6)(student, teacher)
    expected = 9 * divergence(probabilities(CLEAN[1] / 3), probabilities(ATTACKED[1] / 3))
    assert float(warm) == pytest.approx(expected, rel=1e-12)
    first = torch.tensor([1, 0])[None, None, :, None]
    assert float(DistillationLoss()(student, teacher, mask=first)) == pytest.approx(values[0], rel=1e-12)
    assert float(DistillationLoss(confidence=0.6)(student, teacher, mask=first)) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_one_sigmoid_channel_equals_two_softmax_classes(name):
    clean, adversarial, label = logits((2, 1, 3, 4), 0), logits((2, 1, 3, 4), 1), labels((2, 1, 3, 4), 2)

    def two(one):
        return torch.cat([torch.zeros_like(one), one], dim=1)

    for balanced in (False, True):
        loss = LOSSES[name](balanced=balanced)
        torch.testing.assert_close(loss(clean, adversarial, label), loss(two(clean), two(adversarial), label))


@pytest.mark.parametrize("name", LOSSES)
def test_independent_channels_are_the_mean_of_one_channel_networks(name):
    clean, adversarial = logits((2, 3, 4, 4), 0), logits((2, 3, 4, 4), 1)
    label = labels((2, 3, 4, 4), 2)
    loss = LOSSES[name](activation="sigmoid")
    parts = [loss(clean[:, k : k + 1], adversarial[:, k : k + 1], label[:, k : k + 1]) for k in range(3)]
    torch.testing.assert_close(loss(clean, adversarial, label), torch.stack(parts).mean())


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_class_maps_one_hot_labels_and_soft_one_hot_labels_agree(name, balanced):
    clean, adversarial, label = logits((2, 3, 4, 4), 0), logits((2, 3, 4, 4), 1), labels((2, 1, 4, 4), 3)
    loss = LOSSES[name](balanced=balanced)
    one_hot = F.one_hot(label[:, 0], 3).movedim(-1, 1)
    expected = loss(clean, adversarial, label)
    for same in (label.float(), label.to(torch.uint8), one_hot, one_hot.double(), MetaTensor(one_hot.float())):
        torch.testing.assert_close(loss(clean, adversarial, same), expected)
    softer = 0.9 * one_hot + 0.1 * one_hot.roll(1, dims=1)
    changes = balanced or name in ("mart", "maadvt", "hat")
    assert torch.allclose(loss(clean, adversarial, softer), expected, rtol=1e-4) != changes


def test_soft_labels_by_hand():
    soft = np.array([[0.1, 0.2, 0.7], [0.6, 0.4, 0.0]])
    values = []
    for p, q, y in zip(P, Q, soft, strict=True):
        strongest = max(q[k] for k in range(3) if k != y.argmax())
        values.append(
            -float(y @ np.log(q)) - math.log(1 - strongest) + 6.0 * divergence(p, q) * (1 - float(y @ p)),
        )
    found = MARTLoss()(voxels(CLEAN), voxels(ATTACKED), voxels(soft))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 1, 3, 2), (2, 3, 3, 2), (1, 2, 2, 3, 2)])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name, shape):
    clean, adversarial = logits(shape, 0).requires_grad_(), logits(shape, 1).requires_grad_()
    label = labels((shape[0], 1, *shape[2:]), max(shape[1], 2))
    for settings in ({}, {"activation": "sigmoid"}):
        loss = ALL[name](**settings)
        if name in ("distillation", "consistency"):  # no gradient reaches the other prediction
            loss = loss if name == "distillation" else lambda x, z, y, f=loss: f(z, x, y)
            assert torch.autograd.gradcheck(lambda x, f=loss: f(x, clean.detach(), label), (adversarial,))
        else:
            assert torch.autograd.gradcheck(lambda x, z, f=loss: f(x, z, label), (clean, adversarial))


@pytest.mark.parametrize("name", ["trades", "distillation", "consistency"])
def test_a_pure_divergence_is_zero_with_zero_gradient_for_equal_predictions(name):
    clean = logits((2, 3, 4, 4, 4), 0, torch.float32)
    adversarial = clean.clone().requires_grad_()
    value = ALL[name]()(adversarial, clean) if name == "distillation" else ALL[name]()(clean, adversarial)
    value.backward()
    assert float(value.detach()) == 0.0 and float(adversarial.grad.abs().max()) < 1e-8
    assert float(ALL[name]()(clean, logits((2, 3, 4, 4, 4), 1, torch.float32))) > 0.01


def test_stop_gradient_makes_the_clean_prediction_a_constant():
    for make in (TRADESLoss, ConsistencyLoss):
        gradients = []
        for stop in (False, True):
            clean, adversarial = logits((1, 2, 3, 3), 0).requires_grad_(), logits((1, 2, 3, 3), 1).requires_grad_()
            make(stop_gradient=stop)(clean, adversarial).backward()
            assert (clean.grad is None) == stop
            gradients.append(adversarial.grad)
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_a_balanced_loss_does_not_depend_on_the_size_of_the_organ(name):
    """Organ and background are homogeneous; only their numbers of voxels change."""
    background, organ = (np.array([2.0, -1.0]), np.array([1.0, 0.0])), (np.array([0.0, 1.0]), np.array([0.5, 0.3]))

    def value(organ_voxels: int, balanced: bool) -> float:
        rows = [[organ[k] if v < organ_voxels else background[k] for v in range(12)] for k in (0, 1)]
        label = class_map([1] * organ_voxels + [0] * (12 - organ_voxels))
        return float(LOSSES[name](balanced=balanced)(voxels(rows[0]), voxels(rows[1]), label))

    assert value(1, True) == pytest.approx(value(6, True), rel=1e-12)
    assert value(6, True) == pytest.approx(value(6, False), rel=1e-12)
    assert abs(value(1, False) - value(6, False)) > 1e-3


@pytest.mark.parametrize("settings", [{}, {"balanced": True}, {"activation": "sigmoid", "balanced": True}])
@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_is_the_same_as_cropping(name, settings):
    clean, adversarial, label = logits((2, 3, 6, 5), 0), logits((2, 3, 6, 5), 1), labels((2, 1, 6, 5), 3)
    mask = torch.zeros(2, 1, 6, 5, dtype=torch.bool)
    mask[..., 1:4, :] = True
    loss = LOSSES[name](**settings)
    expected = loss(clean[..., 1:4, :], adversarial[..., 1:4, :], label[..., 1:4, :])
    for same in (mask, mask.float()):
        torch.testing.assert_close(loss(clean, adversarial, label, mask=same), expected)
    assert float(loss(clean, adversarial, label, mask=torch.zeros_like(mask))) == 0.0
    assert not torch.allclose(loss(clean, adversarial, label), expected)


def test_without_a_label_the_clean_decision_balances():
    clean, adversarial = logits((2, 3, 4, 4), 0), logits((2, 3, 4, 4), 1)
    loss = TRADESLoss(balanced=True)
    expected = loss(clean, adversarial, clean.argmax(dim=1, keepdim=True))
    torch.testing.assert_close(loss(clean, adversarial), expected)
    assert not torch.allclose(expected, TRADESLoss()(clean, adversarial))
    loss = TRADESLoss(balanced=True, activation="sigmoid")
    torch.testing.assert_close(loss(clean, adversarial), loss(clean, adversarial, (clean > 0).long()))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_the_batch_is_the_mean_of_its_samples(name, balanced):
    clean, adversarial, label = logits((3, 3, 4, 4), 0), logits((3, 3, 4, 4), 1), labels((3, 1, 4, 4), 3)
    label[0] = 0
    loss = LOSSES[name](balanced=balanced)
    parts = [loss(clean[k : k + 1], adversarial[k : k + 1], label[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(loss(clean, adversarial, label), torch.stack(parts).mean())


@pytest.mark.parametrize("name", [name for name in ALL if name != "hat"])
def test_deep_supervision_is_the_mean_of_the_levels_with_the_label_resized_as_monai_does(name):
    sizes = ((6, 8), (3, 4), (2, 2))
    clean = [logits((2, 3, *size), k) for k, size in enumerate(sizes)]
    adversarial = tuple(logits((2, 3, *size), 9 + k) for k, size in enumerate(sizes))
    label = labels((2, 1, 6, 8), 3)
    loss = ALL[name]()
    parts: list[torch.Tensor] = []

    class Single(nn.Module):
        """Called by MONAI with the label of each level."""

        def forward(self, _: torch.Tensor, level_label: torch.Tensor) -> torch.Tensor:
            number = len(parts)
            parts.append(loss(clean[number], adversarial[number], level_label.double()))
            return parts[-1].float()

    DeepSupervisionLoss(Single(), weight_mode="same")(clean, label.float())
    assert len(parts) == 3
    torch.testing.assert_close(loss(clean, adversarial, label), torch.stack(parts).mean())
    torch.testing.assert_close(loss(clean[:1], adversarial[:1], label), parts[0])


def test_deep_supervision_of_hat_resizes_what_the_standard_network_sees_at_full_size():
    sizes = ((6, 8), (3, 4))
    clean, adversarial, helper = ([logits((2, 3, *size), 10 * n + k) for k, size in enumerate(sizes)] for n in range(3))
    label, standard = labels((2, 1, 6, 8), 3), logits((2, 3, 6, 8), 40)
    expected = 2.0 * TRADESLoss(beta=1.0)(clean, adversarial)
    for weight, parts, reference in ((1.0, clean, label), (0.5, helper, standard.argmax(dim=1, keepdim=True))):
        small = F.interpolate(reference.double(), size=sizes[1], mode="nearest-exact").long()
        terms = [F.cross_entropy(parts[0], reference[:, 0]), F.cross_entropy(parts[1], small[:, 0])]
        expected = expected + weight * torch.stack(terms).mean()
    for seen in (standard, [standard, clean[1]]):
        loss = HATLoss(beta=2.0, gamma=0.5)
        found = loss(clean, adversarial, label, helper_logits=helper, standard_logits=seen)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32_also_under_autocast(name):
    clean, adversarial = logits((2, 3, 6, 6), 0, torch.float32), logits((2, 3, 6, 6), 1, torch.float32)
    label = labels((2, 1, 6, 6), 3)
    loss = ALL[name]()
    for dtype in (torch.float16, torch.bfloat16):
        expected = loss(clean.to(dtype).float(), adversarial.to(dtype).float(), label)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(clean.to(dtype), adversarial.to(dtype), label)
        assert found.dtype == torch.float32
        # the helper's logits are multiplied in half precision before they come here
        tolerance = 0.02 if name == "hat" else 1e-6
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [60.0, 3000.0])
@pytest.mark.parametrize("name", ALL)
def test_sure_networks_give_finite_losses_and_gradients(name, size):
    """Right and sure, wrong and sure: float32 logits of thousands, as after defensive distillation."""
    rows = size * np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 0.0]])
    clean = voxels(rows, torch.float32).requires_grad_()
    adversarial = voxels(-rows, torch.float32).requires_grad_()
    for activation in ("softmax", "sigmoid"):
        value = ALL[name](activation=activation)(clean, adversarial, class_map([0, 0, 1]))
        gradients = torch.autograd.grad(value, (clean, adversarial), allow_unused=True)
        assert torch.isfinite(value)
        assert all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)


def test_metatensors_are_taken_and_plain_tensors_returned():
    clean, adversarial, label = logits((1, 2, 3, 3), 0), logits((1, 2, 3, 3), 1), labels((1, 1, 3, 3), 2)
    for name in ALL:
        found = ALL[name]()(MetaTensor(clean), MetaTensor(adversarial), MetaTensor(label))
        assert type(found) is torch.Tensor and found.ndim == 0
        torch.testing.assert_close(found, ALL[name]()(clean, adversarial, label))


def test_who_replaces_the_task_loss():
    assert MARTLoss.replaces_task_loss and HATLoss.replaces_task_loss
    assert not (TRADESLoss.replaces_task_loss or DistillationLoss.replaces_task_loss)
    assert not ConsistencyLoss.replaces_task_loss


def test_settings_are_shown():
    assert repr(TRADESLoss(2.0)) == "TRADESLoss(activation=None, balanced=False, beta=2.0, stop_gradient=False)"


def test_bad_arguments_are_one_sentence():
    for make in (TRADESLoss, MARTLoss, HATLoss):
        with pytest.raises(ValueError, match="beta must be a finite number >= 0, got -1"):
            make(beta=-1)
        with pytest.raises(ValueError, match="activation must be one of 'softmax', 'sigmoid', got 'tanh'"):
            make(activation="tanh")
    with pytest.raises(ValueError, match="form must be one of 'boosted', 'plain', got 'other'"):
        MARTLoss(form="other")
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got 0"):
        DistillationLoss(temperature=0)
    with pytest.raises(ValueError, match="confidence must be a number from 0 to 1, got 2"):
        DistillationLoss(confidence=2)
    with pytest.raises(ValueError, match="mse_weight and contour_weight must not both be 0"):
        ConsistencyLoss(0, 0)


def test_bad_tensors_are_one_sentence():
    clean, label = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    loss = TRADESLoss()
    with pytest.raises(
        ValueError, match=r"adversarial_logits must have the shape of clean_logits, \(2, 3, 4, 4\), got"
    ):
        loss(clean, clean[:1])
    with pytest.raises(ValueError, match="adversarial_logits must have the shape of clean_logits"):
        loss([clean, clean], [clean])
    with pytest.raises(ValueError, match="clean_logits must be floating point logits.*got dict"):
        loss({"out": clean}, clean)
    with pytest.raises(ValueError, match="clean_logits must have at least one level"):
        loss([], [])
    with pytest.raises(ValueError, match=r"label must have shape \(2, 1, 4, 4\) or \(2, 3, 4, 4\).*got \(2, 2, 4, 4\)"):
        loss(clean, clean, label.expand(2, 2, 4, 4))
    with pytest.raises(ValueError, match=r"label must have shape .* got \(2, 1, 2, 2\)"):
        loss(clean, clean, label[..., :2, :2])
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 1, 4, 4\) to fit the logits, got \(2, 4, 4\)"):
        ConsistencyLoss()(clean, clean, mask=label[:, 0])
    with pytest.raises(ValueError, match="needs logits of at least 2 channels, got 1"):
        TRADESLoss(activation="softmax")(clean[:, :1], clean[:, :1])
    with pytest.raises(ValueError, match="MARTLoss needs a label"):
        MARTLoss()(clean, clean, None)
    with pytest.raises(ValueError, match="HATLoss needs helper_logits"):
        HATLoss()(clean, clean, label)
    with pytest.raises(ValueError, match="HATLoss needs a label, got None: with task_weight=0"):
        HATLoss()(clean, clean, helper_logits=clean, standard_logits=clean)
