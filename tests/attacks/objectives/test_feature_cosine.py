# SPDX-License-Identifier: Apache-2.0
"""Features that turn: values in closed form, what leads, and what decides."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_adversarial.attacks import PGD, FeatureCosine
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 8, 8, 8)


def model(network: nn.Module | None = None, inferer: object = None) -> AttackedModel:
    return AttackedModel(network or tiny_segmentation_network(), inferer, output_values="logits", precision="float32")


def cosine(network: nn.Module, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        a, b = (network[1](network[0](x)).flatten(1) for x in (one, other))  # type: ignore[index]
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_value_is_that_of_the_published_weights(given: bool, targeted: bool) -> None:
    network, image, label = tiny_segmentation_network(), random_image(SHAPE), random_label(SHAPE)
    other = random_image(SHAPE, seed=9) if given else None
    objective, moved = FeatureCosine("dice", ["1"], 3.0, other), image + 0.5 * random_image(SHAPE, seed=4)
    with torch.no_grad(), objective.watching([network]):
        prediction = network(image).argmax(dim=1, keepdim=True)
        clean = CleanBatch(image, prediction, "softmax", None, network)
        target = objective.prepare(Target.from_label(label, 3), clean)
        value, rank = objective.value_and_rank(network(moved), target, Progress(0, 1), targeted)
        plain = objective.objective.value(network(moved), target, Progress(0, 1), targeted)
    away = cosine(network, moved, image)
    cost = (away - 0.2).clamp_min(0) * away
    if other is not None:
        toward = cosine(network, moved, other)
        cost = cost - (1.2 - toward) * toward
    assert bool((cost.abs() > 0.05).all())
    torch.testing.assert_close(value, plain + (3.0 if targeted else -3.0) * cost, atol=1e-5, rtol=0)
    torch.testing.assert_close(rank, plain)


def test_features_turn_away_and_toward() -> None:
    network, image, label = tiny_segmentation_network(), random_image(SHAPE), random_label(SHAPE)
    other = random_image((1, *SHAPE[1:]), seed=7)
    results = {}
    for name, toward in (("away", None), ("toward", other)):
        objective = FeatureCosine("dice", ["1"], 100.0, toward)
        results[name] = PGD(0.4, steps=15, objective=objective)(model(network), image, label).adversarial
    plain = PGD(0.4, steps=15, objective="dice")(model(network), image, label).adversarial
    assert (cosine(network, results["away"], image) < cosine(network, plain, image)).all()
    assert (cosine(network, results["toward"], other) > cosine(network, plain, other)).all()
    assert not network[1]._forward_hooks and not network._forward_pre_hooks  # type: ignore[index]


def test_the_objective_decides_between_candidates() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    objective = FeatureCosine("dice", ["1"], 1e6)
    led = PGD(0.2, steps=5, objective=objective, random_start=False)(model(), image, label)
    assert (led.objective >= led.objective_history.amax(dim=0) - 1e-6).all() and (led.objective < 1.01).all()
    none = PGD(0.2, steps=5, objective=FeatureCosine("dice", ["1"], 0.0))(model(), image, label)
    plain = PGD(0.2, steps=5, objective="dice")(model(), image, label)
    assert torch.equal(none.adversarial, plain.adversarial)


def test_samples_do_not_depend_on_each_other() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    attack = PGD(0.2, steps=4, objective=FeatureCosine("dice", ["1"]))
    together = attack(model(), image, label)
    alone = attack(model(), image[1:], label[1:])
    torch.testing.assert_close(alone.adversarial, together.adversarial[1:])


def test_what_does_not_fit_is_one_sentence() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    with pytest.raises(ValueError, match="layers must be a sequence of names"):
        FeatureCosine("dice", "0")
    with pytest.raises(ValueError, match="layers must be a sequence of names.*got 3"):
        FeatureCosine("dice", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names of the network's layers such as"):
        PGD(0.1, objective=FeatureCosine("dice", ["no"]))(model(), image, label)
    windows = SlidingWindowInferer((4, 4, 4), 8)
    with pytest.raises(ValueError, match="FeatureCosine needs a network that sees the whole image"):
        PGD(0.1, objective=FeatureCosine("dice", ["0"]))(model(inferer=windows), image, label)
    with pytest.raises(ValueError, match="toward must have shape"):
        PGD(0.1, objective=FeatureCosine("dice", ["0"], toward=image[..., 1:]))(model(), image, label)
