# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of purifiers that move anatomy: images and labels together, there and back."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import AsDiscreted, Compose, Invertd
from monai.utils import GridSampleMode

from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.transforms import MedianDenoise, MedianDenoised, RandResizeShiftd
from tests.helpers import random_image

CLASSES = (0, 1, 7)
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def blocks(size: int = 24) -> torch.Tensor:
    """Classes 0, 1 and 7 that touch each other: a block of 1 that holds a block of 7 at its side."""
    label = torch.zeros(1, size, size, size, dtype=torch.uint8)
    label[:, 5:-5, 6:-6, 7:-5] = 1
    label[:, 5:-9, 6:12, 9:-7] = 7
    return label


def item(dtype: torch.dtype = torch.float32, **more: Any) -> dict[str, Any]:
    label = blocks()
    image = label.float() * 20 + 10 * random_image((1, *label.shape[1:]))
    return {"image": MetaTensor(image, affine=AFFINE), "label": MetaTensor(label.to(dtype), affine=AFFINE), **more}


def moving(keys: Any = ("image", "label"), seed: int = 1, **options: Any) -> Any:
    made: Any = RandResizeShiftd(keys, scale=(1.08, 1.12), shift=6.0, **options)
    return made.set_random_state(seed)


def agreement(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Dice of each class."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return [float(2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum())) for c in CLASSES]


def values(label: torch.Tensor) -> set[float]:
    return set(torch.as_tensor(label).unique().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int16, torch.int64])
def test_image_and_label_move_together_and_come_back(dtype: torch.dtype) -> None:
    given, move = item(dtype), moving(mode=["bilinear", "nearest"])
    moved = move(given)
    assert moved["label"].dtype == dtype and moved["image"].dtype == torch.float32
    assert values(moved["label"]) == set(CLASSES)
    assert torch.equal(given["label"].as_tensor(), blocks().to(dtype))
    # The image is 20 times the label plus at most 10, also where both are moved.
    inner = (slice(None), *[slice(2, -2)] * 3)
    explained = (moved["image"] / 20 - 0.25 - moved["label"].float()).abs()[inner] < 0.5
    assert float(explained.float().mean()) > 0.9
    assert min(agreement(moved["label"], given["label"])) < 0.8
    back = move.inverse(moved)
    assert back["label"].dtype == dtype and values(back["label"]) == set(CLASSES)
    assert min(agreement(back["label"], given["label"])) > 0.9
    assert back["label"].applied_operations == [] and back["image"].applied_operations == []
    assert torch.equal(back["label"].affine, given["label"].affine)


def test_floats_mix_unless_the_mode_is_nearest() -> None:
    assert len(values(moving()(item())["label"])) > 20
    assert values(moving(mode=GridSampleMode.NEAREST)(item())["label"]) == set(CLASSES)
    one = moving(mode=("bilinear", "nearest"))(item())
    integers = moving()(item(torch.uint8))  # of integers the mode does not matter
    assert torch.equal(one["label"].as_tensor(), integers["label"].float().as_tensor())
    assert torch.equal(one["image"].as_tensor(), integers["image"].as_tensor())


def test_arrays_and_the_array_form_move_integers_as_labels() -> None:
    label = blocks()
    data = {"label": label.numpy(), "same": label.numpy().astype(np.float32), "mask": label.numpy() > 0}
    out = moving(("label", "same", "mask"), mode=("bilinear", "nearest", "bilinear"), spacing=2.0)(data)
    assert [out[key].dtype for key in data] == [np.uint8, np.float32, np.bool_]
    assert np.array_equal(out["label"], out["same"]) and not np.array_equal(out["label"], data["label"])
    array = moving("label", spacing=2.0).purifier
    array.set_random_state(4)
    assert np.array_equal(moving("label", seed=4, spacing=2.0)({"label": data["label"]})["label"], array(data["label"]))


def test_with_a_missing_key_the_others_keep_their_mode() -> None:
    move = moving(("image", "absent", "label"), mode=("bilinear", "bilinear", "nearest"), allow_missing_keys=True)
    assert values(move(item())["label"]) == set(CLASSES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("nearest", [True, False])
def test_invertd_says_how_a_prediction_is_brought_back(dtype: torch.dtype, nearest: bool) -> None:
    inner = moving("image")
    move = Compose([inner])
    inner.set_random_state(1)  # a Compose seeds what is in it
    data = move(item())
    assert data["image"].applied_operations[-1]["extra_info"]["mode"] == "bilinear"
    label = blocks()
    # what a perfect network says about the moved image
    data["pred"] = MetaTensor(
        moving("label")({"label": MetaTensor(label, affine=AFFINE)})["label"].as_tensor().to(dtype)
    )
    found = Invertd("pred", transform=move, orig_keys="image", nearest_interp=nearest)(data)["pred"]
    assert found.dtype == dtype
    if nearest or dtype == torch.uint8:
        assert values(found) == set(CLASSES)
        assert min(agreement(found, label)) > 0.9
    else:
        assert len(values(found)) > 20
        assert float((found.as_tensor() - label).abs().mean()) < 0.2


def test_hard_labels_of_asdiscrete_stay_hard() -> None:
    """The usual end of a pipeline: logits, argmax (float32), Invertd."""
    move = Compose([moving("image")])
    data = move(item())
    logits = torch.stack([(blocks()[0] == c).float() for c in CLASSES]) * 4 - 2
    data["pred"] = MetaTensor(logits)
    hard = {}
    for channels, discrete in (
        (1, AsDiscreted("pred", argmax=True)),
        (3, AsDiscreted("pred", argmax=True, to_onehot=3)),
    ):
        predicted = discrete(data)
        assert predicted["pred"].shape[0] == channels and predicted["pred"].dtype == torch.float32
        found = Invertd("pred", transform=move, orig_keys="image", nearest_interp=True)(predicted)["pred"]
        hard[channels] = found.as_tensor()
    assert hard[1].dtype == torch.float32 and values(hard[1]) == {0.0, 1.0, 2.0}
    assert bool((hard[3].sum(dim=0) == 1).all())  # one class each, also where three meet
    assert torch.equal(hard[3].argmax(dim=0, keepdim=True).float(), hard[1])
    soft = Invertd("pred", transform=move, orig_keys="image", nearest_interp=False)(data)["pred"].as_tensor()
    assert torch.equal(soft.argmax(dim=0, keepdim=True).float(), hard[1])


def test_batches_keep_the_mode_of_each_key() -> None:
    steps = Compose([moving(mode=("bilinear", "nearest"))])
    batch = next(iter(DataLoader(Dataset([item(), item()], steps), batch_size=2)))
    for one in decollate_batch(batch):
        back = steps.inverse(one)
        assert values(back["label"]) == set(CLASSES) and len(values(back["image"])) > 100
        assert min(agreement(back["label"], blocks())) > 0.9


def test_nearest_on_values_that_are_no_classes_takes_voxels_as_they_are() -> None:
    """Invertd's default is nearest, also for probabilities."""
    image = random_image((1, 12, 12, 12))
    out = moving("image", mode="nearest", spacing=2.0)({"image": image})["image"]
    assert values(out) <= values(image) and len(values(out)) > 256
    linear = moving("image", spacing=2.0)({"image": torch.arange(12.0).expand(1, 12, 12, 12)})["image"]
    nearest = moving("image", mode="nearest", spacing=2.0)({"image": torch.arange(12.0).expand(1, 12, 12, 12) + 0.25})
    assert float((nearest["image"] - 0.25 - linear).abs().max()) <= 0.5 + 1e-5


def test_bad_modes_and_images_of_integers_are_one_sentence() -> None:
    for mode in ("linear", ("bilinear", "nearest", "nearest"), ["nearest", "cubic"], None):
        with pytest.raises(ValueError, match=r"mode must be 'bilinear' or 'nearest', one for all keys or .* \(2\)"):
            moving(mode=mode)
    scan = (random_image((1, 12, 12, 12)) * 1000).to(torch.int16)
    with pytest.raises(ValueError, match=r"img must be floating point to be moved as an image: it holds \d{3} diff"):
        moving("image", spacing=1.0)({"image": scan})
    many = moving("image", mode="nearest", spacing=1.0)({"image": scan})["image"]
    assert many.dtype == torch.int16 and values(many) <= values(scan)


def test_only_purifiers_that_move_anatomy_have_a_mode() -> None:
    assert inspect.signature(RandResizeShiftd).parameters["mode"].default == "bilinear"
    assert "mode" not in inspect.signature(MedianDenoised).parameters
    with pytest.raises(TypeError, match="mode"):
        MedianDenoised("image", mode="nearest")
    scan = torch.arange(1000, dtype=torch.int16).reshape(1, 10, 10, 10)
    assert MedianDenoised("image")({"image": scan})["image"].dtype == torch.float32


def test_the_docstring_of_a_dictionary_form_ends_with_the_example_it_is_given() -> None:
    with_example = dictionary_form(MedianDenoise, "\n    >>> 1 + 1\n    2\n    ")
    summary = "Dictionary form of :class:`MedianDenoise`: ``keys``, then its arguments."
    assert with_example.__doc__ == f"{summary}\n\n>>> 1 + 1\n2"
    assert dictionary_form(MedianDenoise).__doc__ == summary
