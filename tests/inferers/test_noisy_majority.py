# SPDX-License-Identifier: Apache-2.0
"""Votes over noisy copies: what is drawn, what is counted, what is differentiated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import ScaleIntensityRange
from scipy.stats import norm

from monai_adversarial.attacks.gradients import ExpectationOverTransformation
from monai_adversarial.attacks.recipes import PGD
from monai_adversarial.inferers import PurifiedInferer, ScannerSpaceInferer
from monai_adversarial.inferers.gaussian_votes import vote
from monai_adversarial.inferers.noisy_majority import NoisyMajorityInferer, NoisyVotes
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.draws import random_draw
from tests.helpers import LinearNetwork, random_image, tiny_segmentation_network
from tests.purifiers.examples import Doubled, RandomGain


class Recorder(torch.nn.Module):
    """Keeps what it is given; logits are (-image, image)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.extend(image.detach().clone())
        return torch.cat([-image, image], dim=1)


def test_vote_shares_approach_the_probability_under_noise():
    image = torch.linspace(-1, 1, 9).view(1, 1, 9).expand(1, 1, 9).clone()
    votes = NoisyMajorityInferer(sigma=0.5, samples=4000, copies_at_once=500).votes(image, LinearNetwork())
    expected = norm.cdf(image.numpy() / 0.5)
    np.testing.assert_allclose(votes.shares[:, 1:].numpy(), expected, atol=4 * 0.5 / 4000**0.5)
    assert torch.equal(votes.shares.sum(dim=1), torch.ones(1, 9))


def test_noise_has_the_given_deviation_and_every_copy_its_own():
    network = Recorder()
    image = random_image((2, 1, 20, 20, 10))
    NoisyMajorityInferer(sigma=0.3, samples=5, copies_at_once=2)(image, network)
    noise = torch.stack(network.seen) - image.repeat(5, 1, 1, 1, 1)
    assert len(noise) == 10
    correlation = torch.corrcoef(noise.flatten(1))
    torch.testing.assert_close(noise.flatten(1).std(dim=1), torch.full((10,), 0.3), rtol=0.06, atol=0)
    assert (correlation - torch.eye(10)).abs().max() < 0.08


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (3, 1, 6, 7, 8)])
@pytest.mark.parametrize("soft", [False, True])
def test_result_does_not_depend_on_batch_order_or_copies_at_once(shape, soft):
    image, network = random_image(shape), tiny_segmentation_network(spatial_dims=len(shape) - 2)
    inferer = NoisyMajorityInferer(sigma=0.3, samples=7, soft=soft)
    whole = inferer(image, network)
    other = NoisyMajorityInferer(sigma=0.3, samples=7, soft=soft, copies_at_once=4)
    torch.testing.assert_close(other(image, network), whole)
    torch.testing.assert_close(inferer(image[[2, 0]], network), whole[[2, 0]])
    assert not torch.allclose(NoisyMajorityInferer(sigma=0.3, samples=7, soft=soft, seed=1)(image, network), whole)


def test_draw_in_force_changes_the_noise_and_the_global_random_state_is_not_used():
    image, inferer, network = random_image((1, 1, 12, 12)), NoisyMajorityInferer(sigma=1.0, samples=3), LinearNetwork()
    before = torch.get_rng_state()
    first = inferer(image, network)
    with random_draw(1):
        second, again = inferer(image, network), inferer(image, network)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(second, again) and not torch.equal(first, second)


def test_softmax_of_the_output_is_the_share_and_its_argmax_the_majority():
    image, network = random_image((2, 1, 10, 10)), LinearNetwork((-1.0, 1.0, 0.3), (0.4, -0.3, 0.0))
    inferer = NoisyMajorityInferer(sigma=0.5, samples=9)
    votes, scores = inferer.votes(image, network), inferer(image, network)
    assert len(votes.majority.unique()) == 3
    torch.testing.assert_close(scores.softmax(dim=1), votes.shares, atol=3e-6, rtol=0)
    assert torch.equal(scores.argmax(dim=1, keepdim=True), votes.majority.long())
    torch.testing.assert_close(votes.confidence, votes.shares.amax(dim=1, keepdim=True))


def test_a_vote_is_the_argmax_and_of_equal_logits_the_lowest_class():
    logits = (3 * random_image((2, 5, 9, 9))).round().requires_grad_()
    assert torch.equal(vote(logits, "softmax"), logits.argmax(dim=1, keepdim=True).to(torch.int16))
    assert torch.equal(vote(torch.zeros(1, 3, 2), "softmax"), torch.zeros(1, 1, 2, dtype=torch.int16))


def test_ties_go_to_the_lowest_class_and_to_no():
    counts = torch.tensor([1, 3, 3, 0], dtype=torch.int16).view(1, 4, 1)
    assert NoisyVotes(counts, 7).majority.item() == 1
    yes = NoisyVotes(torch.tensor([2, 3, 1], dtype=torch.int16).view(1, 3, 1), 4, "sigmoid")
    assert yes.majority.flatten().tolist() == [0, 1, 0]
    assert yes.confidence.flatten().tolist() == [0.5, 0.75, 0.75]


def test_robust_metric_is_the_mean_confidence_of_a_class():
    counts = torch.tensor([[[8, 6, 1], [2, 4, 9]]], dtype=torch.int16)
    votes = NoisyVotes(counts, 10)
    torch.testing.assert_close(votes.robust_metric(), torch.tensor([(0.8 + 0.6 + 0.9) / 3]))
    torch.testing.assert_close(votes.robust_metric(0), torch.tensor([0.7]))
    assert votes.robust_metric(5).isnan().all()


def test_sigmoid_channels_vote_for_themselves():
    image = random_image((1, 1, 10, 10)) - 0.5
    network = LinearNetwork((3.0, 2.0), (0.1, 0.6))
    inferer = NoisyMajorityInferer(sigma=0.2, samples=10, activation="sigmoid")
    votes, scores = inferer.votes(image, network), inferer(image, network)
    torch.testing.assert_close(scores.sigmoid(), votes.shares, atol=2e-6, rtol=0)
    assert torch.equal(votes.majority, (scores > 0).to(torch.int16))
    assert bool((votes.shares.sum(dim=1) > 1).any())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_output_is_the_mean_probability_with_its_exact_gradient(activation):
    image = random_image((2, 1, 5, 6), dtype=torch.float64).requires_grad_()
    network = tiny_segmentation_network(spatial_dims=2).double()
    recorder = []

    def record(seen):
        recorder.append(seen.detach())
        return network(seen)

    inferer = NoisyMajorityInferer(sigma=0.3, samples=6, soft=True, copies_at_once=2, activation=activation)
    scores = inferer(image, record)
    noise = torch.cat(recorder).unflatten(0, (6, 2)) - image.detach()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), image)
    logits = network((image + noise).flatten(0, 1)).unflatten(0, (6, 2))
    if activation == "sigmoid":
        expected = torch.logit(logits.sigmoid().mean(dim=0))
    else:
        expected = logits.softmax(dim=2).mean(dim=0).log()
    (expected_gradient,) = torch.autograd.grad(expected[:, 1].sum(), image)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_an_attack_with_expectation_over_draws_sees_a_gradient():
    image = random_image((2, 1, 8, 8, 8))
    label = (image > 0.5).long()
    inferer = NoisyMajorityInferer(sigma=0.2, samples=2, soft=True)
    network = LinearNetwork((-4.0, 4.0), (2.0, -2.0))
    attack = PGD(epsilon=0.1, units="network", steps=5, gradient=ExpectationOverTransformation(2), random_start=False)
    result = attack(AttackedModel(network, inferer), image, label)
    moved = (result.adversarial - image) * (1 - 2 * label)
    assert float(moved.mean()) > 0.09  # toward the other class by nearly all of the budget
    hard = NoisyMajorityInferer(sigma=0.2, samples=2)
    with pytest.raises(RuntimeError, match="does not depend on the image"):
        attack(AttackedModel(network, hard), image, label)


def test_sliding_windows_cut_the_noisy_volume():
    image, network = random_image((1, 1, 20, 17, 18)), tiny_segmentation_network()
    windows = SlidingWindowInferer((16, 16, 16), 2, 0.5, mode="gaussian")
    votes = NoisyMajorityInferer(windows, sigma=0.2, samples=4, copies_at_once=2).votes(image, network)
    recorder = Recorder()
    NoisyMajorityInferer(sigma=0.2, samples=4)(image, recorder)
    expected = torch.stack([windows(copy[None], network).argmax(dim=1) for copy in recorder.seen])
    for label in range(3):
        assert torch.equal(votes.counts[:, label].long(), (expected == label).sum(dim=0))


def test_sigma_in_hounsfield_units_scales_with_the_intensity_map():
    image, seen = random_image((1, 1, 12, 12)), Recorder()
    scale = ScaleIntensityRange(a_min=-100, a_max=300, b_min=0, b_max=1, clip=True)
    NoisyMajorityInferer(sigma=40.0, units="HU", intensity=scale, samples=1)(image, seen)
    NoisyMajorityInferer(sigma=0.1, samples=1)(image, seen)
    NoisyMajorityInferer(sigma=0.1, units="fraction", intensity=scale, samples=1)(image, seen)
    torch.testing.assert_close(seen.seen[0], seen.seen[1])
    torch.testing.assert_close(seen.seen[2], seen.seen[1])
    NoisyMajorityInferer(sigma=0.1, units="HU", image_units="HU", samples=1)(image, seen)
    torch.testing.assert_close(seen.seen[3], seen.seen[1])
    with pytest.raises(ValueError, match="units='HU' .* intensity="):
        NoisyMajorityInferer(sigma=40.0, units="HU")


def test_denoisers_see_the_noisy_copies():
    image, plain, purified, called = random_image((2, 1, 6, 6)), Recorder(), Recorder(), Recorder()
    NoisyMajorityInferer(sigma=0.2, samples=2)(image, plain)
    NoisyMajorityInferer(sigma=0.2, samples=2, denoiser=[Doubled(), Doubled()])(image, purified)
    NoisyMajorityInferer(sigma=0.2, samples=2, denoiser=lambda x: 4.0 * x)(image, called)
    torch.testing.assert_close(torch.stack(purified.seen), 4.0 * torch.stack(plain.seen))
    torch.testing.assert_close(torch.stack(called.seen), 4.0 * torch.stack(plain.seen))
    with pytest.raises(TypeError, match="purifier must be a Purifier"):
        NoisyMajorityInferer(sigma=0.2, denoiser=["median"])


def test_random_denoisers_draw_for_each_copy():
    image, one, four = 1.0 + random_image((2, 1, 6, 6)), Recorder(), Recorder()
    gain = RandomGain()
    NoisyMajorityInferer(sigma=1e-4, samples=4, denoiser=gain)(image, one)
    NoisyMajorityInferer(sigma=1e-4, samples=4, denoiser=gain, copies_at_once=4)(image, four)
    torch.testing.assert_close(torch.stack(one.seen), torch.stack(four.seen))
    gains = torch.stack(one.seen).flatten(1).mean(dim=1)
    assert len(gains.round(decimals=2).unique()) == 8


def scans() -> MetaTensor:
    affines = np.stack([np.diag([2.0, 3.0, 4.0, 1.0]), np.diag([3.0, 3.0, 3.0, 1.0])])
    return MetaTensor(100 * random_image((2, 1, 8, 10, 12)), affine=torch.as_tensor(affines))


@pytest.mark.parametrize("place", ["around", "inside"])
def test_with_a_scanner_space_inferer_each_sample_keeps_its_affine_and_noise(place):
    scale = ScaleIntensityRange(a_min=0, a_max=100, b_min=0, b_max=1, clip=False)
    images, network = scans(), tiny_segmentation_network()
    if place == "around":
        space = ScannerSpaceInferer(None, 3.0, "RAS", scale)
        inferer = NoisyMajorityInferer(space, sigma=20.0, units="HU", image_units="HU", samples=3, copies_at_once=2)
    else:
        inferer = ScannerSpaceInferer(NoisyMajorityInferer(None, sigma=0.2, samples=3), 3.0, "RAS", scale)
    whole = inferer(images, network)
    assert isinstance(whole, MetaTensor) and whole.shape == (2, 3, 8, 10, 12)
    one = MetaTensor(images.as_tensor()[1:], affine=images.affine[1:])
    torch.testing.assert_close(inferer(one, network).as_tensor(), whole.as_tensor()[1:])
    bound = inferer.for_image(images)
    plain = images.as_tensor()
    torch.testing.assert_close(bound.for_samples([1])(plain[1:], network), bound(plain, network)[1:])
    if place == "around":  # inside, the bound noise belongs to the scanner's voxels, not those of the network's grid
        torch.testing.assert_close(bound(plain, network), whole.as_tensor())


def test_metadata_is_kept_and_integers_are_computed_in_float():
    image = MetaTensor(torch.arange(64).view(1, 1, 4, 4, 4), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    scores = NoisyMajorityInferer(sigma=1.0, samples=2)(image, LinearNetwork())
    assert isinstance(scores, MetaTensor) and scores.dtype == torch.float32
    assert torch.equal(scores.affine.float(), image.affine.float())


def test_bound_inferer_adds_the_clean_images_noise_and_refuses_another_batch_size():
    image, clean, moved = random_image((2, 1, 6, 6)), Recorder(), Recorder()
    bound = NoisyMajorityInferer(sigma=0.3, samples=2).for_image(image)
    bound(image, clean)
    bound(image + 1.0, moved)
    torch.testing.assert_close(torch.stack(moved.seen), torch.stack(clean.seen) + 1.0)
    with pytest.raises(ValueError, match="inputs has 1 samples, but the inferer is bound to 2"):
        bound(image[:1], clean)
    with pytest.raises(ValueError, match="for_samples needs"):
        NoisyMajorityInferer(sigma=0.3).for_samples([0])


def test_one_of_several_outputs_votes():
    image, network = random_image((1, 1, 6, 6)), LinearNetwork()

    def several(x):
        return {"auxiliary": x, "logits": network(x)}

    expected = NoisyMajorityInferer(sigma=0.3, samples=3)(image, network)
    torch.testing.assert_close(NoisyMajorityInferer(sigma=0.3, samples=3, output="logits")(image, several), expected)
    with pytest.raises(TypeError, match="pass output="):
        NoisyMajorityInferer(sigma=0.3, samples=3)(image, several)


def test_inside_a_purified_inferer_it_votes_on_the_purified_image():
    image, outer, plain = random_image((2, 1, 6, 6)), Recorder(), Recorder()
    PurifiedInferer(NoisyMajorityInferer(sigma=0.2, samples=2), Doubled())(image, outer)
    NoisyMajorityInferer(sigma=0.2, samples=2)(2.0 * image, plain)
    torch.testing.assert_close(torch.stack(outer.seen), torch.stack(plain.seen))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number > 0"),
        ({"samples": 0}, "samples must be an integer >= 1"),
        ({"copies_at_once": 0}, "copies_at_once must be an integer >= 1"),
        ({"activation": "tanh"}, "activation must be one of"),
        ({"units": "mm"}, "units must be one of"),
    ],
)
def test_bad_arguments_stop_early(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoisyMajorityInferer(**{"sigma": 0.1, **arguments})
