# SPDX-License-Identifier: Apache-2.0
"""Sign-activation head: values, gradients, and what hiding the gradient is worth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import BIM, BackwardPassSubstitute, ExactGradient
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.coordinate_descent import train_by_coordinate_descent
from monai_adversarial.networks.seed_ensemble import SeedEnsemble
from monai_adversarial.networks.sign_activation import SignActivationHead
from monai_adversarial.utils.backward_pass import backward_pass
from tests.helpers import random_image


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 5), (2, 4, 3, 2, 5)])
def test_each_place_is_classified_by_the_definition(shape):
    head = SignActivationHead(4, 6, 3)
    features = random_image(shape) - 0.5
    with torch.no_grad():
        head.bias.uniform_(-0.1, 0.1)
        head.output_bias.uniform_()
        rows = features.movedim(1, -1).reshape(-1, 4)
        signs = torch.where(rows @ head.weight.T + head.bias >= 0, 1.0, -1.0)
        expected = signs @ head.output_weight.T + head.output_bias
        out = head(features)
    assert out.shape == (shape[0], 3, *shape[2:])
    torch.testing.assert_close(out.movedim(1, -1).reshape(-1, 3), expected)


def test_zero_counts_as_positive():
    head = SignActivationHead(1, 1)
    assert head.activate(torch.tensor([-1e-30, 0.0, -0.0, 1e-30])).tolist() == [-1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("surrogate", [None, "straight_through", "tanh"])
def test_values_do_not_depend_on_the_backward_pass(surrogate):
    head = SignActivationHead(4, 6, 3, surrogate)
    features = 100 * (random_image((3, 4, 5)) - 0.5)
    expected = SignActivationHead(4, 6, 3)(features)
    assert torch.equal(head(features), expected)
    point = features.clone().requires_grad_()
    assert torch.equal(head(point), expected)
    for substitute in ("declared", "identity", "surrogate", "exact"):
        with backward_pass(substitute):
            assert torch.equal(head(point), expected)


def test_gradients_are_zero_or_those_of_the_stand_in():
    point = (random_image((3, 4)) - 0.5).requires_grad_()
    head = SignActivationHead(4, 6, 3, sharpness=3.0)

    def gradient(surrogate, substitute=None):
        head.surrogate = surrogate
        if substitute is None:
            return torch.autograd.grad(head(point)[:, 0].sum(), point)[0]
        with backward_pass(substitute):
            return torch.autograd.grad(head(point)[:, 0].sum(), point)[0]

    projections = point @ head.weight.T
    straight = torch.autograd.grad((projections @ head.output_weight[0]).sum(), point)[0]
    projections = point @ head.weight.T
    tanh = torch.autograd.grad((torch.tanh(3 * projections) @ head.output_weight[0]).sum(), point)[0]
    assert float(gradient(None).abs().max()) == 0.0
    torch.testing.assert_close(gradient("straight_through"), straight)
    torch.testing.assert_close(gradient("tanh"), tanh)
    torch.testing.assert_close(gradient(None, "identity"), straight)
    torch.testing.assert_close(gradient(None, "surrogate"), tanh)
    assert float(gradient(None, "declared").abs().max()) == 0.0


class Segmentation(nn.Module):
    """Two fixed feature maps, the image and its local mean, and a sign head at every voxel."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def features(self, image):
        return torch.cat((image, nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)), dim=1) * 4 - 2

    def forward(self, image):
        return self.head(self.features(image))


def organ() -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.zeros(1, 1, 12, 12, 12, dtype=torch.long)
    label[..., 3:9, 3:9, 3:9] = 1
    return 0.3 + 0.4 * label + 0.2 * (random_image(label.shape) - 0.5), label


def trained(seed: int = 0) -> tuple[Segmentation, torch.Tensor, torch.Tensor]:
    image, label = organ()
    network = Segmentation(SignActivationHead(2, 8, 2, seed=seed)).eval()
    train_by_coordinate_descent(network.head, network.features(image), label, steps=150, seed=seed)
    return network, image, label


def wrong_under_attack(network, image, label, gradient) -> tuple[float, float]:
    attack = BIM(0.3, steps=8, step_size=0.1, gradient=gradient, objective="cross_entropy")
    result = attack(AttackedModel(network, precision="float32"), image, label)
    with torch.no_grad():
        logits = network(result.adversarial)
    wrong = float((logits.argmax(dim=1, keepdim=True) != label).float().mean())
    return wrong, float((result.adversarial - image).abs().max())


def test_hiding_the_gradient_stops_only_attackers_who_need_it():
    network, image, label = trained()
    clean = float((network(image).argmax(dim=1, keepdim=True) != label).float().mean())
    assert clean < 0.02
    wrong, moved = wrong_under_attack(network, image, label, ExactGradient())
    assert wrong == clean and moved == 0.0  # looks robust ...
    wrong, _ = wrong_under_attack(network, image, label, BackwardPassSubstitute("surrogate"))
    assert wrong > 0.5  # ... and is not
    for surrogate in ("tanh", "straight_through"):
        network.head.surrogate = surrogate
        wrong, _ = wrong_under_attack(network, image, label, ExactGradient())
        assert wrong > 0.3, surrogate


def test_a_majority_of_seeds_is_attacked_through_both_surrogates():
    networks = []
    for seed in range(3):
        network, image, label = trained(seed)
        network.head.surrogate = "tanh"
        networks.append(network)
    ensemble = SeedEnsemble(networks, "majority")
    wrong, moved = wrong_under_attack(ensemble, image, label, BackwardPassSubstitute())
    assert wrong > 0.3 and moved > 0


def test_autocast_compile_and_state():
    head = SignActivationHead(4, 6, 3, "tanh")
    fresh = SignActivationHead(4, 6, 3, "tanh", seed=9)
    features = random_image((2, 4, 3, 3, 3)) - 0.5
    assert not torch.equal(fresh(features), head(features))
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(fresh(features), head(features))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), fresh(features)) and head(features).dtype == torch.float32
    for surrogate in (None, "tanh", "straight_through"):
        head.surrogate = surrogate
        compiled = torch.compile(head, backend="eager", fullgraph=True)
        assert torch.equal(compiled(features), head(features))
        point = features.clone().requires_grad_()
        gradient = torch.autograd.grad(compiled(point)[:, 0].sum(), point)[0]
        assert torch.equal(gradient, torch.autograd.grad(head(point)[:, 0].sum(), point)[0])


def test_construction_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    SignActivationHead(4, 6)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="surrogate must be one of"):
        SignActivationHead(4, 6, surrogate="sigmoid")
    with pytest.raises(ValueError, match="classes"):
        SignActivationHead(4, 6, 1)
    with pytest.raises(ValueError, match=r"\(batch, 4, \.\.\.\)"):
        SignActivationHead(4, 6)(torch.zeros(2, 3))
