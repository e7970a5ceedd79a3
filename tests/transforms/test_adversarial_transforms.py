# SPDX-License-Identifier: Apache-2.0
"""Adversarial transforms, array and dictionary, in pipelines, loaders and inverses."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, ThreadDataLoader, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureTyped, Flipd, Invertd, RandBiasFieldd

import monai_adversarial.transforms as T
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel
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
    lenient = T.AdvNoised("missing", network, 0.1, allow_missing_keys=True)
    with pytest.warns(UserWarning, match=r"AdvNoised attacked nothing: of keys=\['missing'\] the item holds no image"):
        assert lenient(data).keys() == data.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        lenient(data)


@pytest.mark.parametrize("told", [{"label_key": "labl"}, {"label_key": "label", "moved_keys": ("label", "livr")}])
@pytest.mark.parametrize("cls", [T.AdvNoised, T.AdvElasticd])
def test_a_label_that_is_named_and_missing_is_refused(cls, told):
    network = tiny_segmentation_network()
    name, missing = list(told)[-1], "livr" if "moved_keys" in told else "labl"
    with pytest.raises(KeyError, match=f"{name} names '{missing}', but the item holds image, label: "):
        cls("image", network, 2.0, steps=1, **told)(with_label())
    lenient = cls("image", network, 2.0, steps=1, allow_missing_keys=True, **told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert lenient(with_label()).keys() == with_label().keys()


def test_a_label_that_stays_while_anatomy_moves_is_said():
    network = tiny_segmentation_network()
    warp = T.AdvElasticd("image", network, 3.0, control_spacing=8.0, steps=1)
    with pytest.warns(UserWarning, match="moves the anatomy of the image, but 'label' on its grid stays where it was"):
        warp({**with_label(), "case": "a", "prior": metatensor(random_image(SHAPE))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warp(with_label())  # once
        T.AdvNoised("image", network, 0.1, steps=1)(with_label())  # nothing moves
        T.AdvElasticd("image", network, 3.0, control_spacing=8.0, steps=1, label_key="label")(with_label())


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


def with_label() -> dict:
    """An image and its label as ``LoadImaged`` gives them: both in float32, with an affine."""
    label = random_label(SHAPE).float()
    label[:, :5] = 0
    return {"image": metatensor(random_image(SHAPE)), "label": metatensor(label)}


MONAI_IDIOM = [
    ({}, True),
    ({"label_key": "label"}, False),
    ({"mode": ("bilinear", "nearest")}, True),
    ({"mode": ("bilinear", "nearest"), "label_key": "label"}, False),
]


@pytest.mark.parametrize(("options", "says"), MONAI_IDIOM)
@pytest.mark.parametrize(("cls", "settings"), ARRAY_CASES)
def test_a_label_among_keys_is_moved_once_or_left_alone(cls, settings, options, says):
    data, network = with_label(), tiny_segmentation_network()
    settings = {k: v for k, v in settings.items() if k != "spacing"}
    transform = DICTIONARY[cls](["image", "label"], network, **settings, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = transform(data)
        transform(data)
    expected_image, expected_label = cls(network, **settings)(data["image"], data["label"])
    assert torch.equal(out["image"].as_tensor(), expected_image.as_tensor())
    assert torch.equal(out["label"].as_tensor(), expected_label.as_tensor())
    assert out["label"].unique().tolist() == [0.0, 1.0, 2.0] and out["label"].dtype == torch.float32
    assert torch.equal(out["label"].as_tensor(), data["label"].as_tensor()) != issubclass(cls, GEOMETRIC)
    assert not transform.transform.last_result.reference_is_prediction
    told = [str(warning.message) for warning in caught if "among keys" in str(warning.message)]
    assert len(told) == says
    assert not says or "takes 'label' among keys as the label that the network should predict" in told[0]


@pytest.mark.parametrize(
    "label",
    [
        torch.ones(SHAPE, dtype=torch.bool),
        random_label(SHAPE).to(torch.uint16),
        random_label(SHAPE).numpy().astype(np.int16),
        random_label(SHAPE, classes=133),
        torch.nn.functional.one_hot(random_label(SHAPE)[0], 3).movedim(-1, 0).half(),
    ],
    ids=["bool", "uint16", "int16 array", "133 classes", "one-hot"],
)
def test_labels_are_known_by_their_values_and_keep_their_type(label):
    plain = torch.as_tensor(label)
    network = tiny_segmentation_network(out_channels=max(3, int(plain.long().max()) + 1))
    data = {"image": random_image(SHAPE), "label": label}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        noisy = T.AdvNoised(["image", "label"], network, 0.1, steps=1)(data)
        moved = T.AdvElasticd(["image", "label"], network, 3.0, control_spacing=8.0, steps=1, spacing=1.0)(data)
    for out in (noisy, moved):
        assert out["label"].dtype == plain.dtype and out["label"].shape == plain.shape
        assert set(out["label"].long().unique().tolist()) <= set(plain.long().unique().tolist())
    assert torch.equal(noisy["label"].long(), plain.long())


def test_a_second_image_is_no_label_and_mode_decides():
    network = tiny_segmentation_network()
    data = {"image": random_image(SHAPE) + 0.5, "other": (random_image(SHAPE, seed=1) * 2000).round()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = T.AdvBiasFieldd(["image", "other"], network, steps=1)(data)
    assert not torch.equal(out["other"], data["other"])
    few = {**data, "other": (random_image(SHAPE, seed=1) * 9).round() + 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = T.AdvBiasFieldd(["image", "other"], network, steps=1, mode="bilinear")(few)
    assert not torch.equal(out["other"], few["other"])


def test_a_second_image_of_whole_numbers_stays_inside_its_type():
    image = random_image(SHAPE) * 100 + 100
    data = {"image": image, "other": torch.full(SHAPE, 254, dtype=torch.uint8)}
    out = T.AdvNoised(["image", "other"], tiny_segmentation_network(), 8.0, steps=1, mode="bilinear")(data)
    assert out["other"].dtype == torch.uint8
    assert out["other"].min() >= 246 and (out["other"] == 255).any()


def test_masks_move_and_are_never_the_label():
    data = {**with_label(), "mask": metatensor(random_label(SHAPE, classes=2).float())}
    transform = T.AdvElasticd(
        ["image", "mask"], tiny_segmentation_network(), 3.0, control_spacing=8.0, steps=1, moved_keys="mask"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = transform(data)
    assert transform.transform.last_result.reference_is_prediction
    assert not torch.equal(out["mask"].as_tensor(), data["mask"].as_tensor())
    assert out["mask"].unique().tolist() == [0.0, 1.0]


def test_a_label_before_the_image_and_keys_without_an_image_are_refused():
    network, data = tiny_segmentation_network(), with_label()
    with pytest.raises(ValueError, match=r"keys must name the image first: 'label' .*keys=\('image', 'label'\)"):
        T.AdvNoised(["label", "image"], network, 0.1)(data)
    out = T.AdvNoised(["label", "image"], network, 0.1, steps=1, label_key="label")(data)
    assert torch.equal(out["label"].as_tensor(), data["label"].as_tensor())
    assert not torch.equal(out["image"].as_tensor(), data["image"].as_tensor())
    with pytest.raises(ValueError, match="keys must name an image to attack, got only labels"):
        T.AdvNoised("label", network, 0.1, label_key="label")
    with pytest.raises(ValueError, match="mode must be one of 'bilinear', 'nearest', got 'bicubic'"):
        T.AdvNoised(["image", "label"], network, 0.1, mode=("bilinear", "bicubic"))


def test_inverse_brings_labels_back_by_nearest_neighbor():
    data, network = with_label(), tiny_segmentation_network()
    pipeline = Compose(
        [T.AdvElasticd(["image", "label"], network, 2.0, label_key="label", control_spacing=8.0, steps=1)]
    )
    attacked = pipeline(data)
    attacked["pred"] = attacked["label"].clone()
    restored = Invertd("pred", pipeline, orig_keys="image", nearest_interp=True)(copy.deepcopy(attacked))["pred"]
    back = pipeline.inverse(attacked)
    for label in (restored, back["label"]):
        assert label.unique().tolist() == [0.0, 1.0, 2.0]
        left = (label.as_tensor() != data["label"].as_tensor()).float().mean()
        assert left < (attacked["pred"].as_tensor() != data["label"].as_tensor()).float().mean()


def test_the_model_knows_inferer_window_and_units():
    window = {"a_min": -160, "a_max": 240}
    model = AttackedModel(
        tiny_segmentation_network(),
        SlidingWindowInferer(6, 2, 0.25),
        intensity=window,
        image_units="HU",
        round_to_integer=True,
    )
    image = (random_image(SHAPE) * 300 - 100).round() + 0.0  # no negative zeros: voxels are the seed
    out, _ = T.AdvNoise(model, 8, units="HU", steps=2)(image, random_label(SHAPE))
    assert torch.equal(out, out.round()) and (out - image).abs().max() == 8
    transform = T.AdvNoised("image", model, 8, label_key="label", units="HU", steps=2)
    assert transform.transform.model is model
    stored = {"image": image.numpy().astype(np.int16), "label": random_label(SHAPE)}
    assert torch.equal(transform(stored)["image"], out.short())


def test_each_thread_sees_its_own_result_and_calls_do_not_mix():
    transform = T.AdvNoised("image", tiny_segmentation_network(), 0.1, label_key="label", steps=3, prob=0.5)
    transform.set_random_state(0)
    items = [{"image": random_image(SHAPE, seed=i), "label": random_label(SHAPE, seed=i)} for i in range(24)]
    alone = T.AdvNoised("image", tiny_segmentation_network(), 0.1, label_key="label", steps=3)
    expected = [alone(item)["image"] for item in items]

    def work(number):
        out = transform(items[number])["image"]
        result = transform.transform.last_result
        if torch.equal(out, items[number]["image"]):
            return False
        assert torch.equal(result.image[0], items[number]["image"])
        assert torch.equal(out, expected[number])
        return True

    with ThreadPoolExecutor(4) as pool:
        attacked = list(pool.map(work, range(len(items))))
    assert 4 < sum(attacked) < 20
    assert transform.transform.last_result is None, "the main thread has attacked nothing"


def test_copies_and_pickles_start_without_a_result():
    transform = T.AdvNoise(tiny_segmentation_network(), 0.1, steps=1)
    transform(random_image(SHAPE))
    assert transform.last_result is not None
    for made in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert made.last_result is None
        assert torch.equal(made(random_image(SHAPE)), transform(random_image(SHAPE)))


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "use_thread_workers": True}])
def test_loader_threads_attack_the_current_weights_without_a_warning(options):
    network = tiny_segmentation_network()
    items = [{"image": random_image(SHAPE, seed=i), "label": random_label(SHAPE, seed=i)} for i in range(4)]
    transform = T.AdvNoised("image", network, 0.1, label_key="label", steps=2)
    with torch.no_grad():
        network[0].weight.mul_(2)
    expected = [transform(item)["image"] for item in items]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        batches = [batch["image"] for batch in ThreadDataLoader(Dataset(items, transform), batch_size=2, **options)]
    torch.testing.assert_close(torch.cat(batches), torch.stack(expected), atol=1e-6, rtol=0)
