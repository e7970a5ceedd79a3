# SPDX-License-Identifier: Apache-2.0
"""The campaign of six attacks on a classifier: each within its budget and worse than chance."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import MinimalNormResult, classifier_campaign
from tests.classification.networks import LinearClassifier, images

EPSILON = 0.02


def test_each_attack_of_the_campaign_lowers_the_accuracy_of_a_classifier() -> None:
    network, image = LinearClassifier(3, 2), images(12, 2)
    label = network(image).argmax(dim=1)
    found = {name: attack(network, image, label) for name, attack in classifier_campaign(EPSILON).items()}
    assert list(found) == ["FGSM", "BIM", "MI-FGSM", "PGD", "DeepFool", "C&W"]
    for name, result in found.items():
        assert float(result.adversarial_score.mean()) < float(result.clean_score.mean()) == 1, name
        if not isinstance(result, MinimalNormResult):
            assert float((result.adversarial - image).abs().max()) <= EPSILON + 1e-6
    # Two ways to the nearest boundary of a linear decision, which has a closed form.
    weight, bias = network.weight.detach(), network.bias.detach()
    logits = image.flatten(1) @ weight.T + bias
    own, distances = logits.gather(1, label[:, None]), []
    for other in range(3):
        normal = (weight[label] - weight[other]).norm(dim=1)
        distances.append(torch.where(label == other, torch.inf, (own[:, 0] - logits[:, other]) / normal))
    nearest = torch.stack(distances).amin(dim=0)
    for name in ("DeepFool", "C&W"):
        norms = found[name].smallest_norm.values.to(nearest)
        assert bool((norms >= nearest * (1 - 1e-3)).all()) and float((norms / nearest).median()) < 1.1, name
