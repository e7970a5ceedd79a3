# SPDX-License-Identifier: Apache-2.0
"""The worst of N random transforms: strength, every draw reported, the same whatever the batch."""

from __future__ import annotations

import monai.transforms as mt
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import AdditiveNoise, AffineTransform, Attack, DrawnResult, RandomSearch, WorstOf
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.hashing import describe
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes

NOISE = mt.RandGaussianNoise(std=0.25)
MOVED = mt.RandAffine(rotate_range=(0.4, 0.4, 0.4), translate_range=(2, 2, 2), padding_mode="border")


def with_affine(image: torch.Tensor) -> MetaTensor:
    return MetaTensor(image, affine=torch.diag(torch.tensor([1.0, 2.0, 2.5, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize("transform", [NOISE, MOVED])
def test_more_draws_are_never_weaker(transform: object) -> None:
    image, label = bright_boxes(batch=3)
    found = [WorstOf(transform, draws)(NumpyNetwork(), image, label) for draws in (1, 4, 16)]
    dice = [result.adversarial_dice for result in found]
    assert bool((dice[2] <= dice[1]).all() and (dice[1] <= dice[0]).all())
    assert bool((dice[2] < dice[0]).any())
    for fewer, more in zip(found, found[1:], strict=False):  # the first draws are the same
        assert torch.equal(more.draw_dice[: len(fewer.draw_dice)], fewer.draw_dice)


def test_every_draw_is_reported() -> None:
    image, label = bright_boxes(batch=3)
    result = WorstOf(MOVED, 5)(NumpyNetwork(), with_affine(image), label)
    assert isinstance(result, DrawnResult)
    assert result.draw_dice.shape == (5, 3) and result.draw_volumes.shape == (5, 3, 2)
    assert torch.equal(result.worst_dice, result.adversarial_dice)
    assert torch.equal(result.mean_dice, result.draw_dice.mean(dim=0))
    torch.testing.assert_close(result.draw_volumes.sum(dim=2), torch.full((5, 3), 12**3 * 5 / 1000).double())
    assert result.volume_units == "ml"
    spread = result.draw_volumes.std(dim=0) / result.draw_volumes.mean(dim=0)
    assert torch.equal(result.volume_variation, spread) and bool((spread > 0).all())
    worst = result.draw_dice.argmin(dim=0)
    for sample in range(3):
        organ = float((result.prediction[sample] == 1).sum()) * 5 / 1000
        assert float(result.draw_volumes[worst[sample], sample, 1]) == pytest.approx(organ)
        true = float((result.label[sample] == 1).sum()) * 5 / 1000
        assert float(result.draw_reference_volumes[worst[sample], sample, 1]) == pytest.approx(true)
    assert "5 draws: mean foreground Dice" in str(result)


def test_volumes_are_voxels_without_a_spacing() -> None:
    image, label = bright_boxes()
    result = WorstOf(NOISE, 2)(NumpyNetwork(), image, label)
    assert result.volume_units == "voxels" and bool((result.clean_volumes.sum(dim=1) == 12**3).all())


def test_passes_are_counted() -> None:
    image, label = bright_boxes()
    network = NumpyNetwork()
    result = WorstOf(NOISE, 7)(network, image, label)
    assert result.forwards == network.calls == 2 * (7 + 2) and result.backwards == 0


@pytest.mark.parametrize("transform", [NOISE, MOVED])
def test_draws_do_not_depend_on_batch_order_or_global_seeds(transform: object) -> None:
    image, label = bright_boxes(batch=3)
    attack = WorstOf(transform, 4)
    together = attack(NumpyNetwork(), image, label)
    torch.manual_seed(123)
    backwards = attack(NumpyNetwork(), image.flip(0), label.flip(0))
    assert torch.equal(backwards.draw_dice.flip(1), together.draw_dice)
    alone = attack(NumpyNetwork(), image[1:2], label[1:2])
    assert torch.equal(alone.adversarial[0], together.adversarial[1])
    assert torch.equal(alone.draw_volumes[:, 0], together.draw_volumes[:, 1])
    other = WorstOf(transform, 4, seed=1)(NumpyNetwork(), image, label)
    assert not torch.equal(other.draw_dice, together.draw_dice)


def test_a_draw_is_made_again_from_its_parameters() -> None:
    image, label = bright_boxes()
    result = WorstOf(MOVED, 3)(NumpyNetwork(), image, label)
    assert torch.equal(result.bound.apply(image, result.parameters), result.adversarial)
    assert torch.equal(result.bound.move_label(label, result.parameters), result.label)
    result.verify(result.adversarial)
    control, moved = result.random_control()
    assert not torch.equal(control, result.adversarial) and moved.shape == label.shape


def test_the_worst_is_by_the_classes_that_are_scored() -> None:
    image, label = bright_boxes()

    def three(seen: torch.Tensor) -> torch.Tensor:
        """A third class that no label has, invented by noise."""
        logits = NumpyNetwork()(seen)
        return torch.cat([logits, 40 * (seen - 0.75)], dim=1)

    model = AttackedModel(three, class_names={1: "organ"})
    result = WorstOf(NOISE, 6)(model, image, label)
    torch.testing.assert_close(result.adversarial_dice, result.draw_dice.amin(dim=0))


def test_without_a_label_the_reference_is_the_moved_prediction() -> None:
    image, _ = bright_boxes()
    result = WorstOf(mt.RandFlip(spatial_axis=0), 2)(NumpyNetwork(), image)
    # The network knows no direction: what it says of the mirrored image is what it said, mirrored.
    assert result.reference_is_prediction and result.adversarial_dice.tolist() == [1.0, 1.0]


def test_it_sees_the_answer_of_sliding_windows() -> None:
    image, label = bright_boxes()
    model = AttackedModel(SmoothThreshold(), SlidingWindowInferer((8, 8, 8), overlap=0.5))
    result = WorstOf(NOISE, 4)(model, image, label)
    assert torch.equal(result.worst_dice, result.adversarial_dice) and result.forwards == 2 * 6


def test_sigmoid_masks_have_volumes() -> None:
    image, label = bright_boxes()

    def masks(seen: torch.Tensor) -> torch.Tensor:
        return torch.cat([20 * (seen - 0.5), 20 * (seen - 0.3)], dim=1)

    model = AttackedModel(masks, activation="sigmoid", output_values="logits")
    both = torch.cat([label, torch.ones_like(label)], dim=1)
    result = WorstOf(NOISE, 3)(model, image, both)
    assert result.draw_volumes.shape == (3, 2, 2)
    assert torch.equal(result.clean_volumes[:, 0], (result.clean_prediction[:, 0] > 0).flatten(1).sum(dim=1).double())
    assert torch.equal(result.draw_reference_volumes[0, :, 1], torch.full((2,), 12.0**3).double())


def test_points_of_a_perturbation_are_drawn_within_its_budget() -> None:
    image, label = bright_boxes()
    result = WorstOf(AffineTransform(5.0, 2.0, 0.0), 4)(NumpyNetwork(), with_affine(image), label)
    assert float(result.budgets["rotation_0"].values.max()) <= 5.0
    assert not torch.equal(result.label, label)


def test_training_gets_the_worst_draw() -> None:
    image, label = bright_boxes()
    made = WorstOf(MOVED, 5).perturb(NumpyNetwork(), image, label)
    scored = WorstOf(MOVED, 5)(NumpyNetwork(), image, label)
    torch.testing.assert_close(made.adversarial, scored.adversarial)
    assert torch.equal(made.label, scored.label)


def test_it_is_shown_the_same_in_every_process() -> None:
    first, again = (WorstOf(mt.RandGaussianNoise(std=0.1), 3, seed=2) for _ in range(2))
    assert repr(first) == repr(again) == "WorstOf(RandomTransform(RandGaussianNoise()), draws=3, seed=2)"
    other = WorstOf(mt.RandGaussianNoise(std=0.2), 3, seed=2)
    assert repr(other) != repr(first)
    assert describe(first) == describe(again) != describe(other)


def test_running_it_does_not_change_what_it_is() -> None:
    image, label = bright_boxes()
    attack = WorstOf(mt.RandSimulateLowResolution(), 2)
    before = describe(attack), repr(attack)
    attack(NumpyNetwork(), image, label)
    assert (describe(attack), repr(attack)) == before


def test_random_search_of_noise_keeps_the_best() -> None:
    image, label = bright_boxes()
    result = Attack(AdditiveNoise(0.1), search=RandomSearch(), steps=5)(NumpyNetwork(), image, label)
    assert torch.equal(result.objective, result.objective_history.amax(dim=0))
    assert result.forwards == 2 * 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"early_stop": True}, "early_stop must be False for WorstOf"),
        ({"draws": 0}, "draws must be"),
        ({"units": "mm"}, "units must be one of"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorstOf(NOISE, **arguments)


def test_options_of_transforms_are_refused_for_a_perturbation() -> None:
    with pytest.raises(ValueError, match="units, moves_anatomy and keep_prob are for transforms"):
        WorstOf(AdditiveNoise(0.1), units="HU")
