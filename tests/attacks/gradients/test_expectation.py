# SPDX-License-Identifier: Apache-2.0
"""Expectation over transformation: the mean over draws, and draws that depend on nothing but case and number."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, BackwardPassSubstitute, ExpectationOverTransformation
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.draws import current_draw, draw_seed, random_draw
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.purifiers.examples import RandomGain, Rounded
from tests.utils.test_backward_pass import square_of


def test_gradient_is_the_mean_over_the_draws():
    image = random_image((3, 1, 4, 4))
    inferer = PurifiedInferer(None, RandomGain()).for_image(image)
    found = ExpectationOverTransformation(7).evaluate(square_of(inferer), (image,))
    gains = []
    for sample in range(7):
        with random_draw(sample):
            gains.append(RandomGain.gains(image, inferer._bound))
    squared = torch.stack(gains).square().mean(dim=0).view(-1, 1, 1, 1)
    torch.testing.assert_close(found.gradients[0], 2 * image * squared)
    torch.testing.assert_close(found.values, (image.square() * squared).flatten(1).sum(dim=1))
    torch.testing.assert_close(found.ranks, found.values)
    assert (found.forwards, found.backwards) == (7, 7)
    assert len(torch.stack(gains).unique()) == 21


def test_rank_is_the_mean_over_the_same_draws():
    image = random_image((2, 1, 4, 4))
    function = square_of(PurifiedInferer(None, RandomGain()).for_image(image))
    estimator = ExpectationOverTransformation(5, BackwardPassSubstitute())
    torch.testing.assert_close(estimator.rank(function, (image,)), estimator.evaluate(function, (image,)).ranks)


def test_more_draws_estimate_the_expectation_better():
    """The mean square of a uniform gain from 0 to 2 is 4/3."""
    image = random_image((1, 1, 4, 4))
    function = square_of(PurifiedInferer(None, RandomGain()).for_image(image))
    exact = 2 * image * 4 / 3
    errors = [
        float((ExpectationOverTransformation(n).evaluate(function, (image,)).gradients[0] - exact).norm())
        for n in (2, 2000)
    ]
    assert errors[1] < 0.1 * float(exact.norm())
    assert errors[1] < errors[0]


def attack_random(image, label, **options):
    attack = PGD(
        0.05,
        steps=3,
        gradient=ExpectationOverTransformation(3, BackwardPassSubstitute()),
        **options,
    )
    purifiers = [RandomGain(), Rounded(0.01)]
    model = AttackedModel(tiny_segmentation_network(), PurifiedInferer(None, purifiers), precision="float32")
    return attack(model, image, label)


@pytest.mark.parametrize("early_stop", [False, True])
def test_result_does_not_depend_on_batch_or_order(early_stop):
    image, label = random_image((3, 1, 8, 8, 8)), random_label((3, 1, 8, 8, 8))
    together = attack_random(image, label, early_stop=early_stop)
    again = attack_random(image.flip(0), label.flip(0), early_stop=early_stop)
    assert torch.equal(together.adversarial, again.adversarial.flip(0))
    for i in range(3):
        alone = attack_random(image[i : i + 1], label[i : i + 1], early_stop=early_stop)
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[i], rtol=0, atol=1e-6)


def test_draws_nest_and_are_forgotten():
    with random_draw(1, 2), random_draw(3):
        assert current_draw() == (1, 2, 3)
        inner = draw_seed(5)
    assert current_draw() == ()
    assert inner != draw_seed(5)
    seeds = {draw_seed(case, stream) for case in range(50) for stream in range(50)}
    assert len(seeds) == 2500


def test_samples_must_be_a_count():
    with pytest.raises(ValueError, match="samples must be an integer >= 1"):
        ExpectationOverTransformation(0)
