# SPDX-License-Identifier: Apache-2.0
"""The function under attack: each argument is checked, used, kept by ``replace`` and shown."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import ScaleIntensityRange
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.intensity import IntensityMap
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 6, 6, 6)
WINDOW = {"a_min": -160, "a_max": 240}


class TwoInputs(nn.Module):
    """Foreground where the image exceeds a threshold per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], Any]] = []

    def forward(self, image: torch.Tensor, threshold: torch.Tensor, *, gain: float = 1.0) -> torch.Tensor:
        self.seen.append((tuple(threshold.flatten().tolist()), gain))
        score = gain * (image - threshold.view(-1, 1, 1, 1, 1))
        return torch.cat([-score, score], dim=1)


class Guided(nn.Module):
    """Foreground where image channel 1 plus click channel 0 exceeds one half."""

    def __init__(self) -> None:
        super().__init__()
        self.clicks: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.clicks.append(image[:, :1].detach().clone())
        score = image[:, 1:2] + image[:, :1] - 0.5
        return torch.cat([-score, score], dim=1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"network": "unet"}, TypeError, "network must be a torch.nn.Module or a callable, got str."),
        ({"inferer": 3}, TypeError, "inferer must be a MONAI inferer or None, got int."),
        ({"intensity": (0, 1)}, TypeError, "intensity must be"),
        ({"intensity": {"a_min": 0}}, ValueError, "lacks 'a_max'"),
        ({"image_units": "hounsfield"}, ValueError, "image_units must be one of"),
        ({"round_to_integer": True}, ValueError, "round_to_integer needs images in HU: pass image_units='HU'."),
        ({"round_to_integer": "False"}, ValueError, "round_to_integer must be True or False"),
        ({"image_channels": (0, 0)}, ValueError, "image_channels must name different input channels"),
        ({"image_channels": ()}, ValueError, "image_channels must"),
        ({"output_values": "probability"}, ValueError, "output_values must be one of 'logits', 'probabilities'"),
        ({"activation": "relu"}, ValueError, "activation must be one of 'softmax', 'sigmoid'"),
        ({"class_names": "liver"}, TypeError, "class_names must be a list of names or a mapping"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be an integer label value or None"),
        ({"ignore_index": True}, TypeError, "ignore_index must be an integer label value or None"),
        ({"precision": "int8"}, ValueError, "precision must be one of"),
        ({"scoring_precision": "double"}, ValueError, "scoring_precision must be one of"),
        ({"compile_network": 1}, ValueError, "compile_network must be True or False"),
    ],
)
def test_an_argument_that_does_not_fit_stops_in_one_sentence(options: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        AttackedModel(**{"network": LinearNetwork(), **options})
    assert "\n" not in str(caught.value)


def test_a_bare_network_is_a_model_with_defaults() -> None:
    network = tiny_segmentation_network()
    wrapped = AttackedModel.wrap(network)
    assert isinstance(wrapped, AttackedModel) and wrapped.network is network
    assert AttackedModel.wrap(wrapped) is wrapped
    image, label = random_image(SHAPE), random_label(SHAPE)
    bare = PGD(0.1, steps=2)(network, image, label)
    assert torch.equal(bare.adversarial, PGD(0.1, steps=2)(wrapped, image, label).adversarial)
    with pytest.raises(TypeError, match="network must be a torch.nn.Module or a callable"):
        AttackedModel.wrap(3)


def test_replace_changes_what_it_names_and_keeps_the_rest() -> None:
    options = {
        "intensity": WINDOW,
        "image_units": "HU",
        "round_to_integer": True,
        "image_channels": (0,),
        "output": 0,
        "output_values": "logits",
        "activation": "softmax",
        "class_names": ["background", "liver"],
        "scored_classes": ("liver",),
        "ignore_index": 255,
        "network_args": (1,),
        "network_kwargs": {"a": 2},
        "precision": "float32",
        "scoring_precision": "bfloat16",
        "compile_network": True,
        "facts": ("read in a test",),
    }
    model = AttackedModel(LinearNetwork(), SlidingWindowInferer(4), **options)
    other = model.replace(precision="float16")
    assert other.precision == "float16" and model.precision == "float32"
    for name, value in vars(model).items():
        if name != "precision":
            assert getattr(other, name) == value, name
    assert isinstance(other.intensity, IntensityMap)
    with pytest.raises(TypeError, match="an AttackedModel has no 'prescision': it has network, inferer"):
        model.replace(prescision="float16")
    with pytest.raises(ValueError, match="activation must be one of"):
        model.replace(activation="none")


def test_another_network_is_looked_at_anew() -> None:
    model = AttackedModel(nn.Sequential(tiny_segmentation_network(), nn.Softmax(1)))
    PGD(0.1, steps=1)(model, random_image(SHAPE))
    assert model.found_output_values == model.replace(precision="float32").found_output_values == "probabilities"
    assert model.replace(network=tiny_segmentation_network()).found_output_values is None


def test_further_inputs_reach_the_network_in_every_call_and_follow_their_sample() -> None:
    network, thresholds = TwoInputs(), torch.tensor([0.2, 0.8])
    model = AttackedModel(network, network_args=(thresholds,), network_kwargs={"gain": 3.0}, precision="float32")
    image = torch.full(SHAPE, 0.5)
    label = torch.cat([torch.ones(1, 1, 6, 6, 6), torch.zeros(1, 1, 6, 6, 6)]).long()
    result = PGD(0.4, steps=4, objective="ce", early_stop=True, random_start=False)(model, image, label)
    assert (result.clean_dice[0], result.success[0]) == (1, True)
    assert (result.adversarial[0] <= 0.2).any() and (result.adversarial[1] > 0.8).any()
    assert {len(seen) for seen, _ in network.seen} <= {1, 2}
    assert all(gain == 3.0 for _, gain in network.seen)
    network.seen.clear()
    one = AttackedModel(network).with_arguments((torch.tensor([0.8]),), {"gain": 2.0})
    PGD(0.4, steps=2).perturb(one, image[1:], label[1:])
    assert network.seen and all(seen == ((pytest.approx(0.8),), 2.0) for seen in network.seen)


def test_arguments_of_a_batch_come_after_those_of_the_model() -> None:
    model = AttackedModel(TwoInputs(), network_args=(1,), network_kwargs={"a": 1, "b": 1})
    made = model.with_arguments((2,), {"b": 2})
    assert (made.network_args, made.network_kwargs) == ((1, 2), {"a": 1, "b": 2})
    assert (model.network_args, model.network_kwargs) == ((1,), {"a": 1, "b": 1})
    assert model.with_arguments((), {}) is model
    made.found_output_values = "logits"
    assert model.found_output_values == "logits", "what the first batch shows holds for all"


@pytest.mark.parametrize("attack", [PGD(0.2, steps=3), ElasticAttack(2.0, control_spacing=3.0, steps=2)])
@pytest.mark.parametrize("training", [False, True])
def test_guidance_channels_stay_and_are_seen_by_the_network(attack: Any, training: bool) -> None:
    network = Guided()
    model = AttackedModel(network, image_channels=(1,))
    image, label = random_image((2, 2, 6, 6, 6)), random_label(SHAPE, classes=2)
    run = attack.perturb if training else attack
    result = run(model, image, label, spacing=1.0)
    assert result.adversarial.shape == image.shape
    assert torch.equal(result.adversarial[:, 0], image[:, 0])
    assert not torch.equal(result.adversarial[:, 1], image[:, 1])
    assert all(torch.equal(clicks, image[:, :1]) for clicks in network.clicks)
    if training:
        return
    assert result.verify(result.adversarial).keys() == result.budgets.keys()
    control, _ = result.random_control()
    assert control.shape == image.shape and torch.equal(control[:, 0], image[:, 0])


def test_guidance_of_the_samples_that_are_left_is_seen() -> None:
    network = Guided()
    image = random_image((3, 2, 6, 6, 6)) + 0.5
    image[:, 0] = 0.0
    image[1, 0] = 5.0  # a click that no noise can undo
    model = AttackedModel(network, image_channels=(1,))
    result = PGD(0.9, steps=6, early_stop=True)(model, image, torch.ones(3, 1, 6, 6, 6))
    assert not result.success[1]
    alone = [clicks for clicks in network.clicks if clicks.shape[0] == 1]
    assert alone and all(torch.equal(clicks, image[1:2, :1]) for clicks in alone)


def test_a_channel_that_the_image_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="image_channels must name channels 0 to 0 of the image, got"):
        PGD(0.1, steps=1)(AttackedModel(LinearNetwork(), image_channels=(1,)), random_image(SHAPE))


def test_images_in_hounsfield_units_are_mapped_inside_the_attacked_function() -> None:
    seen = []

    def network(image: torch.Tensor) -> torch.Tensor:
        seen.append((float(image.detach().min()), float(image.detach().max())))
        return torch.cat([-image, image - 0.5], dim=1)

    image = (random_image(SHAPE) * 1000 - 500).round()
    scaler = ScaleIntensityRange(-160, 240, 0.0, 1.0, clip=True)
    model = AttackedModel(network, intensity=scaler, image_units="HU", round_to_integer=True)
    result = PGD(8, "HU", steps=2)(model, image, random_label(SHAPE, classes=2))
    assert all(low >= 0 and high <= 1 for low, high in seen)
    assert torch.equal(result.adversarial, result.adversarial.round())
    assert (result.adversarial - image).abs().max() == 8


def test_units_of_images_follow_the_map_and_the_budget() -> None:
    bare = AttackedModel(LinearNetwork())
    assert (bare.units_for("HU"), bare.units_for("network"), bare.units_for(None)) == ("HU", "network", "network")
    assert AttackedModel(LinearNetwork(), intensity=WINDOW).units_for("HU") == "network"
    assert AttackedModel(LinearNetwork(), intensity=WINDOW, image_units="HU").units_for("network") == "HU"


def test_one_output_channel_is_a_sigmoid_and_several_are_exclusive_unless_said_or_found() -> None:
    model = AttackedModel(LinearNetwork())
    assert (model.activation_of(1), model.activation_of(3)) == ("sigmoid", "softmax")
    model.found_activation = "sigmoid"
    assert model.activation_of(3) == "sigmoid"
    assert AttackedModel(LinearNetwork(), activation="softmax").activation_of(3) == "softmax"


def test_ignored_voxels_and_classes_that_are_not_scored_count_in_no_score() -> None:
    network = LinearNetwork((-1.0, 1.0, 0.0), (0.0, 0.0, -9.0))
    image = torch.linspace(-1, 1, 216).view(1, 1, 6, 6, 6)
    label = (image > 0).long()
    label[..., :3] = 255  # also where it would be wrong
    model = AttackedModel(network, ignore_index=255)
    result = PGD(0.1, steps=1)(model, image, label)
    assert result.clean_dice == 1
    assert torch.equal(result.label == 255, label == 255)
    with pytest.raises(ValueError, match="label must hold class indices 0 to 2"):
        PGD(0.1, steps=1)(network, image, label)
    label = (image > 0).long() + (image > 0.5).long()
    both, first = (
        PGD(0.1, steps=1)(AttackedModel(network, scored_classes=scored), image, label).clean_dice
        for scored in (None, (1,))
    )
    assert both < first < 1


def test_its_representation_is_a_readable_call() -> None:
    network = tiny_segmentation_network()
    assert repr(AttackedModel(network)) == "AttackedModel(Sequential)"
    assert repr(AttackedModel(functools.partial(network), precision="float32")).endswith("precision='float32')")
    full = AttackedModel(
        nn.DataParallel(network),
        SlidingWindowInferer(4),
        intensity=WINDOW,
        image_units="HU",
        image_channels=(0,),
        class_names=["background", "liver"],
        ignore_index=0,
        output=0,
    )
    text = repr(full)
    assert text.startswith("AttackedModel(Sequential, SlidingWindowInferer, intensity=")
    for part in ("image_units='HU'", "image_channels=(0,)", "class_names=['background', 'liver']"):
        assert part in text
    assert "ignore_index=0" in text and "output=0" in text, "zero is not the same as nothing"
    assert "\n" not in text and "precision" not in text


def test_tensors_among_the_arguments_do_not_break_the_representation() -> None:
    model = AttackedModel(TwoInputs(), network_args=(torch.ones(2, 3),), network_kwargs={"prompt": torch.ones(4, 4)})
    assert "network_args=" in repr(model) and "\n" not in repr(model)
    assert "<tensor (4, 4)>" in repr(model)


def test_the_affine_reaches_inferers_that_know_images() -> None:
    class Watching:
        def __call__(self, image: torch.Tensor, network: Any, *args: Any) -> Any:
            return network(image)

        def for_image(self, image: torch.Tensor) -> Watching:
            self.affine = image.affine
            return self

    inferer, affine = Watching(), torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(random_image((1, 1, 6, 6, 6), dtype=torch.float64), affine=affine)
    PGD(0.1, steps=1)(AttackedModel(tiny_segmentation_network(), inferer), image)
    assert torch.equal(inferer.affine, affine)


def test_a_long_list_of_class_names_is_shown_by_its_length() -> None:
    names = ["background", "liver", "spleen", "pancreas", "aorta"]
    assert "class_names=<5 names>" in repr(AttackedModel(nn.Identity(), class_names=names))
    assert "class_names=['background', 'liver'" in repr(AttackedModel(nn.Identity(), class_names=names[:4]))
