# SPDX-License-Identifier: Apache-2.0
"""Certificates of networks whose probabilities under noise, and distances to another answer, have closed forms."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from scipy.stats import norm

from monai_adversarial.inferers import NoisyMajorityInferer
from monai_adversarial.inferers.certified_segmentation import ABSTAIN, CertifiedSegmentationInferer
from monai_adversarial.inferers.voxel_tests import binomial_tail
from tests.helpers import LinearNetwork, random_image, tiny_segmentation_network


class WholeImageLinear(torch.nn.Module):
    """Two classes; each voxel's margin is a linear function of all voxels: ``weights[v] @ image``.

    Under noise of deviation sigma its class 1 has probability Phi(margin / (sigma * norm)), so that the smoothed
    network answers the margin's sign and the distance to the other answer is |margin| / norm.
    """

    def __init__(self, voxels: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(voxels, voxels, generator=generator, dtype=torch.float64)
        self.weights += 3.0 * torch.eye(voxels)
        self.eval()

    def margins(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).double() @ self.weights.T

    def distances(self, image: torch.Tensor) -> torch.Tensor:
        return self.margins(image) / self.weights.norm(dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        margins = self.margins(image).view(image.shape)
        return torch.cat([-margins, margins], dim=1).to(image.dtype)


def test_a_network_in_training_mode_is_refused():
    for refuse in (CertifiedSegmentationInferer(n=100).certify, NoisyMajorityInferer().votes):
        with pytest.raises(ValueError, match="network must be in evaluation mode for noisy copies"):
            refuse(random_image((1, 1, 8, 8)), WholeImageLinear(64).train())


def test_votes_follow_the_probability_under_noise():
    network, image = WholeImageLinear(64), 0.3 * (random_image((1, 1, 8, 8)) - 0.5)
    found = CertifiedSegmentationInferer(sigma=0.25, n0=50, n=2000, copies_at_once=500).certify(image, network)
    chance = torch.as_tensor(norm.cdf(network.distances(image) / 0.25)).view(1, 1, 8, 8)
    expected = torch.where(found.selected == 1, chance, 1.0 - chance)
    torch.testing.assert_close(found.votes.double() / 2000, expected, atol=4.5 * 0.5 / 2000**0.5, rtol=0)
    assert found.radius == pytest.approx(0.25 * norm.ppf(0.75))
    assert found.tail.numpy() == pytest.approx(binomial_tail(2000, 0.75))
    torch.testing.assert_close(found.p_values, found.tail[found.votes.long()])


def test_no_perturbation_within_the_radius_flips_a_certified_voxel():
    network, image = WholeImageLinear(64), 0.5 * (random_image((1, 1, 4, 4, 4)) - 0.5)
    inferer = CertifiedSegmentationInferer(sigma=0.1, n0=20, n=300, copies_at_once=100)
    found = inferer.certify(image, network)
    distances = network.distances(image)[0]
    prediction = found.prediction.flatten()
    certified = (prediction != ABSTAIN).nonzero().flatten()
    assert 5 < len(certified) < 64 and len(prediction[certified].unique()) == 2
    assert torch.equal(prediction[certified] == 1, distances[certified] > 0)
    # the strongest attacks there are: straight to the border of each certified voxel
    directions = network.weights[certified] / network.weights[certified].norm(dim=1, keepdim=True)
    directions *= -distances[certified].sign()[:, None]
    attacked = network.margins(image) + found.image_radius * directions @ network.weights.T
    held = attacked[:, certified] > 0
    assert torch.equal(held, (prediction[certified] == 1).expand_as(held))
    # and some step a little beyond its own distance does flip it
    farther = network.margins(image) + (1.01 * distances[certified].abs())[:, None] * directions @ network.weights.T
    assert bool(((farther[:, certified].diagonal() > 0) != (prediction[certified] == 1)).all())


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_a_wrong_certificate_occurs_at_most_as_often_as_promised(correction):
    """Every voxel's probability is ``tau`` exactly, the worst case: each certificate is wrong."""
    alpha, cases, tau, sigma = 0.3, 600, 0.6, 0.5
    inferer = CertifiedSegmentationInferer(
        sigma=sigma, n0=5, n=40, tau=tau, alpha=alpha, correction=correction, copies_at_once=10
    )
    bound = inferer.for_image(random_image((cases, 1, 30)))  # noise of different cases
    image = torch.full((cases, 1, 30), sigma * float(norm.ppf(tau)))
    wrong = (bound.certify(image, LinearNetwork()).prediction != ABSTAIN).flatten(1).any(dim=1).double().mean()
    # from the exact distribution of the number of votes: what the test can reach at the corrected level
    tail = binomial_tail(40, tau)
    level = float(tail[tail <= alpha / 30].max())
    chosen = 1.0 - binomial_tail(5, 1.0 - tau)[3]  # class 1 wins 3 of 5; class 0 is never certified
    expected = 1.0 - (1.0 - level * chosen) ** 30
    assert expected <= alpha
    assert abs(float(wrong) - expected) < 4 * math.sqrt(expected * (1 - expected) / cases)


def test_more_copies_a_lower_tau_and_a_higher_alpha_certify_more():
    network, image = LinearNetwork(), random_image((1, 1, 12, 12, 12)) - 0.5

    def certified(**arguments) -> torch.Tensor:
        inferer = CertifiedSegmentationInferer(**{"sigma": 0.25, "n": 100, "copies_at_once": 50, **arguments})
        return ~inferer.certify(image, network).abstained

    for name, values in (
        ("tau", (0.9, 0.75, 0.6)),
        ("alpha", (1e-4, 1e-2, 0.2)),
        ("correction", ("bonferroni", "holm")),
    ):
        maps = [certified(**({"n": 200} | {name: value})) for value in values]
        for fewer, more in zip(maps, maps[1:], strict=False):
            assert bool((fewer <= more).all()) and int(fewer.sum()) > 0
            assert name == "correction" or int(fewer.sum()) < int(more.sum())
    shares = [float(certified(n=n).float().mean()) for n in (50, 100, 400)]
    assert shares[0] < shares[1] < shares[2]
    # and never more than the share of voxels whose probability exceeds tau
    assert shares[2] <= float((image.abs() > 0.25 * norm.ppf(0.75)).float().mean()) + 0.001


def test_selection_and_counting_share_no_draw():
    seen = []

    def network(image):
        seen.extend(image.clone())
        return torch.cat([-image, image], dim=1)

    image = torch.zeros(1, 1, 6, 6)
    CertifiedSegmentationInferer(sigma=1.0, n0=10, n=60).certify(image, network)
    assert len(seen) == 70
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == 70
    # class 0 or 1 by chance: were the same copies counted, the votes would favor the selected class
    found = CertifiedSegmentationInferer(sigma=1.0, n0=1, n=60).certify(torch.zeros(1, 1, 40, 40), LinearNetwork())
    assert float(found.votes.float().mean()) == pytest.approx(30.0, abs=4 * math.sqrt(60 * 0.25 / 1600))


def test_result_does_not_depend_on_batch_order_copies_at_once_or_the_global_random_state():
    image, network = random_image((3, 1, 8, 8, 8)), LinearNetwork((-4.0, 4.0), (2.0, -2.0))
    inferer = CertifiedSegmentationInferer(sigma=0.1, n=60)
    state = torch.get_rng_state()
    whole = inferer.certify(image, network)
    assert torch.equal(torch.get_rng_state(), state)
    other = CertifiedSegmentationInferer(sigma=0.1, n=60, copies_at_once=7).certify(image, network)
    part = inferer.certify(image[[2, 0]], network)
    assert torch.equal(other.votes, whole.votes) and torch.equal(other.prediction, whole.prediction)
    assert torch.equal(part.votes, whole.votes[[2, 0]]) and torch.equal(part.prediction, whole.prediction[[2, 0]])
    assert not torch.equal(
        CertifiedSegmentationInferer(sigma=0.1, n=60, seed=1).certify(image, network).votes, whole.votes
    )


def test_whole_volumes_through_sliding_windows_keep_metadata():
    image = MetaTensor(random_image((1, 1, 20, 17, 18)), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    windows = SlidingWindowInferer((16, 16, 16), 4, 0.25)
    inferer = CertifiedSegmentationInferer(windows, sigma=0.05, n0=3, n=60, copies_at_once=10)
    found = inferer.certify(image, tiny_segmentation_network())
    assert isinstance(found.prediction, MetaTensor) and torch.equal(found.prediction.affine, image.affine)
    assert found.prediction.dtype == torch.int16 and found.votes.dtype == torch.int16
    assert 0.0 < float(found.abstention_share[0]) < 1.0
    agreed = found.prediction.as_tensor()[~found.abstained] == found.selected[~found.abstained]
    assert len(agreed) > 0 and bool(agreed.all())


def test_too_few_copies_stop_before_the_network_runs():
    def network(image):
        raise AssertionError("the network ran")

    with pytest.raises(ValueError, match=r"n=40 is too small to certify any of 512 voxels .* n >= 46 is needed"):
        CertifiedSegmentationInferer(n=40).certify(torch.zeros(1, 1, 8, 8, 8), network)
    assert 0.75**46 <= 0.001 / 512 < 0.75**45


def test_untested_voxels_are_no_part_of_the_family_and_abstain():
    image = torch.full((1, 1, 10, 10), 0.6)
    image[..., 1:] = -1.0  # 90 voxels of air
    arguments = {"sigma": 0.25, "n": 33, "tau": 0.75}
    with pytest.raises(ValueError, match="of 100 voxels"):
        CertifiedSegmentationInferer(**arguments).certify(image, LinearNetwork())
    by_value = CertifiedSegmentationInferer(exclude_below=0.0, **arguments).certify(image, LinearNetwork())
    by_mask = CertifiedSegmentationInferer(region=lambda x: x >= 0, **arguments).certify(image, LinearNetwork())
    for found in (by_value, by_mask):
        assert int(found.tested.sum()) == 10
        assert bool((found.prediction[..., 1:] == ABSTAIN).all()) and bool((found.prediction[..., 0] == 1).any())
        share = float((found.prediction[..., 0] == ABSTAIN).float().mean())
        assert float(found.abstention_share[0]) == pytest.approx(share)
        assert bool((found.p_values[..., 1:] == 1.0).all())
    with pytest.raises(ValueError, match="region must return a mask of shape"):
        CertifiedSegmentationInferer(region=lambda x: x[0], **arguments).certify(image, LinearNetwork())


def test_a_rule_for_air_is_certified_only_where_no_perturbation_moves_a_voxel_across_it():
    radius = 0.25 * float(norm.ppf(0.75))
    values = [-radius - 0.01, -radius + 0.01, radius - 0.01, radius + 0.01, 3.0]
    image = torch.tensor(values).view(1, 1, 5)
    # certainly class 1 above -1 and class 0 below: the classes do not depend on the noise
    always_one, always_zero = LinearNetwork((0.0, 0.0), (0.0, 1.0)), LinearNetwork((0.0, 0.0), (1.0, 0.0))
    inferer = CertifiedSegmentationInferer(sigma=0.25, exclude_below=0.0, outside_class=0)
    found = inferer.certify(image, always_one)
    # surely air; may become tissue; may become air; surely tissue
    assert found.prediction.flatten().tolist() == [0, ABSTAIN, ABSTAIN, 1, 1]
    assert found.tested.flatten().tolist() == [False, True, True, True, True]
    assert inferer.certify(image, always_zero).prediction.flatten().tolist() == [0] * 5


def test_scores_are_one_hot_where_certified_and_equal_where_it_abstains():
    image, network = random_image((1, 1, 8, 8, 8)), LinearNetwork((-4.0, 4.0, 0.0), (2.0, -2.0, -1.0))
    inferer = CertifiedSegmentationInferer(sigma=0.1, n=60)
    found, scores = inferer.certify(image, network), inferer(image, network)
    assert scores.shape == (1, 3, 8, 8, 8) and scores.dtype == torch.float32
    certified = ~found.abstained
    assert 0 < int(certified.sum()) < 512
    chosen = scores.argmax(dim=1, keepdim=True)
    assert torch.equal(chosen[certified], found.prediction[certified].long())
    torch.testing.assert_close(scores.softmax(dim=1).amax(dim=1, keepdim=True)[certified].min(), torch.tensor(1.0))
    abstained = found.abstained.expand_as(scores)
    torch.testing.assert_close(scores[abstained], torch.full_like(scores[abstained], -math.log(3)))
    other = CertifiedSegmentationInferer(sigma=0.1, n=60, abstain_class=2)(image, network).argmax(dim=1, keepdim=True)
    assert bool((other[found.abstained] == 2).all()) and torch.equal(other[certified], chosen[certified])
    with pytest.raises(ValueError, match="below the 3 classes, got 3"):
        CertifiedSegmentationInferer(sigma=0.1, n=60, abstain_class=3)(image, network)


def test_sigmoid_channels_are_tested_each():
    image = random_image((1, 1, 10, 10)) - 0.5
    network = LinearNetwork((1.0, -1.0), (0.0, 0.2))
    inferer = CertifiedSegmentationInferer(sigma=0.1, n=100, activation="sigmoid")
    found, scores = inferer.certify(image, network), inferer(image, network)
    assert found.prediction.shape == (1, 2, 10, 10) and set(found.prediction.unique().tolist()) == {-1, 0, 1}
    for channel, truth in enumerate((image > 0, image < 0.2)):
        decided = found.prediction[:, channel : channel + 1] != ABSTAIN
        assert torch.equal(found.prediction[:, channel : channel + 1][decided] == 1, truth[decided])
    assert torch.equal(scores == 0, found.abstained) and torch.equal(scores > 0, found.prediction == 1)


def test_radius_is_in_the_units_of_sigma():
    inferer = CertifiedSegmentationInferer(sigma=40.0, units="HU", intensity={"a_min": -100, "a_max": 300}, tau=0.9)
    assert inferer.radius == pytest.approx(40.0 * norm.ppf(0.9))
    assert inferer.image_radius == pytest.approx(0.1 * norm.ppf(0.9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 0.4}, "tau must be a number with 0.5 <= tau < 1, got 0.4"),
        ({"tau": 1.0}, "tau must be a number"),
        ({"alpha": 0.0}, "alpha must be a number with 0 < alpha < 1"),
        ({"n0": 0}, "n0 must be an integer >= 1"),
        ({"correction": "none"}, "correction must be one of 'holm', 'bonferroni'"),
        ({"exclude_below": float("nan")}, "exclude_below must be a finite number"),
        ({"region": 3}, "region must map an image"),
        ({"outside_class": -1}, "outside_class must be an integer >= 0"),
    ],
)
def test_bad_arguments_stop_early(arguments, message):
    with pytest.raises(ValueError, match=message):
        CertifiedSegmentationInferer(**arguments)


def test_noise_that_does_not_reach_the_network_is_said():
    image, network = random_image((1, 1, 4, 4, 4)), tiny_segmentation_network()
    arguments = {"sigma": 0.5, "n0": 4, "n": 60, "alpha": 0.05}
    closed = CertifiedSegmentationInferer(lambda noisy, network: network(image), **arguments)
    with pytest.warns(UserWarning, match="two noisy copies of the image get the same answer to the bit"):
        closed.certify(image, network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CertifiedSegmentationInferer(**arguments).certify(image, network)
        CertifiedSegmentationInferer(**{**arguments, "sigma": 1e-6}).certify(image, network)
