# SPDX-License-Identifier: Apache-2.0
"""Attacks on the acquisition by gradients and by queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_adversarial.attacks import (
    Attack,
    CTAcquisition,
    CTAcquisitionAttack,
    Cupping,
    DoseReduction,
    GantryTilt,
    Ghosting,
    LineMotion,
    MRIAcquisition,
    MRIAcquisitionAttack,
    RandomSearch,
    ReconstructionKernel,
    RingArtifact,
    SliceThickness,
    SpikeArtifact,
    WindowShift,
)
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel

# Small enough that the example's network keeps some of its Dice.
CT = (
    Cupping(6),
    RingArtifact(6, 6, 3.0),
    DoseReduction(0.7, 6),
    ReconstructionKernel(0.15),
    SliceThickness(4),
    WindowShift(4, 0.03),
)
MRI = (LineMotion(1.0, 0.5), Ghosting(0.02), SpikeArtifact(0.02))
CASES = [(CTAcquisitionAttack, CT), (MRIAcquisitionAttack, MRI)]


def dice_of(attack: Attack, model: Any, image: Any, label: Any) -> float:
    return float(attack(model, image, label).adversarial_dice)


@pytest.mark.parametrize(("kind", "blocks"), CASES)
def test_optimized_beats_random_of_the_same_size_and_queries(kind: Any, blocks: Any) -> None:
    model, image, label = example_case(24)
    result = kind(blocks, steps=6)(model, image, label)
    clean = result.bound.scene.image
    for stream in range(3):
        control = result.bound.random_control(result.bound.scene.generators(stream), result.parameters)
        random = result.bound.finished(clean, control)
        alone = kind([WindowShift(0, 0)], steps=1)(model, random, label)
        assert float(result.adversarial_dice) < float(alone.clean_dice)
    drawn = kind(blocks, queries=40, search=RandomSearch())(model, image, label)
    asked = kind(blocks, queries=40)(model, image, label)
    assert drawn.backwards == asked.backwards == 0 and drawn.forwards == asked.forwards == 42
    assert float(result.adversarial_dice) < float(drawn.adversarial_dice) < float(drawn.clean_dice)
    assert float(asked.adversarial_dice) < float(drawn.adversarial_dice)


@pytest.mark.parametrize(("kind", "blocks"), CASES)
def test_wider_ranges_and_more_queries_do_more(kind: Any, blocks: Any) -> None:
    model, image, label = example_case(24)
    attack = kind([block for block in blocks if not isinstance(block, SliceThickness)], steps=6)
    found = [dice_of(attack.scaled(budget), model, image, label) for budget in (0.0, 0.3, 1.0, 3.0)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0]
    asked = [dice_of(kind(blocks, queries=n, search=RandomSearch()), model, image, label) for n in (3, 6, 16)]
    assert asked[2] <= asked[1] <= asked[0]


def test_nothing_allowed_is_no_change() -> None:
    model, image, label = example_case(16)
    attack = CTAcquisitionAttack([Cupping(0), WindowShift(0, 0), ReconstructionKernel(0)], steps=2)
    assert torch.equal(attack(model, image, label).adversarial, image)


def test_a_tilt_is_scored_with_the_label_that_it_moves() -> None:
    model, image, label = example_case()
    result = CTAcquisitionAttack([GantryTilt(10), Cupping(5)], steps=4)(model, image, label)
    moved = result.bound.move_label(label.as_tensor(), result.parameters)
    assert torch.equal(result.label.as_tensor(), moved) and not torch.equal(moved, label.as_tensor())
    assert result.budgets["tilt"].limit == 10


def test_a_batch_is_its_samples() -> None:
    cases = [example_case(16, seed) for seed in (0, 1)]
    image, label = (torch.cat([case[n].as_tensor() for case in cases]) for n in (1, 2))
    attack = CTAcquisitionAttack(CT, steps=3)
    both = attack(cases[0][0], image, label, spacing=3.0)
    for n, (model, one, truth) in enumerate(cases):
        alone = attack(model, one.as_tensor(), truth.as_tensor(), spacing=3.0)
        torch.testing.assert_close(alone.adversarial[0], both.adversarial[n], atol=1e-3, rtol=0)


def test_attacks_show_as_calls_and_know_their_units() -> None:
    assert CTAcquisition().units == "HU" and MRIAcquisition().units is None
    assert repr(CTAcquisitionAttack([Cupping(5)], steps=3)) == (
        "CTAcquisitionAttack([Cupping(max_depth=5, radius=None, axial_axis=-1)], steps=3)"
    )
    with pytest.raises(ValueError, match="at least one"):
        CTAcquisition([])


def test_a_network_without_a_window_is_told_one() -> None:
    """The map inside of the network or before it: the same attack in the same window."""
    model, image, label = example_case(16)

    class Windowed(torch.nn.Module):
        def forward(self, hounsfield: torch.Tensor) -> torch.Tensor:
            return model.network(((hounsfield + 160) / 500).clamp(0, 1))

    # In bfloat16 the two round differently, and the steps part.
    model = model.replace(precision="float32")
    without = AttackedModel(Windowed(), image_units="HU", precision="float32")
    with pytest.raises(ValueError, match=r"window is missing: .* so pass window=\(low, high\) in HU"):
        CTAcquisitionAttack(steps=2)(without, image, label)
    told = CTAcquisitionAttack(steps=2, window=(-160, 340))(without, image, label)
    known = CTAcquisitionAttack(steps=2)(model, image, label)
    assert float(told.adversarial_dice) < float(told.clean_dice)
    torch.testing.assert_close(told.adversarial.as_tensor(), known.adversarial.as_tensor(), atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="window goes with blocks=None"):
        CTAcquisitionAttack(CT, window=(-160, 340))
