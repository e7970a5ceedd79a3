# SPDX-License-Identifier: Apache-2.0
"""The attacker who knows the detector gets past it, and no table hides it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import (
    DetectionRow,
    DetectionTable,
    Evading,
    FrequencyProfile,
    GaussianDensity,
    Outcome,
    evaluate_detector,
)
from monai_adversarial.models import AttackedModel

SIZE = 16


@pytest.fixture(scope="module")
def frequency():
    model, image, label = example_case(SIZE)
    detector = FrequencyProfile(model, bands=4).fit(example_case(SIZE, seed)[1] for seed in range(1, 13))
    detector.calibrate((example_case(SIZE, seed)[1] for seed in range(13, 23)), 0.1)
    return detector, image, label


def test_the_term_is_the_logarithm_of_the_suspicion(frequency) -> None:
    detector, image, label = frequency
    objective = Evading("dice_ce", detector, weight=2.0, margin=0.5)
    result = PGD(20, units="HU", steps=1)(detector.model, image, label)
    changed = (image + 30 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).as_tensor()
    excess = detector.excess(changed)
    assert float(excess) > 0
    term = objective.image_term(result.bound, changed)
    assert float(term) == pytest.approx(-2.0 * float((1 + excess + 0.5).log()), rel=1e-5)
    ordinary = Evading("dice_ce", detector, margin=0.0).image_term(result.bound, image.as_tensor())
    assert float(ordinary) == (0.0 if bool(detector.accept(image)) else float(ordinary))


def test_who_knows_the_detector_gets_past_it(frequency) -> None:
    detector, image, label = frequency
    row = evaluate_detector(detector, PGD(8, units="HU", steps=10), [(image, label)], weights=[0.1])
    assert bool(row.unaware.wrong.all()) and not bool(row.unaware.accepted.any())
    assert bool(row.adaptive.wrong.all())
    assert float(row.adaptive.scores) < float(row.unaware.scores)
    numbers = row.numbers(0.05)
    assert numbers["adaptive_adversarial_risk"] >= numbers["unaware_adversarial_risk"]
    assert row.adaptive.attackers[0] in row.adaptive.tried and row.unaware.tried == ()
    assert row.adaptive.tried == (
        "unaware",
        "evading, weight 0.1",
        "hiding, weight 0.1",
        "orthogonal",
        "misplacing, weight 0.1",
    )
    assert "| adaptive |" in str(DetectionTable([row])) and "| unaware |" in str(DetectionTable([row]))


def test_a_table_without_the_adaptive_column_cannot_be_had(frequency) -> None:
    one = torch.tensor([0.5])
    yes = torch.tensor([True])
    row = DetectionRow("gaussian", "PGD", one, yes, Outcome(one, yes, yes))
    not_adaptive = dataclasses.replace(row, adaptive=Outcome(one, yes, yes))  # the unaware one again
    for bad in (row, not_adaptive):
        for show in (str, DetectionTable.records, lambda table: f"{table}"):
            with pytest.raises(ValueError, match="adaptive is missing for gaussian under PGD"):
                show(DetectionTable([bad]))
    assert "0.5" not in repr(DetectionTable([row]))


def test_windows_and_features_are_attacked_as_well(windowed, cases) -> None:
    detector = GaussianDensity(windowed).fit(cases[:8])
    detector.calibrate(cases[8:17], 0.1)
    label = example_case(SIZE, 20)[2].clamp_max(2)
    unaware = PGD(30, units="HU", steps=4)(windowed, cases[20], label)
    aware = PGD(30, units="HU", steps=4, objective=Evading("dice_ce", detector, weight=10.0))
    found = aware(windowed, cases[20], label, start=unaware.parameters)
    assert float(detector.score(found.adversarial)) < float(detector.score(unaware.adversarial))
    assert float(found.budgets["noise_linf"].values) <= 30


def test_what_is_told_wrongly_is_refused(frequency) -> None:
    detector, image, label = frequency
    with pytest.raises(ValueError, match="must have a threshold"):
        Evading("dice_ce", FrequencyProfile(detector.model))
    with pytest.raises(TypeError, match="detector"):
        Evading("dice_ce", "gaussian")
    attack = PGD(8, units="HU", steps=1)
    seen = example_case(SIZE, 1)
    with pytest.raises(ValueError, match="fitted to or calibrated on"):
        evaluate_detector(detector, attack, [seen[1:]])
    with pytest.raises(ValueError, match="weights must hold at least one"):
        evaluate_detector(detector, attack, [(image, label)], weights=[])
    with pytest.raises(ValueError, match="attackers must hold 'evading'"):
        evaluate_detector(detector, attack, [(image, label)], attackers=["hiding"])
    with pytest.raises(ValueError, match="cases must hold at least one batch"):
        evaluate_detector(detector, attack, [])


class OneAnswer(torch.nn.Module):
    """Class 1, whatever is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0, 1e-3]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(1, 2, 3))[:, None] * self.weight + torch.tensor([0.0, 5.0])


def test_an_image_that_was_misread_before_the_attack_is_wrong_under_it() -> None:
    model = AttackedModel(
        OneAnswer(),
        intensity={"a_min": 0, "a_max": 1, "b_min": 0, "b_max": 1},
        image_units="network",
        task="classification",
    )
    images = torch.rand(26, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    detector = FrequencyProfile(model, bands=4).fit(images[:12].split(4))
    detector.calibrate(images[12:24].split(4), 0.1)
    cases = [(images[24:], torch.tensor([0, 1]))]
    row = evaluate_detector(detector, PGD(0.01, "network", steps=2), cases, weights=[0.1])
    assert row.unaware.wrong.tolist() == row.adaptive.wrong.tolist() == [True, False]
