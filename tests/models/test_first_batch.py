# SPDX-License-Identifier: Apache-2.0
"""What the first batch shows, and how loudly it is said."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNETR, SegResNet, UNet
from torch import nn

from benchmarks.real_scan import load_network
from benchmarks.strength import bundle_network
from monai_adversarial.attacks import PGD, BackwardPassSubstitute, ExpectationOverTransformation
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.doubts import doubt, warn_once
from monai_adversarial.models.first_batch import untrained_reason
from monai_adversarial.models.shifted_label import shift_of_label
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).mean(dim=(2, 3, 4))


class ActiveDropout(nn.Module):
    """Dropout that stays on in evaluation mode, as Monte Carlo dropout is written."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.dropout = tiny_segmentation_network(), nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.dropout.train()
        return self.network(self.dropout(image))


def said(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


IMAGE = random_image((1, 1, 8, 8, 8))


def test_a_label_of_the_other_task_is_refused() -> None:
    volume, numbers = random_label((1, 1, 8, 8, 8)), torch.tensor([1])
    with pytest.raises(ValueError, match=r"label must hold class numbers \(batch,\), .* got \(1, 1, 8, 8, 8\)"):
        PGD(0.1, steps=1)(Classifier(), IMAGE, volume)
    with pytest.raises(ValueError, match=r"the network answers for each voxel, got \(1,\), one label per image"):
        PGD(0.1, steps=1)(tiny_segmentation_network(), IMAGE, numbers)


@pytest.mark.parametrize("answer", [[{"box": torch.zeros(0, 6)}], {"boxes": torch.zeros(0, 6)}, ({"box_scores": 1},)])
def test_a_detector_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match="the network returns boxes, as a detector does"):
        PGD(0.1, steps=1)(lambda image: answer, IMAGE)


def test_a_missing_batch_axis_is_named() -> None:
    network = tiny_segmentation_network()
    label = random_label((1, 8, 8, 8))
    for given in (None, label):
        with pytest.raises(
            ValueError, match=r"dimensions \(1, 8, .* a 3D network needs .* batch axis with image\[None"
        ):
            PGD(0.1, steps=1)(network, IMAGE[0], given)


def test_a_two_dimensional_network_on_a_volume_is_named() -> None:
    with pytest.raises(ValueError, match=r"image has 5 dimensions .* a 2D network .*SliceInferer"):
        PGD(0.1, steps=1)(tiny_segmentation_network(spatial_dims=2), IMAGE)


def test_permuted_label_values_are_said_once() -> None:
    network = tiny_segmentation_network(seed=2)
    with torch.no_grad():
        clean = network(IMAGE).argmax(dim=1, keepdim=True)
    # All three classes, so that values can be permuted.
    assert clean.unique().tolist() == [0, 1, 2]
    permuted = torch.tensor([0, 2, 1])[clean]
    messages = said(lambda: [PGD(0.1, steps=1)(network, IMAGE, permuted) for _ in range(2)])
    assert len(messages) == 1
    assert "the label does not fit the network: the clean Dice is at most 0.000" in messages[0]
    assert "label value 1 is the network's class 2 (Dice 1.00)" in messages[0]
    assert "label value 2 is the network's class 1 (Dice 1.00)" in messages[0]


def test_a_shifted_sigmoid_label_is_said_and_a_fitting_one_is_not() -> None:
    image = torch.zeros(1, 1, 4, 4, 4)
    image[..., :2, :, :] = 1.0
    network = AttackedModel(LinearNetwork((10.0,), (-5.0,)))
    right = (image > 0.5).long()
    assert said(lambda: PGD(0.01, steps=1)(network, image, right)) == []
    network = AttackedModel(LinearNetwork((10.0,), (-5.0,)))
    messages = said(lambda: PGD(0.01, steps=1)(network, image, 1 - right))
    assert len(messages) == 1 and "where the volumes of label and prediction allow 1.000" in messages[0]


@pytest.mark.parametrize("seed", range(4))
def test_random_labels_and_targets_raise_no_doubt(seed: int) -> None:
    network, label = tiny_segmentation_network(seed=seed), random_label((1, 1, 8, 8, 8))
    assert said(lambda: PGD(0.1, steps=1)(network, IMAGE, label)) == []
    other = (1 + tiny_segmentation_network(seed=seed)(IMAGE).argmax(dim=1, keepdim=True)) % 3
    assert said(lambda: PGD(0.1, steps=1, targeted=True)(tiny_segmentation_network(seed=seed), IMAGE, other)) == []


def test_a_network_that_is_random_in_evaluation_mode_is_noticed() -> None:
    network = ActiveDropout().eval()
    messages = said(lambda: PGD(0.1, steps=1)(network, IMAGE))
    assert len(messages) == 1 and "draws random numbers in evaluation mode" in messages[0]
    assert "two clean predictions differ in" in messages[0] and "ExpectationOverTransformation(20)" in messages[0]
    assert said(lambda: PGD(0.1, steps=1)(network, IMAGE)) == []  # once
    averaged = PGD(0.1, steps=1, gradient=ExpectationOverTransformation(2))
    assert said(lambda: averaged(ActiveDropout().eval(), IMAGE)) == []


def test_training_on_a_random_network_warns_once_and_goes_on() -> None:
    network = ActiveDropout().train()
    label = random_label((1, 1, 8, 8, 8))
    messages = said(lambda: [PGD(0.1, steps=2).perturb(network, IMAGE, label, stream=i) for i in range(3)])
    assert len(messages) == 1 and "draws random numbers in evaluation mode" in messages[0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_training_with_averaged_draws_is_not_warned_of_randomness(wrapped: bool) -> None:
    gradient: Any = ExpectationOverTransformation(2)
    if wrapped:
        gradient = BackwardPassSubstitute(estimator=gradient)
    label = random_label((1, 1, 8, 8, 8))
    attack = PGD(0.1, steps=1, gradient=gradient)
    assert said(lambda: attack.perturb(ActiveDropout().train(), IMAGE, label)) == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounding_and_ordinary_dropout_are_not_randomness(precision: str) -> None:
    network = nn.Sequential(tiny_segmentation_network(), nn.Dropout3d(0.5)).train()
    model = AttackedModel(network, precision=precision, scoring_precision=precision)
    found: list[Any] = []
    assert said(lambda: found.append(PGD(0.1, steps=2)(model, IMAGE))) == []
    # clean, steps, the last point with its score, and that of an earlier one if it was better: the check costs no pass
    again = int(not torch.equal(found[0].objective_history[-1], found[0].objective))
    assert found[0].forwards == 1 + 2 + 1 + again


def test_a_label_of_overlapping_masks_makes_the_answer_independent() -> None:
    label = torch.zeros(1, 3, 8, 8, 8, dtype=torch.uint8)
    label[:, :2, :4] = 1
    model = AttackedModel(tiny_segmentation_network())
    PGD(0.1, steps=1)(model, IMAGE, label)
    assert model.found_activation == "sigmoid"
    with pytest.raises(ValueError, match="exclusive"):
        PGD(0.1, steps=1)(AttackedModel(tiny_segmentation_network(), activation="softmax"), IMAGE, label)


def test_doubts_end_no_training_and_are_said_once_for_each_network() -> None:
    one, other = nn.Identity(), nn.Identity()
    with pytest.raises(ValueError, match="odd"):
        doubt(one, "topic", "odd", training=False)
    assert said(lambda: [doubt(one, "topic", "odd", training=True) for _ in range(3)]) == ["odd"]
    assert said(lambda: [doubt(one, "other topic", "strange", training=True)]) == ["strange"]
    assert warn_once(nn.DataParallel(one), "topic", "odd") is False
    assert said(lambda: warn_once(other, "topic", "odd")) == ["odd"]


def test_output_channels_that_are_swapped_are_said_although_they_overlap_by_chance() -> None:
    image = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)
    label = (image > 0.8).long()
    # The background channel of this network is the organ's, and it takes a few voxels of the organ for background.
    network = LinearNetwork((1.0, -1.0), (-0.82, 0.82))
    said_of = said(lambda: PGD(0.01, steps=1)(network, image, label))
    assert any("label value 1 is the network's class 0 (Dice 0.9" in sentence for sentence in said_of)
    one_channel = LinearNetwork((-1.0,), (0.82,))
    said_of = said(lambda: PGD(0.01, steps=1)(one_channel, image, label))
    assert any("label value 1 is the network's class 0 (Dice 0.9" in sentence for sentence in said_of)


def test_a_network_that_finds_nothing_has_no_swapped_channels() -> None:
    image = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)
    label = (image > 0.2).long()  # an organ that fills the crop: the background has most of it in common
    said_of = said(lambda: PGD(0.01, steps=1)(LinearNetwork((-1.0, 1.0), (2.0, -2.0)), image, label))
    assert len(said_of) == 1 and "permuted" not in said_of[0]
    assert "the clean Dice is below 0.5 in 1 of 1, so that little can be lost" in said_of[0]


@pytest.mark.parametrize("library", ["numpy", "python"])
def test_a_network_that_draws_from_other_generators_is_random(library: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny_segmentation_network()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            drawn = np.random.normal() if library == "numpy" else random.gauss(0, 1)  # noqa: NPY002
            return self.network(image + drawn)

    image = random_image((1, 1, 8, 8, 8))
    said_of = said(lambda: PGD(0.1, steps=1)(Noisy(), image, random_label((1, 1, 8, 8, 8))))
    assert any("draws random numbers in evaluation mode" in sentence for sentence in said_of)


@pytest.mark.parametrize("change", ["mirrored", "voxel size", "moved"])
def test_affines_of_image_and_label_that_differ_are_said_once(change: str) -> None:
    network = tiny_segmentation_network()
    affine = torch.diag(torch.tensor([-2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    other = affine.clone()
    if change == "mirrored":
        other[0, 0], other[0, 3] = 2.0, -14.0
    elif change == "voxel size":
        other[2, 2] = 2.5
    else:
        other[1, 3] = 4.0
    image, label = random_image((1, 1, 8, 8, 8)), random_label((1, 1, 8, 8, 8))

    def grids(first: torch.Tensor, second: torch.Tensor) -> list[str]:
        images = MetaTensor(image, affine=first), MetaTensor(label, affine=second)
        return [one for one in said(lambda: PGD(0.1, steps=1)(network, *images)) if "affines" in one]

    assert grids(affine, affine) == [] and grids(affine, affine + 1e-4) == []
    assert grids(affine, torch.eye(4)) == []  # a label that lost its affine says nothing
    (sentence,) = grids(affine, other)
    assert "voxels of the same index lie up to" in sentence
    assert grids(affine, other) == []


def test_a_background_that_counts_as_an_organ_is_said() -> None:
    """A softmax network told to be sigmoid: the background is nearly right whatever happens, and lifts the mean."""
    image = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)
    label = (image > 0.8).long()
    network = LinearNetwork((-1.0, 1.0), (0.82, -0.82))

    def sentences(**facts: Any) -> list[str]:
        network_of_its_own = LinearNetwork((-1.0, 1.0), (0.82, -0.82))
        found = said(lambda: PGD(0.01, steps=1)(AttackedModel(network_of_its_own, **facts), image, label))
        return [one for one in found if "channel 0 counts as an organ" in one]

    (sentence,) = sentences(activation="sigmoid")
    assert "it is 80% of the label" in sentence and "activation='softmax'" in sentence
    assert len(sentences(activation="sigmoid", class_names=["background", "liver"])) == 1
    assert sentences(activation="softmax") == [] and sentences(activation="sigmoid", scored_classes=[1]) == []
    assert sentences(activation="sigmoid", class_names=["whole body", "liver"]) == []
    flattered = PGD(0, steps=1)(AttackedModel(network, activation="sigmoid"), image, label)
    honest = PGD(0, steps=1)(AttackedModel(network), image, label)
    assert float(flattered.clean_dice) > float(honest.clean_dice)


def test_a_network_that_was_never_trained_is_said() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1))

    fresh, trained = network(), network()
    trained(IMAGE)  # one batch in training mode moves the statistics
    label = random_label((1, 1, 8, 8, 8), classes=2)

    def sentences(one: nn.Module) -> list[str]:
        return [found for found in said(lambda: PGD(0.1, steps=1)(one, IMAGE, label)) if "never trained" in found]

    (sentence,) = sentences(fresh)
    assert "1 BatchNorm layers hold the statistics that they are made with" in sentence
    assert sentences(fresh) == [] and sentences(trained) == []
    fresh = network()
    assert not [one for one in said(lambda: PGD(0.1, steps=1).perturb(fresh, IMAGE, label)) if "trained" in one]


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet(3, 1, 2, (4, 8), (2,)),  # its normalization has no weights, its PReLU have
        lambda: UNet(3, 1, 2, (4, 8), (2,), act="relu", norm=("instance", {"affine": True})),
        lambda: UNet(3, 1, 2, (4, 8), (2,), act="relu", norm=("group", {"num_groups": 2})),
        lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
        lambda: UNETR(1, 2, (16,) * 3, feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2),
    ],
)
def test_one_step_of_an_optimizer_takes_the_sign_of_an_untrained_network_away(make: Callable[[], nn.Module]) -> None:
    """Also where no layer keeps statistics: the first values of scales, shifts and slopes are the same everywhere."""
    network = make()
    found = untrained_reason(AttackedModel(network))
    assert "normalization and PReLU layers hold the weights that they are made with" in found
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    image, label = torch.rand(1, 1, 16, 16, 16), random_label((1, 16, 16, 16), classes=2)
    nn.functional.cross_entropy(network(image), label).backward()
    optimizer.step()
    assert untrained_reason(AttackedModel(network)) == ""


def test_what_was_trained_or_shows_no_sign_is_not_called_untrained() -> None:
    assert untrained_reason(AttackedModel(bundle_network("cpu"))) == ""
    assert untrained_reason(AttackedModel(bundle_network("cpu", "hardened.pt"))) == ""
    assert untrained_reason(AttackedModel(UNet(3, 1, 2, (4, 8), (2,), act="relu"))) == ""  # nothing has weights
    statistics_alone = nn.Sequential(nn.BatchNorm3d(1), nn.PReLU())
    statistics_alone(IMAGE)
    assert untrained_reason(AttackedModel(statistics_alone)) == ""


@pytest.mark.real_data
def test_third_party_networks_are_not_called_untrained(shared_data: Path) -> None:
    for fold in (1, 2):
        assert untrained_reason(AttackedModel(load_network(shared_data, fold=fold))) == ""
    spleen = torch.jit.load(str(shared_data / "spleen_torchscript" / "model.pt"))
    assert untrained_reason(AttackedModel(spleen)) == ""


@pytest.mark.parametrize(
    ("scale", "advice"), [(400.0, "pass intensity= with the window"), (255.0, "divide gray values of 8 bits by 255")]
)
def test_values_that_nothing_scaled_are_named_where_the_clean_score_is_low(scale: float, advice: str) -> None:
    image = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)
    label = (image > 0.8).long()
    low = 160.0 if scale == 400 else 0.0
    result = PGD(0.02, steps=1)(LinearNetwork((-1.0, 1.0), (-500.0, 500.0)), image * scale - low, label)
    assert f"the network sees values from {0 - low:.4g} to {scale - low:.4g}" in result.caution
    assert advice in result.caution
    scaled = PGD(0.02, steps=1)(LinearNetwork((-1.0, 1.0), (0.8, -0.8)), image, 1 - label)
    assert scaled.caution and "the network sees values" not in scaled.caution


def test_swapped_classes_beside_one_that_fits_are_named_without_its_dice() -> None:
    """ "At most 0.97 where the volumes allow 0.99" is no sentence about classes of which two are exchanged."""
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[..., :2, :], label[..., 3, :], label[..., 5, :] = 1, 2, 3

    class Knows(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(label[:, 0], 4).movedim(-1, 1) + 0 * image

    swapped = torch.tensor([0, 1, 3, 2])[label]
    (sentence,) = [one for one in said(lambda: PGD(0.1, steps=1)(Knows(), IMAGE, swapped)) if "does not fit" in one]
    assert (
        "fit the network: label value 2 is the network's class 3 (Dice 1.00)" in sentence and "at most" not in sentence
    )


def test_an_ignored_value_that_is_a_class_is_said() -> None:
    image = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)

    def sentences(ignored: int) -> list[str]:
        model = AttackedModel(LinearNetwork((-1.0, 1.0), (0.82, -0.82)), ignore_index=ignored)
        label = (image > 0.8).long().masked_fill(image < 0.1, ignored)
        return [one for one in said(lambda: PGD(0.01, steps=1)(model, image, label)) if "ignore_index" in one]

    assert "the background: an organ that is invented" in sentences(0)[0]
    assert "the network's class 1: nothing that happens to it" in sentences(1)[0]
    assert sentences(255) == [] and sentences(2) == []


def test_a_region_is_part_of_what_is_told_of_a_result() -> None:
    region = torch.zeros(IMAGE.shape, dtype=torch.bool)
    region[..., :4] = True
    result = PGD(0.01, steps=1)(tiny_segmentation_network(), IMAGE, region=region)
    assert "inside a region of 0.5 of the voxels" in str(result).splitlines()[0]


@pytest.mark.parametrize("permuted", [False, True])
def test_a_told_voxel_size_that_the_affine_contradicts_is_said_once(permuted: bool) -> None:
    model, image, label = example_case(16)
    sizes = (6.0, 3.0, 6.0) if permuted else (6.0, 6.0, 6.0)
    scan = MetaTensor(image.as_tensor(), affine=torch.diag(torch.tensor([*sizes, 1.0])))
    told = (3.0, 6.0, 6.0) if permuted else (60.0, 60.0, 60.0)
    attack = PGD(4, "HU", steps=1)
    messages = said(lambda: [attack(model, scan, label.as_tensor(), spacing=told) for _ in range(2)])
    assert len(messages) == 1 and "leave spacing out, or " in messages[0]
    assert ("give it in the order of the array's axes" if permuted else "correct the affine") in messages[0]
    for right in (sizes, None):
        assert said(lambda spacing=right: attack(example_case(16)[0], scan, label.as_tensor(), spacing=spacing)) == []
    plain = image.as_tensor()
    assert said(lambda: attack(example_case(16)[0], plain, label.as_tensor(), spacing=told)) == []
    unknown = MetaTensor(plain)  # the identity: nobody has said anything
    assert said(lambda: attack(example_case(16)[0], unknown, label.as_tensor(), spacing=told)) == []


@pytest.mark.parametrize(("shift", "text"), [((2, 0, 0), "2 x 0 x 0"), ((1, -2, 1), "1 x -2 x 1")])
def test_a_label_beside_the_image_is_said(shift: tuple[int, ...], text: str) -> None:
    model, image, label = example_case(32)
    attack = PGD(4, "HU", steps=1)
    messages = said(lambda: attack(model, image, label.roll(shift, (2, 3, 4))))
    assert len(messages) == 1 and messages[0].startswith(f"the label lies {text} voxels beside what the network finds")
    assert ", and 0.918 where it is moved there" in messages[0] or ", and 0.919 where" in messages[0]
    assert said(lambda: attack(example_case(32)[0], image, label)) == []


def one_side(label: torch.Tensor) -> torch.Tensor:
    found = label.clone()
    found[:, 14:] = 0
    return found


def too_much(label: torch.Tensor) -> torch.Tensor:
    masks = torch.nn.functional.one_hot(label[0].long(), 4).movedim(-1, 0).float()
    grown = torch.nn.functional.max_pool3d(masks[None], 5, 1, 2)[0]
    return (grown * torch.tensor([0.1, 1.0, 1.1, 1.2]).view(-1, 1, 1, 1)).argmax(dim=0)[None]


def one_organ_elsewhere(label: torch.Tensor) -> torch.Tensor:
    found = torch.where(label == 1, 0, label)
    return torch.where((label == 1).roll(3, 1), 1, found)


@pytest.mark.parametrize("network", [one_side, too_much, one_organ_elsewhere])
def test_a_network_that_is_merely_bad_has_no_label_beside_it(
    network: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    label = example_case(32)[2].as_tensor()[0].long()
    assert shift_of_label(network(label), label, [1, 2, 3]) is None


def test_channels_that_are_all_low_where_nothing_is_are_not_taken_for_exclusive_in_silence() -> None:
    class Nested(nn.Module):
        """All organs, those of the liver, and its lesion, as channels of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.network = ExampleNetwork()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """Logits of overlapping masks."""
            found = self.network(image).softmax(dim=1)
            masks = torch.cat([found[:, first:].sum(dim=1, keepdim=True) for first in (1, 2, 3)], dim=1)
            return torch.logit(masks.clamp(1e-6, 1 - 1e-6))

    model, image, label = example_case(16)
    attack = PGD(4, "HU", steps=1)
    messages = said(lambda: attack(model.replace(network=Nested()), image))
    assert len(messages) == 1 and "activation is missing, and the 3 channels are taken for exclusive" in messages[0]
    masks = torch.cat([label.as_tensor() >= first for first in (1, 2, 3)], dim=1).float()
    for told in ({"activation": "sigmoid"}, {"activation": "softmax"}):
        assert said(lambda told=told: attack(model.replace(network=Nested(), **told), image)) == []
    assert said(lambda: attack(model.replace(network=Nested()), image, masks)) == []  # the label shows it
    assert said(lambda: attack(model, image)) == []
