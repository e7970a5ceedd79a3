# SPDX-License-Identifier: Apache-2.0
"""Ensembles: each combination against its definition, its gradient, and attacks through it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, BackwardPassSubstitute
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.feature_noise import insert_feature_noise
from monai_adversarial.networks.seed_ensemble import SeedEnsemble
from monai_adversarial.utils.backward_pass import backward_pass
from monai_adversarial.utils.draws import random_draw
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network


class Constant(nn.Module):
    """Returns given logits whatever the image, with a gradient of zero."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image):
        return self.logits.view(1, -1, *[1] * (image.ndim - 2)) + 0 * image


def members(dimensions: int = 3, classes: int = 3) -> list[nn.Module]:
    return [tiny_segmentation_network(1, classes, dimensions, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_probabilities_are_averaged(dimensions):
    image = random_image((2, 1, *[5] * dimensions))
    networks = members(dimensions)
    mean = torch.stack([network(image).softmax(dim=1) for network in networks]).mean(dim=0)
    torch.testing.assert_close(SeedEnsemble(networks)(image), mean.log())
    mean = torch.stack([network(image).sigmoid() for network in networks]).mean(dim=0)
    torch.testing.assert_close(SeedEnsemble(networks, activation="sigmoid")(image), mean.logit())
    mean = torch.stack([network(image) for network in networks]).mean(dim=0)
    torch.testing.assert_close(SeedEnsemble(networks, "logits")(image), mean)


def test_one_channel_is_a_sigmoid_network():
    image = random_image((1, 1, 4, 4))
    networks = members(2, 1)
    mean = torch.stack([network(image).sigmoid() for network in networks]).mean(dim=0)
    torch.testing.assert_close(SeedEnsemble(networks)(image), mean.logit())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_extreme_logits_give_finite_logits_and_gradients(activation):
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    networks = [LinearNetwork((400.0, -400.0)), LinearNetwork((300.0, -500.0))]
    out = SeedEnsemble(networks, activation=activation)(image)
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), image)
    assert bool(torch.isfinite(out).all()) and bool((gradient != 0).all())


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradient_is_exact(combine, activation):
    ensemble = SeedEnsemble(members(2), combine, activation).double()
    image = random_image((1, 1, 3, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(ensemble, (image,))


def test_majority_counts_votes_and_the_mean_probability_decides_ties():
    image = torch.zeros(1, 3, 2, 2)
    two_against_one = SeedEnsemble([Constant((0.1, 0.0, 0.0))] * 2 + [Constant((0.0, 0.0, 90.0))], "majority")
    assert two_against_one(image).argmax(dim=1).unique().tolist() == [0]
    tie = SeedEnsemble([Constant((0.1, 0.0, 0.0)), Constant((0.0, 0.0, 90.0))], "majority")
    assert tie(image).argmax(dim=1).unique().tolist() == [2]
    assert bool(torch.isfinite(tie(image)).all())


def test_majority_of_sigmoid_channels():
    image = torch.zeros(1, 2, 2, 2)
    networks = [Constant((0.1, -9.0)), Constant((0.1, 0.1)), Constant((-90.0, -0.1))]
    out = SeedEnsemble(networks, "majority", "sigmoid")(image)
    assert bool((out[:, 0] > 0).all()) and bool((out[:, 1] < 0).all()) and bool(torch.isfinite(out).all())
    tie = SeedEnsemble(networks[1:], "majority", "sigmoid")(image)
    assert bool((tie[:, 0] < 0).all())
    unanimous = SeedEnsemble([Constant((99.0, -99.0))], "majority", "sigmoid")(image)
    assert bool(torch.isfinite(unanimous).all())


def test_majority_is_attacked_through_the_mean_probability_or_not_at_all():
    networks = members()
    ensemble, mean = SeedEnsemble(networks, "majority"), SeedEnsemble(networks)
    image, label = random_image((1, 1, 8, 8, 8)), random_label((1, 1, 8, 8, 8))
    point = image.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="majority vote has no useful gradient.*BackwardPassSubstitute"):
        ensemble(point)
    for substitute in ("declared", "surrogate", "identity"):
        with backward_pass(substitute):
            out = ensemble(point)
        torch.testing.assert_close(out, ensemble(image), rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(out[:, 0].sum(), point)
        torch.testing.assert_close(gradient, torch.autograd.grad(mean(point)[:, 0].sum(), point)[0])
    model = AttackedModel(ensemble, precision="float32")
    result = PGD(0.3, steps=5, gradient=BackwardPassSubstitute())(model, image, label)
    same = lambda x: float((ensemble(x).argmax(1) == ensemble(image).argmax(1)).float().mean())  # noqa: E731
    assert same(result.adversarial) < 0.9
    assert not ensemble(image).requires_grad


def test_one_random_network_and_several_draws_are_the_random_self_ensemble():
    network = insert_feature_noise(tiny_segmentation_network(), alpha=0.5, always=True)
    image = random_image((1, 1, 4, 4, 4))
    probabilities = []
    for draw in range(3):
        with random_draw(draw):
            probabilities.append(network(image).softmax(dim=1))
    ensemble = SeedEnsemble(network, draws=3)
    torch.testing.assert_close(ensemble(image), torch.stack(probabilities).mean(dim=0).log())
    with random_draw(7):
        assert not torch.allclose(ensemble(image), torch.stack(probabilities).mean(dim=0).log())


@pytest.mark.parametrize("combine", ["probabilities", "logits", "majority"])
def test_state_compile_autocast_and_case_level_logits(combine):
    ensemble = SeedEnsemble(members(), combine)
    other = SeedEnsemble([tiny_segmentation_network(seed=seed) for seed in (7, 8, 9)], combine)
    other.load_state_dict(ensemble.state_dict())
    image = random_image((1, 1, 4, 4, 4))
    assert torch.equal(other(image), ensemble(image))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(ensemble, backend="eager")(image), ensemble(image))
        with torch.autocast("cpu", torch.bfloat16):
            assert ensemble(image).dtype == torch.float32
    case_level = SeedEnsemble([nn.Linear(4, 3), nn.Linear(4, 3)], combine)
    assert case_level(random_image((5, 4))).shape == (5, 3)


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SeedEnsemble([])
    with pytest.raises(TypeError, match="got str"):
        SeedEnsemble(["a.pt"])
    with pytest.raises(ValueError, match="combine"):
        SeedEnsemble(members(), "mean")
    with pytest.raises(ValueError, match="one shape"):
        SeedEnsemble([tiny_segmentation_network(out_channels=2), tiny_segmentation_network()])(
            random_image((1, 1, 4, 4, 4))
        )
