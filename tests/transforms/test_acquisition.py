# SPDX-License-Identifier: Apache-2.0
"""AdvCTAcquisition, AdvMRIAcquisition, AdvUltrasoundReconstruction and RandPerturbation."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_adversarial.transforms as T
from monai_adversarial.attacks import (
    CTAcquisition,
    Cupping,
    DoseReduction,
    ElasticDeformation,
    GantryTilt,
    Ghosting,
    MRIAcquisition,
    SpeckleNoise,
    UltrasoundReconstruction,
    WindowShift,
)
from monai_adversarial.data.example import example_case
from tests.helpers import as_metatensor, random_image, tiny_segmentation_network

WINDOW = {"a_min": -160, "a_max": 340}
SHAPE = (1, 12, 10, 8)
NAMES = ["AdvCTAcquisition", "AdvMRIAcquisition", "AdvUltrasoundReconstruction", "RandPerturbation"]


def hounsfield(dtype: torch.dtype = torch.float32) -> MetaTensor:
    return as_metatensor((random_image(SHAPE) * 400 - 100).to(dtype))


@pytest.mark.parametrize(
    "perturbation", [CTAcquisition(), MRIAcquisition(), SpeckleNoise(0.1), ElasticDeformation(2.0, control_spacing=8)]
)
def test_a_draw_is_the_perturbations_own_and_repeats_with_the_state(perturbation: Any) -> None:
    image = hounsfield()

    def draw(seed: int) -> torch.Tensor:
        transform = T.RandPerturbation(perturbation, 1.0, WINDOW, "HU").set_random_state(seed)
        return transform(image)

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, image)
    assert isinstance(first, MetaTensor) and torch.equal(first.affine, image.affine)
    transform = T.RandPerturbation(perturbation, 1.0, WINDOW, "HU").set_random_state(1)
    transform.randomize()
    found, bound, parameters = transform.perturb(image, image)
    torch.testing.assert_close(found.as_tensor(), first.as_tensor())
    bound.verify(bound.scene.image, bound.finished(bound.scene.image, parameters), parameters)


def test_whole_numbers_and_arrays_come_back_as_they_came() -> None:
    whole = hounsfield(torch.int16)
    out = T.RandPerturbation(CTAcquisition(), 1.0, WINDOW, "HU").set_random_state(0)(whole)
    assert out.dtype == torch.int16 and not torch.equal(out, whole)
    array = T.RandPerturbation(Ghosting(), 1.0)(np.random.default_rng(0).random(SHAPE).astype(np.float32))
    assert array.dtype == torch.float32 and tuple(array.shape) == SHAPE
    never = T.RandPerturbation(Ghosting(), 0.0)(whole)
    assert torch.equal(never, whole)


def test_labels_move_with_a_tilt_and_keys_share_the_draw() -> None:
    _, image, label = example_case(16)
    data = {"image": image[0], "other": 2 * image[0], "label": label[0].to(torch.uint8), "name": "case"}
    tilted = T.RandPerturbationd(["image", "other"], GantryTilt(30), "label", prob=1.0).set_random_state(4)(data)
    torch.testing.assert_close(2 * tilted["image"], tilted["other"])
    assert tilted["label"].dtype == torch.uint8 and not torch.equal(tilted["label"], data["label"])
    assert set(tilted["label"].unique().tolist()) <= set(data["label"].unique().tolist()) and tilted["name"] == "case"
    still = T.RandPerturbationd("image", Cupping(30), "label", prob=1.0, image_units="HU")(data)
    assert torch.equal(still["label"], data["label"]) and not torch.equal(still["image"], data["image"])
    skipped = T.RandPerturbationd("image", Cupping(30), prob=0.0, image_units="HU")(data)
    assert torch.equal(skipped["image"], data["image"])
    with pytest.raises(KeyError):
        T.RandPerturbationd("absent", Cupping(30), prob=1.0)(data)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(TypeError, match="perturbation must be a Perturbation"):
        T.RandPerturbation("cupping")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window is missing"):
        T.RandPerturbation(WindowShift(), 1.0, image_units="HU")(hounsfield())
    with pytest.raises(ValueError, match="spacing is missing"):
        T.RandPerturbation(Cupping(), 1.0, image_units="HU")(torch.rand(SHAPE))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdvCTAcquisition", {"blocks": [Cupping(10), DoseReduction(0.5)], "steps": 2}),
        ("AdvMRIAcquisition", {"blocks": [Ghosting(0.1)], "steps": 2}),
        ("AdvUltrasoundReconstruction", {"reconstruction": UltrasoundReconstruction(max_gain=1), "queries": 3}),
    ],
)
def test_dictionary_form_equals_array_form(name: str, options: dict[str, Any]) -> None:
    model, image, label = example_case(16)
    data = {"image": image[0], "label": label[0]}
    out = getattr(T, f"{name}d")("image", model, label_key="label", **options)(data)
    array = getattr(T, name)(model, **options)
    alone, _ = array(image[0], label[0])
    assert torch.equal(out["image"].as_tensor(), alone.as_tensor()) and not torch.equal(alone, image[0])
    assert array.last_result.adversarial_dice <= array.last_result.clean_dice
    assert out["image"].applied_operations[-1]["class"] == f"{name}d"


@pytest.mark.parametrize("name", NAMES)
def test_aliases(name: str) -> None:
    assert getattr(T, f"{name}D") is getattr(T, f"{name}Dict") is getattr(T, f"{name}d")
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(T.__all__)


def test_dictionary_forms_are_pickled_for_workers() -> None:
    transform = T.AdvMRIAcquisitiond("image", tiny_segmentation_network(), steps=1)
    again = pickle.loads(pickle.dumps(transform))
    assert type(again) is T.AdvMRIAcquisitiond and repr(again.transform.attack) == repr(transform.transform.attack)
