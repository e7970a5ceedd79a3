# SPDX-License-Identifier: Apache-2.0
"""What a user tells of an exported model's pipeline, and what must still be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SaveImaged

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.callables import read_callable
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions, ToldPipeline, build_pipeline
from tests.audit.targets.exported_networks import SHAPE, WINDOW, Blob, model_of, write_image


def built(**told: Any) -> ToldPipeline:
    return build_pipeline(PipelineOptions(**told), "softmax", "logits")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "scan.nii.gz")


def test_everything_that_is_told_is_done(image: Path) -> None:
    pipeline = built(window=WINDOW, output_range=(-1, 1), orientation="RAS", spacing=(2, 2, 2), whole_size=(16, 12, 20))
    made = pipeline.preprocessing({"image": str(image)})["image"]
    assert tuple(made.shape) == (1, 16, 12, 20) and made.dtype == torch.float32
    assert -1 <= float(made.min()) < float(made.max()) <= 1
    assert nibabel.aff2axcodes(made.affine.numpy()) == ("R", "A", "S")
    assert all(fact.told for fact in pipeline.facts if fact.what in ("orientation", "spacing", "inferer"))
    assert not pipeline.missing and pipeline.inferer is None


def test_the_segmentation_comes_back_to_the_grid_of_the_file(image: Path) -> None:
    """Turned, resampled, cropped and resized, and back: the ellipsoid is where it was."""
    told = {"window": (20, 60), "orientation": "RAS", "spacing": (1.5, 1.5, 1.5), "crop_foreground": True}
    parts = read_callable(Blob(), {**told, "whole_size": (32, 32, 32)})
    assert parts.reference_prediction is not None
    found = parts.reference_prediction(str(image))
    voxels = torch.tensor(nibabel.load(image).get_fdata())  # type: ignore[attr-defined]
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    inside = torch.stack([axis**2 for axis in axes]).sum(dim=0) < 0.4
    assert found.shape == voxels.shape
    assert 2 * float((found * inside).sum()) / float(found.sum() + inside.sum()) > 0.9


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("values", ["logits", "probabilities"])
def test_what_was_cropped_is_background(image: Path, activation: str, values: str) -> None:
    """The inverse fills with 0, which is a probability of no foreground but a logit of half."""
    pipeline = build_pipeline(PipelineOptions(window=(70, 100), crop_foreground=True), activation, values)
    item = dict(pipeline.preprocessing({"image": str(image)}))
    made = item["image"]
    assert made.shape[1:] != SHAPE
    classes = 2 if activation == "softmax" else 1
    answer = torch.ones(classes, *made.shape[1:])
    answer[0] = 1 if classes == 1 else 0
    item["pred"] = MetaTensor(answer, meta=made.meta, applied_operations=made.applied_operations)
    assert pipeline.postprocessing is not None
    found = pipeline.postprocessing(item)["pred"]
    assert tuple(found.shape) == (1, *SHAPE)
    assert int((found > 0).sum()) == made[0].numel()


def test_what_matters_and_is_not_told_is_missing() -> None:
    missing = built().missing
    assert [(one.what, one.option) for one in missing] == [
        ("intensity window", "--window LOW HIGH, or --window none"),
        ("orientation", "--orientation RAS, or --orientation file"),
        ("input size", "--roi-size X Y Z, or --whole-size X Y Z"),
    ]
    assert not built(window="none", orientation="file", roi_size=(16, 16, 16)).missing


def test_what_is_not_told_is_said_to_be_a_default() -> None:
    said = {fact.what: (fact.value, fact.told) for fact in built(window=WINDOW, roi_size=(16, 16, 16)).facts}
    assert said["spacing"] == ("as in the file", False) and "orientation" not in said
    assert said["overlap of windows"] == ("0.25, constant weights", False)


def test_the_map_of_the_model_is_that_of_the_window() -> None:
    parts = read_callable(Blob(), {"window": WINDOW, "output_range": (-1, 1), "roi_size": (16, 16, 16)})
    assert "-160..240 HU -> -1..1 from `preprocessing#2`" in " ".join(model_of(parts).facts)
    raw = read_callable(Blob(), {"window": "none", "roi_size": (16, 16, 16)})
    assert model_of(raw).intensity is None


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"window": (240, -160)}, "low < high"),
        ({"window": (1, float("nan"))}, "window must be"),
        ({"window": "all"}, "or 'none'"),
        ({"output_range": (0, 0)}, "output_range must be"),
        ({"roi_size": (16, 0, 16)}, "roi_size must be"),
        ({"roi_size": (16.5, 16, 16)}, "whole numbers of voxels"),
        ({"whole_size": 96}, "whole_size must be"),
        ({"spacing": (1, -1, 1)}, "lengths in mm"),
        ({"spacing": (1, True, 1)}, "lengths in mm"),
        ({"orientation": "RLS"}, "each axis once"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"blending": "linear"}, "blending must be one of 'constant', 'gaussian'"),
        ({"activation": "argmax"}, "activation must be one of"),
        ({"output_values": "labels"}, "output_values must be one of"),
        ({"sw_batch_size": 0}, "sw_batch_size must be"),
        ({"crop_foreground": "False"}, "crop_foreground must be True or False"),
        ({"class_names": "liver"}, "class_names must be"),
        ({"class_names": ("a", "a")}, "different names"),
        ({"roi_size": (16, 16, 16), "whole_size": (16, 16, 16)}, "both told"),
        ({"whole_size": (16, 16, 16), "overlap": 0.5}, "no windows that could overlap"),
        ({"pipeline_file": "a.yaml", "window": (0, 1)}, "window told beside pipeline_file"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        PipelineOptions(**told)


def test_an_unknown_key_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(TargetError, match="'roi_sise' is no option .* did you mean 'roi_size'"):
        PipelineOptions.of({"roi_sise": (16, 16, 16)})
    with pytest.raises(TargetError, match="'qqq' is no option .*there are window, "):
        PipelineOptions.of({"qqq": 1})


def test_sizes_have_as_many_numbers_as_the_network_has_axes() -> None:
    with pytest.raises(TargetError, match="spacing must have 3 numbers"):
        built(spacing=(1, 1))


def test_told_things_that_the_network_contradicts_are_refused() -> None:
    with pytest.raises(TargetError, match="output_values is told as logits, but .* from a final softmax"):
        read_callable(Blob(end="softmax"), {"output_values": "logits"})
    with pytest.raises(
        TargetError, match="output_values is told as probabilities, but the network returns values from"
    ):
        read_callable(Blob(), {"output_values": "probabilities"})
    with pytest.raises(TargetError, match="activation is told as sigmoid, but the network ends in a softmax"):
        read_callable(Blob(end="softmax"), {"activation": "sigmoid"})
    with pytest.raises(TargetError, match="has one output channel: tell sigmoid"):
        read_callable(Blob(classes=1), {"activation": "softmax"})


def config(**changes: Any) -> dict[str, Any]:
    return {
        "low": -160,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": "@low",
                    "a_max": 240,
                    "b_min": 0,
                    "b_max": 1,
                    "clip": True,
                },
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "out"},
            ],
        },
        **changes,
    }


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_a_pipeline_file_is_read_and_writes_nothing(tmp_path: Path, image: Path) -> None:
    parts = read_callable(Blob(), {"pipeline_file": write(tmp_path / "pipeline.json", config())})
    assert isinstance(parts.inferer, SlidingWindowInferer) and parts.inferer.overlap == 0.5
    assert not parts.missing and "pipeline file" in parts.hashes
    assert not any(isinstance(step, SaveImaged) for step in parts.postprocessing.transforms)  # type: ignore[union-attr]
    assert "savers left out: SaveImaged (pipeline.json#postprocessing)" in map(str, parts.facts)
    assert "-160..240 HU -> 0..1" in " ".join(model_of(parts).facts)
    assert parts.reference_prediction is not None
    found = parts.reference_prediction(str(image))
    assert found.shape == SHAPE and 0 < int(found.sum()) < np.prod(SHAPE) / 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"preprocesing": 1}, "nothing uses 'preprocesing'"),
        ({"preprocessing": {"_target_": "Compos"}}, "preprocessing cannot be made"),
        ({"preprocessing": 3}, "preprocessing must be a transform, got int"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi": 3}}, "inferer cannot be made"),
    ],
)
def test_a_wrong_pipeline_file_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    content = config(**changes)
    if "preprocessing" in changes:
        del content["low"]
    file = write(tmp_path / "pipeline.json", content)
    with pytest.raises(TargetError, match=sentence):
        read_callable(Blob(), {"pipeline_file": file})


def test_a_pipeline_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    for name, content, sentence in (
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "must hold 'preprocessing'"),
        ("a.txt", "{}", "must be YAML or JSON"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(TargetError, match=sentence):
            read_callable(Blob(), {"pipeline_file": str(tmp_path / name)})
    with pytest.raises(TargetError, match="there is no such file"):
        read_callable(Blob(), {"pipeline_file": str(tmp_path / "b.json")})
