# SPDX-License-Identifier: Apache-2.0
"""The worst of N random transforms in pipelines: array and dictionary form, threads, copies."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_adversarial.transforms as T
from monai_adversarial.attacks import DrawnResult, WorstOf
from monai_adversarial.models import AttackedModel
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes

NOISE = mt.RandGaussianNoise(std=0.25)
MOVED = mt.RandAffine(rotate_range=(0.5, 0.5, 0.5), padding_mode="border")


def one_case() -> tuple[torch.Tensor, torch.Tensor]:
    image, label = bright_boxes(batch=1)
    return image[0], label[0]


@pytest.mark.parametrize("as_given", [np.asarray, torch.as_tensor, MetaTensor])
def test_the_array_form_gives_the_worst_draw(as_given: Any) -> None:
    image, label = one_case()
    transform = T.AdvWorstOf(NumpyNetwork(), NOISE, draws=4)
    out, same = transform(as_given(image), as_given(label))
    result = transform.last_result
    assert isinstance(result, DrawnResult) and result.draw_dice.shape == (4, 1)
    assert torch.equal(torch.as_tensor(same), label) and tuple(out.shape) == tuple(image.shape)
    expected = WorstOf(NOISE, 4)(NumpyNetwork(), image[None], label[None])
    torch.testing.assert_close(torch.as_tensor(np.asarray(out)), expected.adversarial[0])


def test_the_dictionary_form_moves_labels_and_further_images_by_the_same_draw() -> None:
    image, label = one_case()
    data = {"image": MetaTensor(image), "second": MetaTensor(label.float()), "label": MetaTensor(label.to(torch.uint8))}
    transform = T.AdvWorstOfd(("image", "second"), NumpyNetwork(), MOVED, 3, "label", mode=("bilinear", "bilinear"))
    out = transform(data)
    assert not torch.equal(out["label"], data["label"]) and out["label"].dtype == torch.uint8
    second, moved = out["second"] > 0.5, out["label"] > 0
    assert float(2 * (second & moved).sum() / (second.sum() + moved.sum())) > 0.93
    assert "WorstOf(RandomTransform(RandAffine" in out["image"].applied_operations[-1]["extra_info"]["attack"]
    with pytest.raises(NotImplementedError, match="cannot be undone"):
        transform.inverse(out)


def test_changes_of_intensity_stay_in_the_inverse() -> None:
    image, label = one_case()
    transform = T.AdvWorstOfd("image", NumpyNetwork(), NOISE, 3, label_key="label")
    out = transform({"image": MetaTensor(image), "label": MetaTensor(label)})
    assert torch.equal(transform.inverse(out)["image"], out["image"])


def test_names_of_the_dictionary_form() -> None:
    assert T.AdvWorstOfD is T.AdvWorstOfDict is T.AdvWorstOfd


def test_it_is_copied_and_pickled() -> None:
    image, label = one_case()
    transform = T.AdvWorstOf(SmoothThreshold(), MOVED, draws=3)
    expected = transform(image, label)[0]
    for made in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(made(image, label)[0], expected)


@pytest.mark.parametrize("name", ["MONAI", "TorchIO"])
def test_threads_do_not_touch_each_other(name: str) -> None:
    moved: Any = MOVED if name == "MONAI" else pytest.importorskip("torchio").RandomAffine(degrees=20)
    attack, model = WorstOf(moved, 3), AttackedModel(SmoothThreshold())
    batches = [bright_boxes(batch=1, seed=seed) for seed in range(4)]
    expected = [attack(model, *batch).adversarial for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: attack(model, *batch).adversarial, batches))
    assert all(map(torch.equal, found, expected))
