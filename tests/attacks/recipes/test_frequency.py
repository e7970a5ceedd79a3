# SPDX-License-Identifier: Apache-2.0
"""VAFA, AdvDrop and SpectralAttack on the example."""

from __future__ import annotations

import pytest
import torch
from monai.metrics import SSIMMetric

from monai_adversarial.attacks import VAFA, AdvDrop, Attack, RandomSearch, SpectralAttack, SSIMPenalized
from monai_adversarial.attacks.objectives import Objective, Progress, Target, get_objective
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics.structural_similarity import structural_similarity
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.shown_window import window_share

SHORT = [VAFA(20, 16, steps=6, step_size=3), AdvDrop(steps=6, step_size=6), SpectralAttack(0.02, steps=6)]


@pytest.mark.parametrize("attack", SHORT, ids=lambda attack: type(attack).__name__)
def test_optimized_beats_random_of_the_same_size(attack: Attack) -> None:
    model, image, label = example_case()
    result = attack(model, image, label)
    clean = result.bound.scene.image
    for stream in (1, 2, 3):
        control = result.bound.random_control(result.bound.scene.generators(stream), result.parameters)
        random = result.bound.finished(clean, control)
        dice = SpectralAttack(0, steps=1)(model, random, label).clean_dice
        assert float(result.adversarial_dice) < float(dice)
    drawn = Attack(attack.perturbation, "dice", search=RandomSearch(), steps=6)(model, image, label)
    assert float(result.adversarial_dice) < float(drawn.adversarial_dice)


@pytest.mark.parametrize("attack", SHORT, ids=lambda attack: type(attack).__name__)
def test_a_batch_is_its_samples(attack: Attack) -> None:
    cases = [example_case(16, seed) for seed in (0, 1)]
    model = cases[0][0]
    image, label = (torch.cat([case[n].as_tensor() for case in cases]) for n in (1, 2))
    both = attack(model, image, label)
    for n, (_, one, truth) in enumerate(cases):
        alone = attack(model, one.as_tensor(), truth.as_tensor())
        assert torch.equal(alone.adversarial[0], both.adversarial[n])


def test_no_budget_is_no_change() -> None:
    model, image, label = example_case(16)
    for attack in (VAFA(0, steps=2), AdvDrop(0, steps=2), SpectralAttack(0, steps=2)):
        assert torch.equal(attack(model, image, label).adversarial, image)


def test_more_weight_on_ssim_is_more_similar() -> None:
    model, image, label = example_case(24)
    found = []
    for weight in (0.0, 1.0, 20.0):
        result = SpectralAttack(0.1, steps=8, ssim_weight=weight)(model, image, label)
        found.append(float(result.budgets["ssim"].values[0]))
    assert found[0] < found[2] and found[1] <= found[2]


def test_the_value_is_dice_minus_what_is_lost_of_ssim() -> None:
    """Of a search and of the query that asks about the same image."""
    model, image, label = example_case(16)
    model = AttackedModel(model.network, intensity=model.intensity, image_units="HU", precision="float32")
    weighted = SSIMPenalized("dice", weight=0.5, ssim_weight=3.0)
    result = VAFA(20, 8, steps=2, step_size=4, objective=weighted)(model, image, label)
    share = [window_share(one.as_tensor(), -160.0, 340.0) for one in (result.adversarial, image)]
    plain = VAFA(20, 8, steps=1, objective="dice", random_start=False)
    dice = plain(model, result.adversarial, label).objective_history[0]  # of the clean pass: the image as it is
    expected = 0.5 * dice - 3.0 * (1 - structural_similarity(*share))
    torch.testing.assert_close(result.objective, expected, atol=2e-5, rtol=0)
    by_queries = Attack(plain.perturbation, weighted, RandomSearch(), steps=3)(model, image, label)
    share[0] = window_share(by_queries.adversarial.as_tensor(), -160.0, 340.0)
    dice = plain(model, by_queries.adversarial, label).objective_history[0]
    expected = 0.5 * dice - 3.0 * (1 - structural_similarity(*share))
    torch.testing.assert_close(by_queries.objective, expected, atol=2e-5, rtol=0)


def test_ssim_is_that_of_the_formula() -> None:
    from skimage.metrics import structural_similarity as peer

    generator = torch.Generator().manual_seed(0)
    clean = torch.rand((1, 1, 16, 16, 16), generator=generator)
    changed = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "truncate": 2.0, "full": True}
    _, expected = peer(clean[0, 0].numpy(), changed[0, 0].numpy(), use_sample_covariance=False, **settings)
    found = structural_similarity(changed, clean, window_size=7)
    assert float(found) == pytest.approx(expected[3:-3, 3:-3, 3:-3].mean(), abs=1e-4)
    for size in (3, 7):
        same = SSIMMetric(3, data_range=1.0, win_size=size)(changed, clean)
        torch.testing.assert_close(structural_similarity(changed, clean, size), same[:, 0], atol=1e-5, rtol=0)
    changed.requires_grad_()
    structural_similarity(changed, clean).sum().backward()
    assert changed.grad is not None and bool(changed.grad.isfinite().all())


def test_only_sums_over_voxels_are_penalized() -> None:
    class Whole(Objective):
        def value(
            self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
        ) -> torch.Tensor:
            return logits.flatten(1).amax(dim=1)

    with pytest.raises(TypeError, match="AdditiveObjective"):
        SSIMPenalized(Whole())
    with pytest.raises(ValueError, match="window_size must be odd"):
        SSIMPenalized(window_size=4)
    assert type(SSIMPenalized("dice_ce").objective) is type(get_objective("dice_ce"))
