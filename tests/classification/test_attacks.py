# SPDX-License-Identifier: Apache-2.0
"""Attacks on classifiers: closed forms, labels of every kind, both ranks of images, every recipe."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from monai.transforms import RandGaussianNoise
from torch import nn

from monai_adversarial.attacks import (
    APGD,
    BIM,
    DLR,
    FGSM,
    MIFGSM,
    PGD,
    AdditiveNoise,
    AffineAttack,
    AnnealedDice,
    Attack,
    AutoAttack3D,
    BalancedCrossEntropy,
    BiasFieldAttack,
    CosPGD,
    CrossEntropy,
    Dice,
    DiceCE,
    ElasticAttack,
    HardDice,
    JensenShannon,
    Margin,
    MaskedCrossEntropy,
    Objective,
    RandomSearch,
    SegPGD,
    SquareAttack,
    SSIMPenalized,
    StAdv,
    WorstOf,
)
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import AdvNoise, BitDepthReduction
from tests.classification.networks import BlobClassifier, LinearClassifier, blob, images

EPSILON = 0.01


def logits_of(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_margin_of_a_linear_classifier_falls_by_the_closed_form(dims: int) -> None:
    """Of two classes, no perturbation of the budget raises the margin by more than epsilon times the L1 norm of the
    difference of their weights, and one step along the sign reaches it."""
    network, image = LinearClassifier(2, dims), images(dims=dims)
    label = logits_of(network, image).argmax(1)
    result = FGSM(EPSILON, objective="margin")(network, image, label)
    logits, moved = logits_of(network, image), logits_of(network, result.adversarial)
    rows = torch.arange(len(label))
    gained = (moved[rows, 1 - label] - moved[rows, label]) - (logits[rows, 1 - label] - logits[rows, label])
    most = EPSILON * (network.weight[0] - network.weight[1]).abs().sum()
    assert gained.tolist() == pytest.approx([float(most)] * len(label), rel=1e-4)
    assert torch.equal(result.success, moved.argmax(1) != label)
    assert result.budgets["noise_linf"].values.max() <= EPSILON * (1 + 1e-5)


def test_scores_are_those_of_the_network_itself() -> None:
    network, image = LinearClassifier(4), images(12)
    label = torch.arange(12) % 4
    result = PGD(EPSILON, steps=3)(network, image, label)
    assert result.metric == "accuracy"
    assert torch.equal(result.clean_score, (logits_of(network, image).argmax(1) == label).float())
    assert torch.equal(result.adversarial_score, (logits_of(network, result.adversarial).argmax(1) == label).float())
    assert torch.equal(result.prediction[:, 0], logits_of(network, result.adversarial).argmax(1).to(torch.uint8))
    assert torch.equal(result.success, (result.clean_score == 1) & (result.adversarial_score == 0))
    assert "accuracy with the label" in str(result) and "another class" in str(result)
    with pytest.raises(AttributeError, match="has no clean_dice: read clean_score, its accuracy"):
        _ = result.clean_dice


@pytest.mark.parametrize("shape", ["numbers", "column", "one_hot", "array"])
def test_labels_of_every_kind_are_the_same_label(shape: str) -> None:
    network, image = LinearClassifier(3), images(5)
    numbers = torch.tensor([0, 1, 2, 0, 1])
    label: Any = {
        "numbers": numbers,
        "column": numbers[:, None].float(),
        "one_hot": nn.functional.one_hot(numbers, 3),
        "array": numbers.numpy(),
    }[shape]
    plain, other = (PGD(EPSILON, steps=2)(network, image, given) for given in (numbers, label))
    assert torch.equal(plain.adversarial, other.adversarial)
    assert type(other.label) is type(label) and other.label.shape == label.shape and other.label.dtype == label.dtype
    assert (torch.as_tensor(other.label) == torch.as_tensor(label)).all()


def test_without_a_label_the_own_prediction_is_attacked() -> None:
    network, image = LinearClassifier(3), images(5)
    result = PGD(EPSILON, steps=3)(network, image)
    assert result.reference_is_prediction and result.clean_score.tolist() == [1.0] * 5
    assert torch.equal(result.label[:, 0].long(), logits_of(network, image).argmax(1))
    assert result.success.any()


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_logit_is_a_binary_classifier(squeeze: bool, activation: str | None) -> None:
    network, image = LinearClassifier(1, activation=activation, squeeze=squeeze), images(6)
    plain = LinearClassifier(1)
    label = (logits_of(plain, image)[:, 0] > 0).long()
    assert label.unique().tolist() == [0, 1]
    model = AttackedModel(network)
    result = PGD(EPSILON, steps=3)(model, image, label)
    assert model.found_output_values == ("logits" if activation is None else "probabilities")
    assert any("the logit of a binary classifier" in fact for fact in result.facts)
    moved = logits_of(plain, result.adversarial)[:, 0]
    towards = torch.where(label > 0, -1.0, 1.0)
    gained = (moved - logits_of(plain, image)[:, 0]) * towards
    assert gained.tolist() == pytest.approx([float(EPSILON * network.weight.abs().sum())] * 6, rel=1e-4)
    assert torch.equal(result.adversarial_score == 1, (moved > 0).long() == label)


def test_one_image_of_a_network_that_ends_in_sigmoid_is_read_as_probabilities() -> None:
    """One value tells nothing by itself; the activation that it came from does."""
    model = AttackedModel(LinearClassifier(1, activation="sigmoid"))
    image = images(6)
    plain = logits_of(LinearClassifier(1), image)
    negative = int((plain[:, 0] < 0).nonzero()[0])
    result = PGD(EPSILON, steps=2)(model, image[negative : negative + 1])
    assert model.found_output_values == "probabilities" and result.clean_prediction.item() == 0


def test_one_value_from_an_unknown_activation_is_said_to_be_a_guess() -> None:
    network = LinearClassifier(1, activation="sigmoid")
    with pytest.warns(UserWarning, match="no final softmax or sigmoid was found: they are taken for logits"):
        PGD(EPSILON, steps=1)(lambda x: network(x).detach() + 0 * x.flatten(1).sum(1, keepdim=True), images(1))


def test_a_few_logits_within_0_and_1_are_no_probabilities_of_softmax() -> None:
    class Small(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.stack([image.flatten(1).mean(1) * 0.1, image.flatten(1).amax(1) * 1.2], dim=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AttackedModel(Small(), activation="softmax")
        PGD(EPSILON, steps=1)(model, images(1))
    assert model.found_output_values == "logits"


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_network_that_ends_in_an_activation_is_attacked_as_its_logits(activation: str) -> None:
    image = images(6)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    if activation == "sigmoid":
        label = (torch.arange(18).view(6, 3) % 2).long()
    plain = AttackedModel(LinearClassifier(3), activation=activation)
    ends = AttackedModel(LinearClassifier(3, activation=activation))
    first, second = (PGD(EPSILON, steps=3)(model, image, label) for model in (plain, ends))
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(first.prediction, second.prediction)


def test_several_labels_at_once_are_scored_by_their_share() -> None:
    network, image = LinearClassifier(4), images(8)
    label = (logits_of(network, image) > 0).long()
    assert (label.sum(dim=1) != 1).any()
    model = AttackedModel(network, output_values="logits")
    result = PGD(2 * EPSILON, steps=4)(model, image, label)
    right = (logits_of(network, result.adversarial) > 0).long() == label
    assert torch.allclose(result.adversarial_score, right.float().mean(dim=1))
    assert result.prediction.shape == (8, 4) and "share of right decisions" in result.success_rule
    assert result.adversarial_score.mean() < result.clean_score.mean()
    chosen = AttackedModel(network, activation="sigmoid", scored_classes=[2])
    one = PGD(2 * EPSILON, steps=4)(chosen, image, label)
    assert set(one.adversarial_score.tolist()) <= {0.0, 1.0}
    assert one.adversarial_score.mean() <= (logits_of(network, result.adversarial)[:, 2] > 0).eq(label[:, 2]).sum()


def test_a_targeted_attack_reaches_the_wanted_class() -> None:
    network, image = LinearClassifier(3), images(6)
    wanted = (logits_of(network, image).argmax(1) + 1) % 3
    result = PGD(0.1, steps=10, targeted=True)(network, image, wanted)
    assert torch.equal(logits_of(network, result.adversarial).argmax(1), wanted)
    assert result.success.all() and "the wanted class" in str(result)
    assert not PGD(1e-5, steps=2, targeted=True)(network, image, wanted).success.any()


def test_more_budget_and_more_steps_never_leave_more() -> None:
    network, image = LinearClassifier(3), images(16)
    label = logits_of(network, image).argmax(1)
    left = [
        float(PGD(budget, steps=4)(network, image, label).adversarial_score.mean()) for budget in (0.001, 0.01, 0.1)
    ]
    assert left == sorted(left, reverse=True) and left[-1] == 0 < left[0]
    values = [PGD(EPSILON, steps=steps)(network, image, label).objective.mean() for steps in (1, 3, 10)]
    assert values[0] <= values[1] + 1e-6 <= values[2] + 2e-6


def test_gradients_are_stronger_than_queries_and_queries_than_chance() -> None:
    network, image = LinearClassifier(3), images(16)
    label = logits_of(network, image).argmax(1)
    gradients = PGD(EPSILON, steps=10)(network, image, label)
    square = SquareAttack(EPSILON, queries=100, objective=Margin(math.inf))(network, image, label)
    random = Attack(AdditiveNoise(EPSILON), Margin(math.inf), RandomSearch(), steps=10)(network, image, label)
    gained = [result.objective.mean() for result in (gradients, square, random)]
    assert gained[0] > gained[1] > gained[2]
    control, _ = gradients.random_control()
    assert (logits_of(network, control).argmax(1) == label).float().mean() > gradients.adversarial_score.mean()


ATTACKS = [
    FGSM(EPSILON),
    BIM(EPSILON, steps=3),
    MIFGSM(EPSILON, steps=3),
    MIFGSM(EPSILON, steps=3, diversity=0.5, translation=3),
    PGD(EPSILON, steps=3, norm="l2"),
    APGD(EPSILON, steps=4),
    BiasFieldAttack(steps=2),
    ElasticAttack(2.0, control_spacing=4.0, steps=2),
    AffineAttack(steps=2),
    StAdv(2.0, steps=2),
    SquareAttack(EPSILON, queries=6),
    WorstOf(RandGaussianNoise(prob=1.0, std=0.05), draws=3),
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_every_recipe_attacks_a_classifier(attack: Attack, dims: int) -> None:
    network, image = LinearClassifier(3, dims), images(4, dims)
    before = copy.deepcopy(network.state_dict())
    label = logits_of(network, image).argmax(1)
    result = attack(network, image, label, spacing=(1.0,) * dims)
    assert result.metric == "accuracy" and torch.equal(result.label, label)
    assert torch.equal(result.prediction[:, 0].long(), logits_of(network, result.adversarial).argmax(1))
    assert (result.adversarial != image).any()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    made = attack.perturb(network, image, label, spacing=(1.0,) * dims) if attack.search.uses_gradients else None
    if made is not None:
        assert torch.equal(made.label, label) and made.adversarial.shape == image.shape
    alone = attack(network, image[1:2], label[1:2], spacing=(1.0,) * dims)
    assert torch.allclose(alone.adversarial, result.adversarial[1:2], atol=1e-5), "a batch is its samples one by one"


def test_moving_the_anatomy_leaves_the_label_where_it_is() -> None:
    """A segmentation would move along; a class of the image is what the attack has to change."""
    network, image = BlobClassifier(), torch.cat([blob(-0.12), blob(0.12)])
    label = torch.tensor([0, 1])
    assert torch.equal(logits_of(network, image).argmax(1), label)
    result = AffineAttack(max_rotation=0.0, max_scale=0.0, max_translation=3.0, steps=10)(
        network, image, label, spacing=(1.0, 1.0, 1.0)
    )
    assert torch.equal(result.label, label) and result.success.all()
    _, control = result.random_control()
    assert torch.equal(control, label)


def test_early_stop_and_restarts_work_on_what_is_left() -> None:
    network, image = LinearClassifier(3), images(8)
    label = logits_of(network, image).argmax(1)
    stopped = PGD(EPSILON, steps=10, restarts=2, early_stop=True)(network, image, label)
    whole = PGD(EPSILON, steps=10, restarts=2)(network, image, label)
    assert stopped.forwards < whole.forwards
    assert torch.equal(stopped.success, whole.success)


COUNTERPARTS = [
    (AnnealedDice(), Margin),
    (Dice(), Margin),
    (DiceCE(), Margin),
    (SegPGD(), CrossEntropy),
    (CosPGD(), CrossEntropy),
    (MaskedCrossEntropy(), CrossEntropy),
    (HardDice(), Margin),
]


@pytest.mark.parametrize(("objective", "kind"), COUNTERPARTS, ids=lambda value: getattr(value, "__name__", None))
def test_objectives_of_segmentations_have_a_counterpart_that_is_named(objective: Any, kind: type) -> None:
    search = RandomSearch() if isinstance(objective, HardDice) else None
    attack = Attack(AdditiveNoise(EPSILON), objective, search, steps=2)
    result = attack(LinearClassifier(3), images(3))
    assert type(objective.for_classifier()) is kind
    assert f"objective {kind.__name__} in the place of {type(objective).__name__}" in str(result)


@pytest.mark.parametrize("objective", [CrossEntropy(), BalancedCrossEntropy(), Margin(), JensenShannon(), DLR()])
def test_objectives_of_decisions_stay_what_they_are(objective: Any) -> None:
    network, image = LinearClassifier(4), images(3)
    result = PGD(EPSILON, steps=3, objective=objective)(network, image)
    assert objective.for_classifier() is objective and "in the place of" not in str(result)
    assert (result.objective > result.objective_history[0] - 1e-6).all()


class Overlap(Dice):
    """An objective of segmentations that names no counterpart."""

    for_classifier = Objective.for_classifier


def test_an_objective_of_segmentations_alone_is_refused() -> None:
    attack = PGD(EPSILON, steps=1, objective=Overlap())
    for call in (attack, attack.perturb):
        with pytest.raises(TypeError, match="the objective Overlap compares segmentations, but the network gives one"):
            call(LinearClassifier(3), images(2), torch.tensor([0, 1]))


def test_what_belongs_to_segmentations_is_refused() -> None:
    network, image, label = LinearClassifier(3), images(2), torch.tensor([0, 1])
    region = torch.ones_like(image, dtype=torch.bool)
    with pytest.raises(ValueError, match="objective_region chooses voxels of a segmentation"):
        PGD(EPSILON, steps=1)(network, image, label, objective_region=region)
    with pytest.raises(ValueError, match="a classifier's exclusive classes are all scored: leave it out"):
        PGD(EPSILON, steps=1)(AttackedModel(network, scored_classes=[1]), image, label)
    with pytest.raises(ValueError, match="label must hold class indices 0 to 2 for a network with 3 output channels"):
        PGD(EPSILON, steps=1)(network, image, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="one-hot with 2 channels but the network has 3"):
        PGD(EPSILON, steps=1)(network, image, torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="a targeted attack needs label="):
        PGD(EPSILON, steps=1, targeted=True)(network, image)


def test_only_the_region_changes_and_ignored_images_do_not_count() -> None:
    network, image = LinearClassifier(3), images(4)
    label = logits_of(network, image).argmax(1)
    region = torch.zeros_like(image, dtype=torch.bool)
    region[:, :, :5] = True
    result = PGD(EPSILON, steps=2)(network, image, label, region=region)
    assert torch.equal(result.adversarial[~region], image[~region])
    unknown = label.clone()
    unknown[1] = 255
    ignoring = PGD(EPSILON, steps=2)(AttackedModel(network, ignore_index=255), image, unknown)
    assert ignoring.clean_score.isnan().tolist() == [False, True, False, False]
    assert not ignoring.success[1] and torch.equal(ignoring.label, unknown)


def test_a_label_of_other_classes_is_said() -> None:
    network, image = LinearClassifier(3), images(16)
    label = (logits_of(network, image).argmax(1) + 1) % 3
    with pytest.warns(UserWarning, match="none of 16 images is classified as labeled"):
        PGD(EPSILON, steps=1)(network, image, label)


def test_networks_with_several_outputs() -> None:
    class Transformer(nn.Module):
        """Class token and hidden states, as MONAI's ViT."""

        def __init__(self) -> None:
            super().__init__()
            self.head = LinearClassifier(3)

        def forward(self, image: torch.Tensor) -> Any:
            return self.head(image), [image.flatten(2)]

    result = PGD(EPSILON, steps=2)(Transformer(), images(3))
    assert result.metric == "accuracy" and any("the one answer per image" in fact for fact in result.facts)

    class Both(nn.Module):
        """A segmentation and a class: which one is attacked is told."""

        def __init__(self) -> None:
            super().__init__()
            self.head = LinearClassifier(3)

        def forward(self, image: torch.Tensor) -> Any:
            return torch.cat([image, 1 - image], dim=1), self.head(image)

    assert PGD(EPSILON, steps=1)(Both(), images(2)).metric == "Dice"
    assert PGD(EPSILON, steps=1)(AttackedModel(Both(), task="classification"), images(2)).metric == "accuracy"


def test_pooled_answers_that_keep_their_axes_are_a_classifier() -> None:
    class Pooled(LinearClassifier):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image)[..., None, None, None]

    image = images(4)
    first, second = (PGD(EPSILON, steps=2)(network, image) for network in (LinearClassifier(3), Pooled(3)))
    assert torch.equal(first.adversarial, second.adversarial)


def test_a_classifier_in_sliding_windows_is_refused() -> None:
    from monai.inferers import SlidingWindowInferer

    class Pooled(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(2).mean(2).repeat(1, 2)

    with pytest.raises(ValueError, match="a classifier is attacked on whole images"):
        PGD(EPSILON, steps=1)(AttackedModel(Pooled(), SlidingWindowInferer((8, 8, 8))), images(1))


def test_neither_segmentation_nor_classifier_is_refused() -> None:
    for answer in (lambda x: x.flatten(2), lambda x: x[..., :-1], lambda x: x.mean()):
        with pytest.raises(ValueError, match="the network must return logits of shape"):
            PGD(EPSILON, steps=1)(answer, images(2))
    with pytest.raises(TypeError, match="floating point logits"):
        PGD(EPSILON, steps=1)(lambda x: LinearClassifier(3)(x).argmax(1), images(2))


def test_a_purified_classifier_is_attacked_through_its_purifier() -> None:
    from monai.inferers import SimpleInferer

    network, image = LinearClassifier(3), images(4)
    defended = AttackedModel(network, PurifiedInferer(SimpleInferer(), BitDepthReduction(step=1 / 15)))
    from monai_adversarial.attacks import BackwardPassSubstitute

    result = PGD(0.05, steps=4, gradient=BackwardPassSubstitute())(defended, image)
    assert result.metric == "accuracy" and result.success.any()


def test_a_transform_attacks_a_classifier() -> None:
    network, image = LinearClassifier(3), images(1)
    transform = AdvNoise(network, EPSILON, steps=2)
    attacked = transform(image[0])
    assert (attacked - image[0]).abs().max() == pytest.approx(EPSILON, rel=1e-3)
    assert transform.last_result.metric == "accuracy"


def test_the_similarity_of_images_counts_for_classifiers_too() -> None:
    network, image = LinearClassifier(3), images(3)
    free, alike = (
        PGD(0.05, steps=5, objective=SSIMPenalized("dice", ssim_weight=weight))(network, image)
        for weight in (0.0, 50.0)
    )
    change = [(result.adversarial - image).square().mean() for result in (free, alike)]
    assert change[1] < change[0]


def test_the_ensemble_of_attacks_is_never_weaker_than_one_of_them() -> None:
    network, image = LinearClassifier(4), images(8)
    label = logits_of(network, image).argmax(1)
    strongest = AutoAttack3D(EPSILON, steps=5)(network, image, label)
    single = PGD(EPSILON, steps=5)(network, image, label)
    assert strongest.metric == "accuracy" and torch.equal(strongest.label, label)
    assert (strongest.adversarial_score <= single.adversarial_score).all()
