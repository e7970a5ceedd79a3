# SPDX-License-Identifier: Apache-2.0
"""TextureAttack on the example and on a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import Attack, RandomSearch, TextureAttack
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel


def dice_of(result: object, stream: int) -> float:
    """Of a random change as large as an attack's."""
    bound = result.bound  # type: ignore[attr-defined]
    control = bound.random_control(bound.scene.generators(stream), result.parameters)  # type: ignore[attr-defined]
    image = bound.finished(bound.scene.image, control)
    model, _, label = example_case()
    unchanged = TextureAttack(0, 0, 0, steps=1)(model, image, label, spacing=3.0)
    return float(unchanged.clean_dice)


def test_optimized_beats_random_of_the_same_size() -> None:
    model, image, label = example_case()
    attack = TextureAttack(steps=4)
    result = attack(model, image, label)
    for stream in (1, 2, 3):
        assert float(result.adversarial_dice) < dice_of(result, stream) - 0.1
    drawn = Attack(attack.perturbation, "dice", search=RandomSearch(), steps=6)(model, image, label)
    assert float(result.adversarial_dice) < float(drawn.adversarial_dice) - 0.1


def test_it_grows_with_each_budget_and_with_the_steps() -> None:
    model, image, label = example_case()
    grown = [
        [TextureAttack(gain, 0.0, 60, steps=4) for gain in (0.2, 0.5, 1.0)],
        [TextureAttack(0.0, shift, 60, steps=4) for shift in (0.05, 0.2, 0.8)],
        [TextureAttack(1.0, 0.5, cap, steps=4) for cap in (2, 6, 20)],
    ]
    for attacks in grown:
        dice = [float(attack(model, image, label).adversarial_dice) for attack in attacks]
        assert dice[0] > dice[1] > dice[2]
    few, many = (float(TextureAttack(steps=steps)(model, image, label).adversarial_dice) for steps in (1, 8))
    assert many < few


def test_a_batch_is_its_samples() -> None:
    cases = [example_case(16, seed) for seed in (0, 1)]
    model, attack = cases[0][0], TextureAttack(steps=3)
    image, label = (torch.cat([case[n].as_tensor() for case in cases]) for n in (1, 2))
    both = attack(model, image, label, spacing=6.0)
    for n, (_, one, truth) in enumerate(cases):
        alone = attack(model, one.as_tensor(), truth.as_tensor(), spacing=6.0)
        assert torch.equal(alone.adversarial[0], both.adversarial[n])


def test_an_organ_alone_and_no_budget() -> None:
    model, image, label = example_case()
    organ = label == 2
    result = TextureAttack(steps=3)(model, image, label, region=organ)
    assert torch.equal(result.adversarial[~organ], image[~organ]) and not torch.equal(result.adversarial, image)
    assert torch.equal(TextureAttack(0, 0, steps=2)(model, image, label).adversarial, image)
    assert torch.equal(TextureAttack(cap=0, steps=2)(model, image, label).adversarial, image)


def test_a_style_leaves_less_room() -> None:
    model, image, label = example_case()
    free = TextureAttack(1.0, 0.0, 60, steps=4)(model, image, label)
    quieter = 50 + 0.05 * (image - 50)
    held = TextureAttack(1.0, 0.0, 60, steps=4, style=quieter)(model, image, label)
    assert float(free.adversarial_dice) < float(held.adversarial_dice)
    assert bool((held.parameters[0] <= 0).all()) and bool((held.parameters[0] < 0).any())


@pytest.mark.parametrize("axes", [2, 3])
def test_classifiers_of_images_without_hounsfield_units(axes: int) -> None:
    torch.manual_seed(0)
    kind = nn.Conv2d if axes == 2 else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d(1) if axes == 2 else nn.AdaptiveAvgPool3d(1)
    network = nn.Sequential(kind(1, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, 2)).eval()
    image = torch.rand((2, 1, *[24] * axes), generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1])
    with torch.no_grad():
        clean = network(image).log_softmax(1).gather(1, label[:, None])[:, 0]
    attack = TextureAttack(1.0, 0.5, 0.1, "percentile", (1.0, 3.0), 8.0, steps=4, objective="cross_entropy")
    result = attack(AttackedModel(network, output_values="logits", precision="float32"), image, label, spacing=1.0)
    with torch.no_grad():
        after = network(result.adversarial).log_softmax(1).gather(1, label[:, None])[:, 0]
    assert bool((after < clean - 1e-3).all())
