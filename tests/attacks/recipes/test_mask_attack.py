# SPDX-License-Identifier: Apache-2.0
"""ASMA: its step in closed form, the point that it keeps, its cap, and wanted segmentations reached."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import ASMA, AdaptiveMultiplier, AdditiveNoise, Attack, ElasticDeformation
from monai_adversarial.attacks.objectives import Progress, Target, UnmatchedLogits
from monai_adversarial.attacks.targets import dilated_organ, empty_organ, eroded_organ
from monai_adversarial.models import AttackedModel
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

PROGRESS = Progress(0, 1)
# Foreground where the image is above 0.5.
MODEL = AttackedModel(LinearNetwork((-10.0, 10.0), (5.0, -5.0)), output_values="logits")


def halves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two samples: image, its segmentation, and the wanted one, of which two of three layers are there."""
    label = torch.zeros(2, 1, 6, 6, 6, dtype=torch.long)
    label[:, :, :3] = 1
    wanted = torch.zeros_like(label)
    wanted[:, :, 1:4] = 1
    image = torch.where(label > 0, 0.55, 0.45) + 0.02 * (random_image(tuple(label.shape)) - 0.5)
    return image, label, wanted


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_unmatched_logits_are_the_sum_of_the_paper(activation: str) -> None:
    logits = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    objective = UnmatchedLogits()
    if activation == "softmax":
        index = random_label((2, 4, 4, 4))
        target = Target(3, index=index)
        wrong = logits.argmax(dim=1) != index
        expected = (logits.gather(1, index[:, None])[:, 0] * wrong).flatten(1).sum(dim=1)
    else:
        masks = random_label((2, 3, 4, 4, 4), classes=2)
        target = Target(3, soft=masks.double(), activation="sigmoid")
        sign = 2 * masks - 1
        expected = (logits * sign * ((logits > 0) != (masks > 0))).flatten(1).sum(dim=1)
    value, rank = objective.value_and_rank(logits, target, PROGRESS, targeted=True)
    torch.testing.assert_close(value, -expected)
    assert not rank.requires_grad and ((-1 <= rank) & (rank <= 0)).all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    (known,) = torch.autograd.grad(-expected.sum(), logits)
    torch.testing.assert_close(gradient, known)


def test_iou_of_the_rank_is_that_of_the_masks() -> None:
    image, label, wanted = halves()
    logits = LinearNetwork((-10.0, 10.0), (5.0, -5.0))(image)
    target = Target(2, index=wanted[:, 0])
    rank = UnmatchedLogits().value_and_rank(logits, target, PROGRESS, targeted=True)[1]
    torch.testing.assert_close(rank, torch.full((2,), -0.5))  # two of four layers
    assert (
        UnmatchedLogits(0.5).succeeded(label, target).all() and not UnmatchedLogits(0.51).succeeded(label, target).any()
    )
    nothing = Target(2, index=torch.zeros_like(wanted[:, 0]))
    assert UnmatchedLogits(1.0).succeeded(torch.zeros_like(label), nothing).all()  # both empty: reached


@pytest.mark.parametrize("step", ["raw", "rms"])
def test_one_step_is_that_of_the_formula(step: str) -> None:
    image, _, wanted = halves()
    window = {"a_min": -100.0, "a_max": 300.0}
    network = LinearNetwork((-10.0, 10.0), (5.0, -5.0))
    model = AttackedModel(network, intensity=window, image_units="HU", output_values="logits")
    beta, tau = (1e-5, 1e-6) if step == "raw" else (1e-3, 1e-4)
    hu = image * 400 - 100
    # The first point is the clean image; with a goal of 1 the second, which is better or as good, is kept.
    result = ASMA(step=step, iou_goal=1.0, beta=beta, tau=tau, steps=1)(model, hu, wanted)
    # In shares of the window: d/dx of 10 x - 5 is 10 where foreground is missing, of 5 - 10 x it is -10.
    gradient = torch.zeros_like(image)
    gradient[:, :, 3], gradient[:, :, 0] = 10.0, -10.0
    if step == "rms":
        gradient = gradient / gradient[0].square().mean().sqrt()
    expected = 400 * (beta * 0.5 + tau) * gradient
    torch.testing.assert_close(result.parameters[0], expected, rtol=1e-4, atol=1e-4)


def test_the_squared_change_pulls_back() -> None:
    """Where nothing is unmatched, a raw step leads from the start toward the clean image by 2 P times the change."""
    image, label, _ = halves()
    start = 0.01 * torch.ones_like(image)
    attack = ASMA(0.1, "network", step="raw", beta=0.1, tau=0.05, steps=1)
    result = attack(MODEL, image, label, start=(start,))
    assert (result.iou == 1).all()
    torch.testing.assert_close(result.parameters[0], start * (1 - 2 * 0.15))


def test_the_smallest_change_above_the_goal_is_kept() -> None:
    image, label, wanted = halves()
    options = {"epsilon": 0.2, "units": "network", "beta": 0.02, "tau": 0.01, "steps": 30}
    easy = ASMA(iou_goal=0.7, **options)(MODEL, image, wanted, truth=label)
    hard = ASMA(iou_goal=1.0, **options)(MODEL, image, wanted, truth=label)
    assert easy.success.all() and hard.success.all()
    assert easy.iou is not None and hard.iou is not None
    assert (easy.iou >= 0.7).all() and (hard.iou == 1).all()
    lengths = [r.parameters[0].flatten(1).norm(dim=1) for r in (easy, hard)]
    assert (lengths[0] < lengths[1]).all()
    assert hard.truth_dice is not None and torch.allclose(hard.truth_dice, torch.full_like(hard.truth_dice, 2 / 3))
    # Out of reach: the best IoU, and success says so.
    small = ASMA(iou_goal=0.95, **{**options, "epsilon": 0.045})(MODEL, image, wanted)
    assert not small.success.any() and small.iou is not None and (small.iou >= 0.5).all()


def test_the_cap_is_kept_on_the_finished_image_and_more_of_it_reaches_further() -> None:
    image, _, wanted = halves()
    reached = []
    for epsilon in (0.045, 0.05, 0.08):
        attack = ASMA(epsilon, "network", beta=0.05, tau=0.02, steps=20, iou_goal=1.0)
        result = attack(MODEL, image, wanted)
        change = (result.adversarial - image).abs().amax()
        assert float(change) <= epsilon + 1e-6
        assert float(result.budgets["noise_linf"].values.max()) <= epsilon + 1e-6
        control, _ = result.random_control()
        there = result.clean_iou if result.iou is None else result.iou
        random = (MODEL.network(control).argmax(dim=1, keepdim=True) == wanted).float().mean()
        ours = (result.prediction == wanted).float().mean()
        assert ours >= random
        reached.append(float(there.mean()))  # type: ignore[union-attr]
    assert reached[0] < reached[1] < reached[2] == 1.0


def test_samples_do_not_depend_on_each_other() -> None:
    network, image = tiny_segmentation_network(), random_image((3, 1, 8, 8, 8))
    wanted = random_label((3, 1, 8, 8, 8))
    attack = ASMA(0.3, "network", beta=1e-2, tau=1e-2, steps=6)
    model = AttackedModel(network, output_values="logits")
    together = attack(model, image, wanted)
    for sample in range(3):
        alone = attack(model, image[sample : sample + 1], wanted[sample : sample + 1])
        torch.testing.assert_close(alone.adversarial, together.adversarial[sample : sample + 1])


def test_windows_lead_to_the_wanted_segmentation_too() -> None:
    image, _, wanted = halves()
    windows = SlidingWindowInferer((4, 4, 4), 2, 0.5)
    model = AttackedModel(LinearNetwork((-10.0, 10.0), (5.0, -5.0)), windows, output_values="logits")
    result = ASMA(0.2, "network", beta=0.02, tau=0.01, steps=30)(model, image, wanted)
    assert result.success.all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ASMA(units="HU"), ValueError, "epsilon must be given in units of 'HU'"),
        (lambda: ASMA(step="sign"), ValueError, "step must be one of 'raw', 'rms'"),
        (lambda: ASMA(iou_goal=1.5), ValueError, "iou_goal|goal must be a number from 0 to 1"),
        (lambda: ASMA(beta=-1.0), ValueError, "beta must be a finite number >= 0"),
        (lambda: ASMA()(MODEL, *halves()[::2]), ValueError, "intensity window"),
        (lambda: ASMA(5, "network", targeted=False)(MODEL, *halves()[::2]), ValueError, "targeted must be True"),
        (lambda: ASMA(5, "network", organs=(4,))(MODEL, *halves()[::2]), ValueError, "organs must name some of"),
        (
            lambda: Attack(ElasticDeformation(2.0), UnmatchedLogits(), AdaptiveMultiplier(), targeted=True)(
                MODEL, *halves()[::2], spacing=1.0
            ),
            TypeError,
            "AdaptiveMultiplier moves AdditiveNoise only",
        ),
        (
            lambda: Attack(AdditiveNoise(8, units="HU"), UnmatchedLogits(), AdaptiveMultiplier(), targeted=True)(
                AttackedModel(LinearNetwork(), image_units="HU"), halves()[0] * 400 - 100, halves()[2]
            ),
            ValueError,
            "value_range is missing",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()


def test_a_goal_that_is_met_before_the_attack_is_said() -> None:
    image, label, wanted = halves()
    with pytest.warns(UserWarning, match="iou_goal 0.4 is met by the clean prediction of sample 0, whose IoU is 0.5"):
        result = ASMA(0.1, "network", iou_goal=0.4, steps=1)(MODEL, image, wanted)
    assert result.success.all() and not result.parameters[0].any()


@pytest.mark.slow
def test_it_reaches_its_target_on_the_phantom_network() -> None:
    """The bundle's U-Net on a piece of a phantom of its test set: the liver without its rim."""
    from benchmarks.strength import bundle_network, phantom_cases
    from monai_adversarial.data.phantom import CLASS_NAMES

    image, label = (part[..., 8:72, 24:88, :] for part in phantom_cases(1, "cpu", seed=5000)[0])
    window = {"a_min": -160.0, "a_max": 240.0}
    model = AttackedModel(bundle_network("cpu"), intensity=window)
    liver, spacing = CLASS_NAMES.index("liver"), (3.2, 3.2, 4.0)
    with torch.no_grad():
        clean = model.network(image).argmax(dim=1, keepdim=True)
    wanted = eroded_organ(clean, liver, 10.0, spacing=spacing)
    attack = ASMA(organs=(liver,), iou_goal=0.75, beta=5e-3, tau=2.5e-3, steps=25)
    result = attack(model, image, wanted, truth=label)
    assert result.clean_iou is not None and result.iou is not None and result.truth_dice is not None
    assert float(result.clean_iou) < 0.6 and float(result.iou) >= 0.7
    assert float(result.budgets["noise_linf"].values.max()) <= 16 / 255 + 1e-6


def test_makers_and_the_attack_fit_together() -> None:
    image, label, _ = halves()
    for wanted in (empty_organ(label, 1), dilated_organ(label, 1, 1.0, spacing=1.0)):
        result = ASMA(0.2, "network", beta=0.02, tau=0.02, steps=30)(MODEL, image, wanted, truth=label)
        assert result.success.all() and result.truth_dice is not None
        assert (result.truth_dice < result.clean_truth_dice).all()
