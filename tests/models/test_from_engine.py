# SPDX-License-Identifier: Apache-2.0
"""What is read from a live engine, and what is refused where something else was told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from monai.apps.deepedit.transforms import AddGuidanceSignalDeepEditd
from monai.apps.deepgrow.transforms import AddGuidanceSignald
from monai.apps.nuclick.transforms import AddClickSignalsd, AddLabelAsGuidanced, AddPointGuidanceSignald
from monai.data import DataLoader, Dataset
from monai.engines import EnsembleEvaluator
from monai.inferers import SlidingWindowInferer
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss, FocalLoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureTyped,
    NormalizeIntensityd,
    RandGaussianNoised,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    Zoomd,
)
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import MedianDenoised, RandResizeShiftd
from tests.helpers import tiny_segmentation_network
from tests.models.engines import evaluator, hounsfield, items, trainer

WINDOW = ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True)


def test_the_spleen_bundles_facts_are_read_and_said() -> None:
    inferer = SlidingWindowInferer((8, 8, 8))
    engine = evaluator(
        preprocessing=[EnsureTyped(["image", "label"]), WINDOW],
        postprocessing=[Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True, to_onehot=3)],
        inferer=inferer,
    )
    model = AttackedModel.from_evaluator(engine)
    assert model.network is engine.network and model.inferer is inferer
    assert model.image_units == "network" and model.activation == "softmax"
    assert model.intensity is not None and model.intensity.window == pytest.approx((-57, 164))
    assert model.scoring_precision == "float32"  # MONAI's amp is for CUDA
    assert ", ".join(model.facts) == (
        "attacks `Sequential` behind `SlidingWindowInferer`, -57..164 HU -> 0..1 from `preprocessing#1` "
        "(ScaleIntensityRanged), softmax from `postprocessing#0` (Activationsd), 3 classes"
    )
    image = WINDOW({"image": hounsfield()})["image"][None]
    result = PGD(8, units="HU", steps=1)(model, image)
    assert float((result.adversarial - image).abs().max()) == pytest.approx(8 / 221, rel=1e-4)
    assert result.facts == model.facts


@pytest.mark.parametrize(
    ("steps", "activation"),
    [
        ([Activationsd("pred", softmax=True)], "softmax"),
        ([Activationsd(["label", "pred"], sigmoid=[False, True])], "sigmoid"),
        ([AsDiscreted("pred", argmax=True)], "softmax"),
        ([AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=3)], "softmax"),
        ([AsDiscreted("pred", threshold=0.5)], "sigmoid"),
        ([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)], "sigmoid"),
        ([Activationsd("pred", sigmoid=True), AsDiscreted("pred", argmax=True)], "softmax"),  # classes are exclusive
        ([AsDiscreted("label", argmax=True)], None),
        ([], None),
    ],
)
@pytest.mark.filterwarnings("ignore:neither the postprocessing nor a loss")
def test_activation_is_read_from_the_postprocessing(steps: list[Any], activation: str | None) -> None:
    assert AttackedModel.from_evaluator(evaluator(postprocessing=steps)).activation == activation


def test_an_answer_that_the_pipeline_does_not_explain_is_a_warning() -> None:
    engine = evaluator(postprocessing=[EnsureTyped("pred")])
    with pytest.warns(UserWarning, match="neither the postprocessing nor a loss says"):
        model = AttackedModel.from_evaluator(engine)
    assert "softmax or sigmoid not said by the pipeline" in model.facts


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        (DiceLoss(softmax=True), "softmax"),
        (DiceLoss(sigmoid=True), "sigmoid"),
        (DiceCELoss(softmax=True), "softmax"),
        (DiceCELoss(sigmoid=True), "sigmoid"),
        (DeepSupervisionLoss(DiceLoss(sigmoid=True)), "sigmoid"),
        (FocalLoss(use_softmax=True), "softmax"),
        (nn.CrossEntropyLoss(), "softmax"),
        (nn.BCEWithLogitsLoss(), "sigmoid"),
        (DiceLoss(), None),
        (lambda prediction, label: prediction.mean(), None),
    ],
)
def test_activation_of_a_trainer_is_read_from_its_loss(loss: Any, activation: str | None) -> None:
    assert AttackedModel.from_engine(trainer(loss=loss)).activation == activation


@pytest.mark.parametrize(
    ("steps", "channels"),
    [
        ([AddGuidanceSignalDeepEditd("image", number_intensity_ch=2)], 2),
        ([AddGuidanceSignald("image", number_intensity_ch=1)], 1),
        ([AddClickSignalsd("image", gaussian=False)], -2),
        ([AddPointGuidanceSignald("image")], -2),
        ([AddPointGuidanceSignald("image", add_exclusion_map=False)], -1),
        ([AddLabelAsGuidanced("image", source="label")], -1),
        ([AddClickSignalsd("picture")], None),
        ([EnsureTyped("image")], None),
    ],
)
def test_guidance_channels_are_read_from_what_adds_them(steps: list[Any], channels: int | None) -> None:
    model = AttackedModel.from_parts(tiny_segmentation_network(), preprocessing=Compose(steps))
    assert model.image_channels == channels
    if channels is not None:
        assert type(steps[0]).__name__ in model.facts[1]


def test_clicks_stay_as_they_are() -> None:
    model = AttackedModel(tiny_segmentation_network(in_channels=5), image_channels=-2)
    image = torch.rand(2, 5, 8, 8, 8)
    result = PGD(0.1, steps=1)(model, image)
    change = (result.adversarial - image).abs().amax(dim=(0, 2, 3, 4))
    assert bool((change[:3] > 0).all()) and bool((change[3:] == 0).all())
    assert result.image_channels == (0, 1, 2)
    with pytest.raises(ValueError, match="image_channels=-2 means all but the last 2 channels, but the image has 2"):
        PGD(0.1, steps=1)(AttackedModel(tiny_segmentation_network(2), image_channels=-2), image[:, :2])
    with pytest.raises(ValueError, match="image_channels must name at least one input channel, got 0"):
        AttackedModel(tiny_segmentation_network(), image_channels=0)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            {"intensity": {"a_min": -160, "a_max": 240}},
            r"intensity is given as -160..240 HU -> 0..1, but preprocessing maps -57..164 HU -> 0..1 from "
            r"preprocessing#0",
        ),
        (
            {"intensity": {"a_min": -57, "a_max": 164, "clip": False}},
            r"given as HU \* 0.0045.* not clipped, but preprocessing maps -57",
        ),
        ({"image_units": "HU"}, r"image_units='HU' was told, but the network gets -57..164 HU -> 0..1 from"),
        ({"activation": "sigmoid"}, r"activation='sigmoid' was told, but `postprocessing#0` .* says 'softmax'"),
        ({"image_channels": [0, 1]}, r"image_channels=\[0, 1\] was told, but the first input channel is image"),
    ],
)
def test_what_is_told_against_the_pipeline_is_refused(told: dict[str, Any], sentence: str) -> None:
    engine = evaluator(
        preprocessing=[WINDOW, AddGuidanceSignald("image")], postprocessing=[Activationsd("pred", softmax=True)]
    )
    with pytest.raises(ValueError, match=sentence):
        AttackedModel.from_evaluator(engine, **told)


def test_what_is_told_and_agrees_is_taken() -> None:
    engine = evaluator(preprocessing=[WINDOW], postprocessing=[Activationsd("pred", softmax=True)])
    model = AttackedModel.from_evaluator(
        engine, intensity={"a_min": -57, "a_max": 164}, activation="softmax", class_names=["a", "b", "c"]
    )
    assert model.class_names == ["a", "b", "c"] and model.intensity is not None


@pytest.mark.parametrize(
    "steps",
    [[ScaleIntensityd("image")], [NormalizeIntensityd("image", nonzero=True)], [WINDOW, ScaleIntensityd("image")]],
)
def test_a_scan_that_is_scaled_by_an_unread_map_is_not_taken_for_hounsfield_units(steps: list[Any]) -> None:
    model = AttackedModel.from_evaluator(evaluator(preprocessing=steps))
    if model.intensity is None:
        assert model.image_units == "network"
        with pytest.raises(ValueError, match="needs the map between them"):
            PGD(8, units="HU", steps=1)(model, torch.rand(1, 1, 8, 8, 8) * 300)


def test_fixed_statistics_and_random_transforms_after_them() -> None:
    steps = [NormalizeIntensityd("image", subtrahend=100.0, divisor=50.0), RandGaussianNoised("image")]
    model = AttackedModel.from_evaluator(evaluator(preprocessing=steps))
    assert model.intensity is not None and model.intensity.scale == pytest.approx(0.02)


def test_compiled_and_parallel_networks_are_attacked_bare() -> None:
    network = tiny_segmentation_network()
    engine = evaluator(network=nn.DataParallel(network))
    assert AttackedModel.from_evaluator(engine).network is network


def test_other_tasks_are_refused_in_one_sentence() -> None:
    ensemble = EnsembleEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items())),
        networks=[tiny_segmentation_network()] * 2,
        pred_keys=["one", "two"],
    )
    with pytest.raises(TypeError, match="one network that segments one image.*got EnsembleEvaluator"):
        AttackedModel.from_evaluator(ensemble)

    detector = type(
        "RetinaNetDetector", (nn.Module,), {"__module__": "monai.apps.detection.networks.retinanet_detector"}
    )
    with pytest.raises(TypeError, match="the detector RetinaNetDetector, which returns boxes"):
        AttackedModel.from_evaluator(evaluator(network=detector()))


def test_what_the_loss_ignores_is_ignored() -> None:
    network = tiny_segmentation_network()
    read = AttackedModel.from_parts(network, loss=nn.CrossEntropyLoss(ignore_index=255))
    assert read.ignore_index == 255 and "label value 255 is ignored, as in the loss" in read.facts
    assert AttackedModel.from_parts(network, loss=nn.CrossEntropyLoss()).ignore_index is None
    with pytest.raises(ValueError, match=r"ignore_index=-1 was told, but the loss \(CrossEntropyLoss\) ignores 255"):
        AttackedModel.from_parts(network, loss=nn.CrossEntropyLoss(ignore_index=255), ignore_index=-1)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("purifier", [MedianDenoised("image"), RandResizeShiftd("image")])
def test_a_purifier_before_the_attack_keeps_the_map_and_is_said(first: bool, purifier: Any) -> None:
    """It stood in the way of every budget in HU, and with a told map its scores looked like those of the defense."""
    steps = [purifier, WINDOW] if first else [WINDOW, purifier]
    engine = evaluator(preprocessing=[EnsureTyped(["image", "label"]), *steps])
    with pytest.warns(UserWarning, match="purifies images before they are attacked") as caught:
        model = AttackedModel.from_evaluator(engine)
    (sentence,) = [str(one.message) for one in caught if "purifies" in str(one.message)]
    assert f"PurifiedInferer(inferer, {type(purifier.purifier).__name__}(intensity=...))" in sentence
    assert model.intensity is not None and model.intensity.window == pytest.approx((-57, 164))
    assert f"({type(purifier).__name__}, the budget counts behind it)" in " ".join(model.facts)


BOTH = ["image", "label"]
RESAMPLED = {
    "averaged": ([Spacingd(BOTH, (2, 2, 2), mode="bilinear")], "Spacingd resamples 'label' by mode='bilinear'"),
    "spline": ([Zoomd(BOTH, 2, mode=[1, 1])], "Zoomd resamples 'label' by mode='1'"),
    "nearest": ([Spacingd(BOTH, (2, 2, 2), mode=["bilinear", "nearest"])], ""),
    "the image alone": ([Spacingd("image", (2, 2, 2), mode="bilinear")], ""),
    "masks that are decided": ([AsDiscreted("label", to_onehot=3), Spacingd(BOTH, (2, 2, 2), mode="bilinear")], ""),
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_a_label_whose_numbers_are_averaged_is_said(name: str) -> None:
    steps, says = RESAMPLED[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AttackedModel.from_evaluator(evaluator(preprocessing=[WINDOW, *steps]))
    said = [str(one.message) for one in caught if "resamples" in str(one.message)]
    assert len(said) == bool(says) and all(sentence.startswith(says) for sentence in said)
