# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_adversarial.transforms as T
from monai_adversarial.transforms import AdvSpeckle, AdvSpeckled, RandSpeckleNoise, RandSpeckleNoised
from tests.helpers import TEST_NDARRAYS, random_image, random_label, tiny_segmentation_network

SHAPE = (1, 16, 16, 16)


@pytest.mark.parametrize("kind", TEST_NDARRAYS)
@pytest.mark.parametrize("distribution", ["normal", "uniform", "gamma"])
@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_random_speckle_is_in_proportion_to_the_signal(kind, distribution: str, grain: float) -> None:
    values = np.full(SHAPE, 500.0, dtype=np.float32)
    values[:, :8] = -1000.0
    transform = RandSpeckleNoise(1.0, 0.1, distribution, grain, zero=-1000.0).set_random_state(0)
    out = transform(kind(values))
    assert out.dtype == torch.float32 and isinstance(out, MetaTensor)
    out = np.asarray(out.cpu())
    assert (out[:, :8] == -1000).all()
    assert (out[:, 8:] + 1000).std() / 1500 == pytest.approx(0.1, rel=0.1)
    again = RandSpeckleNoise(1.0, 0.1, distribution, grain, zero=-1000.0).set_random_state(0)(values)
    np.testing.assert_array_equal(np.asarray(again), out)


def test_dictionary_form_equals_array_form_and_keys_share_the_noise() -> None:
    image = random_image(SHAPE)
    pair = RandSpeckleNoised(["a", "b"], prob=1.0, std=0.2).set_random_state(3)({"a": image, "b": 2 * image, "c": 1})
    torch.testing.assert_close(2 * pair["a"], pair["b"])
    assert pair["c"] == 1 and not torch.equal(pair["a"].as_tensor(), image)
    never = RandSpeckleNoised("a", prob=0.0)({"a": image})
    assert torch.equal(never["a"].as_tensor(), image)
    missing = RandSpeckleNoised(["a", "z"], prob=1.0, allow_missing_keys=True)({"a": image})
    assert set(missing) == {"a"}
    with pytest.raises(KeyError):
        RandSpeckleNoised("z", prob=1.0)({"a": image})


def test_adversarial_pair() -> None:
    network, data = tiny_segmentation_network(), {"image": random_image(SHAPE), "label": random_label(SHAPE)}
    out = AdvSpeckled("image", network, rho=0.1, label_key="label", steps=2)(data)
    array = AdvSpeckle(network, 0.1, steps=2)
    alone, _ = array(data["image"], data["label"])
    torch.testing.assert_close(out["image"].as_tensor(), alone.as_tensor())
    assert bool(((alone - data["image"]).abs() <= 0.1 * data["image"] + 1e-6).all())
    assert array.last_result is not None and array.last_result.budgets["speckle"].limit == 0.1


@pytest.mark.parametrize("name", ["AdvSpeckle", "RandSpeckleNoise"])
def test_aliases(name: str) -> None:
    assert getattr(T, f"{name}D") is getattr(T, f"{name}Dict") is getattr(T, f"{name}d")
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(T.__all__)
