# SPDX-License-Identifier: Apache-2.0
"""Adversarial transforms, array and dictionary, in pipelines, loaders and inverses."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureTyped, Flipd, Invertd, RandBiasFieldd

import monai_adversarial.transforms as T
from monai_adversarial.attacks import PGD
from tests.helpers import TEST_NDARRAYS, random_image, random_label, tiny_segmentation_network

SHAPE = (1, 10, 12, 8)
FLAT = (1, 12, 10)

ARRAY_CASES = [
    (T.AdvNoise, {"epsilon": 0.05, "steps": 2}),
    (T.AdvBiasField, {"max_gain": 0.2, "steps": 2}),
    (T.AdvElastic, {"max_displacement": 2.0, "control_spacing": 8.0, "steps": 2, "spacing": (1.0, 2.0, 3.0)}),
    (T.AdvAffine, {"max_rotation": 5.0, "max_translation": 2.0, "steps": 2, "spacing": (1.0, 2.0, 3.0)}),
]
DICTIONARY = {
    T.AdvNoise: T.AdvNoised,
    T.AdvBiasField: T.AdvBiasFieldd,
    T.AdvElastic: T.AdvElasticd,
    T.AdvAffine: T.AdvAffined,
}
GEOMETRIC = (T.AdvElastic, T.AdvAffine)


def metatensor(data: torch.Tensor) -> MetaTensor:
    return MetaTensor(data, affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize("create", TEST_NDARRAYS)
@pytest.mark.parametrize(("cls", "options"), ARRAY_CASES)
def test_array_form_keeps_the_type_and_changes_the_image(cls, options, create):
    image = create(random_image(SHAPE).numpy())
    out = cls(tiny_segmentation_network(), **options)(image)
    assert isinstance(out, torch.Tensor) and tuple(out.shape) == SHAPE
    assert isinstance(out, MetaTensor) or not isinstance(image, MetaTensor)
    change = np.abs(np.asarray(out) - np.asarray(image))
    assert change.max() > 1e-3
    if cls is T.AdvNoise:
        assert change.max() <= 0.05 + 1e-6
    if cls is T.AdvBiasField:
        assert change.max() <= 0.2 + 1e-5


@pytest.mark.parametrize(("cls", "options"), ARRAY_CASES)
def test_array_form_returns_the_label_that_belongs_to_the_image(cls, options):
    image, label = random_image(SHAPE), random_label(SHAPE)
    out, moved = cls(tiny_segmentation_network(), **options)(image, label)
    assert moved.dtype == label.dtype and moved.shape == label.shape
    assert torch.equal(moved, label) != issubclass(cls, GEOMETRIC)


@pytest.mark.parametrize(("cls", "options"), ARRAY_CASES)
def test_two_dimensions(cls, options):
    options = {**options, **({"spacing": (1.0, 2.0)} if "spacing" in options else {})}
    out = cls(tiny_segmentation_network(spatial_dims=2), **options)(random_image(FLAT))
    assert out.shape == FLAT


@pytest.mark.parametrize(("cls", "options"), ARRAY_CASES)
def test_dictionary_form_equals_array_form_and_leaves_the_input_alone(cls, options):
    network = tiny_segmentation_network()
    data = {"image": metatensor(random_image(SHAPE)), "label": metatensor(random_label(SHAPE)), "name": "case"}
    before = data["image"].clone()
    options = {k: v for k, v in options.items() if k != "spacing"}
    out = DICTIONARY[cls](keys="image", model=network, label_key="label", **options)(data)
    image, label = cls(network, **options)(data["image"], data["label"])
    torch.testing.assert_close(out["image"].as_tensor(), image.as_tensor())
    assert torch.equal(out["label"].as_tensor(), label.as_tensor())
    assert torch.equal(data["image"], before) and not data["image"].applied_operations
    assert out["name"] == "case"


@pytest.mark.parametrize("name", ["AdvNoise", "AdvBiasField", "AdvElastic", "AdvAffine"])
def test_aliases(name):
    assert getattr(T, f"{name}D") is getattr(T, f"{name}Dict") is getattr(T, f"{name}d")
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(T.__all__)


def test_prob_and_random_state():
    network = tiny_segmentation_network()
    data = {"image": random_image(SHAPE)}
    never = T.AdvNoised("image", network, 0.1, steps=1, prob=0.0)(data)
    assert torch.equal(never["image"], data["image"])

    def draws(seed):
        transform = T.AdvNoised("image", network, 0.1, steps=1, prob=0.5)
        transform.set_random_state(seed)
        return [not torch.equal(transform(data)["image"], data["image"]) for _ in range(12)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert 0 < sum(draws(1)) < 12


def test_replaces_rand_bias_field_in_a_pipeline():
    network = tiny_segmentation_network()
    data = {"image": random_image(SHAPE), "label": random_label(SHAPE)}
    for transform in (
        RandBiasFieldd("image", degree=2, prob=1.0),
        T.AdvBiasFieldd("image", network, degree=2, steps=1),
    ):
        out = Compose([EnsureTyped(["image", "label"]), transform])(data)
        assert isinstance(out["image"], MetaTensor)
        assert not torch.equal(out["image"].as_tensor(), data["image"])


def test_applied_operation_is_recorded_and_geometry_can_be_inverted():
    """Invertd brings what follows the attack back to the clean anatomy."""
    axis = torch.linspace(-1, 1, 24)
    ball = (axis.view(-1, 1, 1) ** 2 + axis.view(1, -1, 1) ** 2 + axis.view(1, 1, -1) ** 2)[None]
    data = {"image": MetaTensor(torch.exp(-2 * ball), affine=torch.eye(4, dtype=torch.float64))}
    network = tiny_segmentation_network()
    pipeline = Compose(
        [
            Flipd("image", spatial_axis=0),
            T.AdvElasticd("image", network, max_displacement=3.0, control_spacing=12.0, steps=3, seed=1),
        ]
    )
    attacked = pipeline(data)
    operation = attacked["image"].applied_operations[-1]
    assert operation["class"] == "AdvElasticd"
    assert operation["extra_info"]["attacked"] and "displacement" in " ".join(operation["extra_info"]["measured"])
    attacked["pred"] = attacked["image"].clone()
    restored = Invertd("pred", pipeline, orig_keys="image", nearest_interp=False, to_tensor=True)(attacked)["pred"]
    moved = (attacked["image"].flip(1).as_tensor() - data["image"].as_tensor()).abs().mean()
    left = (restored.as_tensor() - data["image"].as_tensor()).abs().mean()
    assert left < 0.25 * moved


def test_several_images_share_one_perturbation():
    image = random_image(SHAPE) + 0.5
    transform = T.AdvBiasFieldd(("image", "other"), tiny_segmentation_network(), steps=2)
    out = transform({"image": image, "other": image * 2})
    torch.testing.assert_close(out["other"], out["image"] * 2)


def test_missing_keys():
    network = tiny_segmentation_network()
    with pytest.raises(KeyError):
        T.AdvNoised("missing", network, 0.1)({"image": random_image(SHAPE)})
    data = {"image": random_image(SHAPE)}
    assert T.AdvNoised("missing", network, 0.1, allow_missing_keys=True)(data).keys() == data.keys()


def test_spacing_is_asked_for():
    with pytest.raises(ValueError, match="spacing"):
        T.AdvElastic(tiny_segmentation_network(), max_displacement=2.0)(random_image(SHAPE))


@pytest.mark.parametrize("no_grad", [False, True])
def test_loader_workers_give_the_result_of_no_workers_and_warn_once(no_grad):
    network = tiny_segmentation_network()
    items = [{"image": random_image(SHAPE, seed=i), "label": random_label(SHAPE, seed=i)} for i in range(4)]
    transform = T.AdvNoised("image", network, 0.05, label_key="label", steps=2)

    def run(workers):
        with torch.set_grad_enabled(not no_grad), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.cat(
                [b["image"] for b in DataLoader(Dataset(items, transform), batch_size=2, num_workers=workers)]
            )

    torch.testing.assert_close(run(2), run(0), atol=1e-6, rtol=0)


def test_worker_says_that_its_weights_are_a_copy(monkeypatch):
    transform = T.AdvNoise(tiny_segmentation_network(), 0.05, steps=1)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    with warnings.catch_warnings():  # a loader's thread: the weights are the current ones
        warnings.simplefilter("error")
        transform(random_image(SHAPE))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.warns(UserWarning, match="weights that the network had when the worker started"):
        transform(random_image(SHAPE))
    monkeypatch.setattr(T.AdvNoise, "network_device", lambda self: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match="num_workers=0, use ThreadDataLoader, or attack the batch") as caught:
        transform(random_image(SHAPE))
    assert "\n" not in str(caught.value)


def test_collated_batch_can_be_decollated_and_inverted():
    network = tiny_segmentation_network()
    items = [{"image": metatensor(random_image(SHAPE, seed=i))} for i in range(2)]
    transform = Compose([T.AdvElasticd("image", network, 2.0, control_spacing=8.0, steps=1)])
    batch = next(iter(DataLoader(Dataset(items, transform), batch_size=2)))
    for item in decollate_batch(batch):
        item["pred"] = item["image"].clone()
        assert Invertd("pred", transform, orig_keys="image")(item)["pred"].shape == SHAPE


def test_bad_arguments():
    network = tiny_segmentation_network()
    with pytest.raises(TypeError, match="network must be a torch.nn.Module or a callable"):
        T.AdvNoise("network", 0.1)
    with pytest.raises(TypeError, match="attack must be"):
        T.AdversarialTransform(network, "pgd")
    assert isinstance(T.AdversarialTransform(network, PGD(0.1)).attack, PGD)
