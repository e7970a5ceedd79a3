# SPDX-License-Identifier: Apache-2.0
"""Backward pass substitution: values untouched, gradients of the chosen stand-in."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, BackwardPassSubstitute, ExactGradient
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.backward_pass import backward_pass, call_with_backward_pass
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network
from tests.purifiers.examples import Doubled, Rounded, TripledInSecret


def square_of(inferer):
    """The sum of squares of the purified image as an objective of one parameter tensor, the image."""

    def function(parameters):
        purified = inferer(parameters[0], lambda image: image)
        values = (purified**2).flatten(1).sum(dim=1)
        return values, values, purified

    return function


@pytest.mark.parametrize(
    ("purifier", "substitute", "slope"),
    [
        (Doubled(), "declared", 2.0),
        (Doubled(), "exact", 2.0),
        (Doubled(), "identity", 1.0),
        (Rounded(), "declared", 1.0),
        (Rounded(), "identity", 1.0),
        (Rounded(), "surrogate", 1.0),
        (TripledInSecret(), "declared", 3.0),
        (TripledInSecret(), "surrogate", 3.0),
        (TripledInSecret(), "identity", 1.0),
    ],
)
def test_value_is_of_the_purifier_and_gradient_of_the_stand_in(purifier, substitute, slope):
    image = random_image((2, 1, 4, 4, 4))
    inferer = PurifiedInferer(None, purifier)
    found = BackwardPassSubstitute(substitute).evaluate(square_of(inferer), (image,))
    purified = purifier.purify(image, None)
    torch.testing.assert_close(found.logits, purified, rtol=0, atol=0)
    torch.testing.assert_close(found.gradients[0], 2 * purified * slope)


@pytest.mark.parametrize("estimator", [ExactGradient(), BackwardPassSubstitute("exact")])
@pytest.mark.parametrize("purifier", [Rounded(), TripledInSecret()])
def test_exact_gradient_of_a_purifier_without_one_is_refused_by_name(estimator, purifier):
    inferer = PurifiedInferer(None, purifier)
    message = rf"{type(purifier).__name__} has no useful gradient.*BackwardPassSubstitute"
    with pytest.raises(RuntimeError, match=message):
        estimator.evaluate(square_of(inferer), (random_image((1, 1, 4, 4)),))


def test_nothing_is_in_force_afterwards_even_after_an_error():
    with pytest.raises(ZeroDivisionError), backward_pass("identity"):
        raise ZeroDivisionError
    image = random_image((1, 1, 4)).requires_grad_()
    with pytest.raises(RuntimeError, match="no useful gradient"):
        call_with_backward_pass(torch.round, image)


def test_without_a_gradient_to_compute_any_purifier_just_runs():
    image = random_image((1, 1, 4, 4))
    assert torch.equal(PurifiedInferer(None, Rounded())(image, lambda x: x), Rounded().purify(image, None))


def test_stand_in_of_another_shape_is_refused():
    image = random_image((1, 1, 4)).requires_grad_()
    with pytest.raises(RuntimeError, match="must return shape"), backward_pass("surrogate"):
        call_with_backward_pass(torch.round, image, "surrogate", lambda x: x[..., :2], "it")


def test_unknown_substitute_is_refused():
    with pytest.raises(ValueError, match="substitute must be one of"):
        BackwardPassSubstitute("magic")


def test_straight_through_breaks_a_rounding_defense_as_far_as_the_linear_model_allows():
    """Rounding to 0.1 hides nothing from PGD of 0.25: every voxel reaches the end of its budget."""
    network = LinearNetwork((-1.0, 1.0))
    image = 0.5 + 0.2 * random_image((2, 1, 6, 6, 6))
    label = torch.ones_like(image).long()
    attack = PGD(0.25, steps=8, gradient=BackwardPassSubstitute(), objective="cross_entropy")
    inferer = PurifiedInferer(None, Rounded(0.1))
    result = attack(AttackedModel(network, inferer, precision="float32"), image, label)
    # A rounded image of the same value leaves several voxels as good as the last: all that counts is the rounded one.
    worst = Rounded(0.1).purify(image - 0.25, None)
    torch.testing.assert_close(Rounded(0.1).purify(result.adversarial, None), worst)


def test_through_sliding_windows_the_gradient_is_that_of_one_pass():
    from monai.inferers import SlidingWindowInferer

    network = tiny_segmentation_network(out_channels=2)
    image, label = random_image((1, 1, 12, 12, 12)), random_label((1, 1, 12, 12, 12), classes=2)
    # A mean over voxels: its gradient needs nothing of the step before.
    attack = PGD(0.05, steps=3, objective="ce", gradient=BackwardPassSubstitute(), random_start=False)
    model = AttackedModel(network, PurifiedInferer(None, Rounded(0.1)), precision="float32")
    whole = attack(model, image, label)
    windows = SlidingWindowInferer((12, 12, 12), 1, 0.0)
    windowed = attack(model.replace(inferer=PurifiedInferer(windows, Rounded(0.1))), image, label)
    torch.testing.assert_close(whole.adversarial, windowed.adversarial)


def test_start_lets_an_attack_go_on_where_another_stopped():
    network = AttackedModel(tiny_segmentation_network(out_channels=2), precision="float32")
    image, label = random_image((2, 1, 8, 8, 8)), random_label((2, 1, 8, 8, 8), classes=2)
    attack = PGD(0.02, steps=4, random_start=False)
    first = attack(network, image, label)
    second = attack(network, image, label, start=first.parameters)
    assert bool((second.objective >= first.objective).all())
    torch.testing.assert_close(second.objective_history[0], first.objective)
    with pytest.raises(ValueError, match="start must hold parameters of shapes"):
        attack(network, image, label, start=(image[:1],))
