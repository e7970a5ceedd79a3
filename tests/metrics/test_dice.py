"""One Dice for attacks, handlers and studies."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from monai.metrics import DiceMetric, compute_dice

from monai_adversarial.attacks import FGSM
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics import RobustDice, mean_foreground_dice, organ_dice, success, success_rule
from monai_adversarial.metrics.dice import class_dice, mean_of_defined
from monai_adversarial.metrics.success import success_count


def class_maps(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, classes, (3, 1, 6, 5, 4), generator=generator) for _ in range(2))  # type: ignore


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels[:, 0], classes).movedim(-1, 1)


def test_exclusive_classes_equal_monai() -> None:
    prediction, reference = class_maps(4)
    expected = compute_dice(one_hot(prediction, 4), one_hot(reference, 4), include_background=False)
    assert torch.allclose(class_dice(prediction, reference, [1, 2, 3], 4, "softmax"), expected)
    assert torch.allclose(class_dice(one_hot(prediction, 4), reference, [1, 2, 3], 4, "softmax"), expected)
    metric = DiceMetric(include_background=False, reduction="mean_channel")
    metric(one_hot(prediction, 4), one_hot(reference, 4))
    assert torch.allclose(mean_foreground_dice(prediction, reference, 4, "softmax"), metric.aggregate())


def test_independent_channels_equal_monai() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, reference = (torch.rand((2, 3, 6, 6), generator=generator) > 0.5 for _ in range(2))
    expected = compute_dice(prediction, reference, include_background=True)
    assert torch.allclose(class_dice(prediction, reference, [0, 1, 2], 3, "sigmoid"), expected)


def test_empty_organs() -> None:
    prediction = torch.tensor([[[0, 1, 0, 3]]])
    reference = torch.tensor([[[0, 1, 2, 0]]])
    found = class_dice(prediction, reference, [1, 2, 3, 4], 5, "softmax")[0].tolist()
    assert found[:3] == [1.0, 0.0, 0.0] and math.isnan(found[3])
    assert mean_foreground_dice(prediction, reference, 5, "softmax").item() == pytest.approx(1 / 3)
    assert mean_foreground_dice(prediction, reference, 5, "softmax", channels=[1, 4]).item() == 1.0
    assert math.isnan(mean_foreground_dice(prediction, reference, 5, "softmax", channels=[4]).item())


def test_voxels_that_do_not_count() -> None:
    prediction, reference = class_maps(3)
    valid = torch.ones_like(reference, dtype=torch.bool)
    valid[..., 0] = False
    rest = class_dice(prediction[..., 1:], reference[..., 1:], [1, 2], 3, "softmax")
    assert torch.equal(class_dice(prediction, reference, [1, 2], 3, "softmax", valid), rest)


def test_one_case_by_names() -> None:
    prediction, reference = class_maps(3)
    found = organ_dice(prediction[0], reference[0], {1: "liver", 2: "spleen"}, 3, "softmax")
    assert list(found) == ["liver", "spleen"]
    assert list(found.values()) == class_dice(prediction, reference, [1, 2], 3, "softmax")[0].tolist()
    with pytest.raises(ValueError, match="must have 1 or 3 channels on one grid"):
        organ_dice(prediction[0, :, 1:], reference[0], {1: "liver"}, 3, "softmax")
    with pytest.raises(ValueError, match="must be 3 masks of 0 and 1"):
        organ_dice(torch.full((3, 6, 5, 4), 0.4), reference[0], {1: "liver"}, 3, "sigmoid")


def test_means_skip_what_is_not_defined() -> None:
    assert mean_of_defined([0.25, math.nan, None, 0.75]) == 0.5
    assert math.isnan(mean_of_defined([None, math.nan]))


def test_success_is_one_rule_for_numbers_and_tensors() -> None:
    assert success(0.8, 0.39, 0.5) and not success(0.8, 0.4, 0.5)
    assert success(0.8, 0.9, 0.9, targeted=True) and not success(0.8, 0.89, 0.9, targeted=True)
    assert not success(math.nan, 0.1, 0.5) and not success(0.8, math.nan, 0.5)
    found = success(torch.tensor([0.8, torch.nan]), torch.tensor([0.39, 0.1]), 0.5)
    assert torch.equal(found, torch.tensor([True, False]))
    assert success_rule(0.5) == "Dice below 0.5 times the clean Dice"
    assert success_rule(0.9, targeted=True) == "Dice with the wanted segmentation of at least 0.9"


def test_an_image_without_a_score_is_no_failed_attack() -> None:
    clean, adversarial = torch.tensor([0.9, 0.9, torch.nan]), torch.tensor([0.1, 0.8, torch.nan])
    succeeded = torch.as_tensor(success(clean, adversarial, 0.5))
    assert success_count(succeeded, clean, adversarial) == "1 of 2 (1 more without a score)"
    assert success_count(succeeded[:2], clean[:2], adversarial[:2]) == "1 of 2"
    model, image, label = example_case(16)
    result = FGSM(8, "HU")(model.replace(ignore_index=255), image, label * 0 + 255)
    assert "success in 0 of 0 (1 more without a score)" in str(result)


def test_a_worst_case_of_other_clean_scores_is_refused() -> None:
    clean, robust = torch.tensor([[0.9], [0.8]]).double(), torch.tensor([[0.2], [0.3]]).double()
    first = RobustDice(("liver",), clean, robust)
    assert torch.equal(RobustDice.worst([first, replace(first, robust=robust + 0.1)]).robust, robust)
    with pytest.raises(ValueError, match="needs the same clean scores .* their means are 0.850 and 0.950"):
        RobustDice.worst([first, replace(first, clean=clean + 0.1)])
