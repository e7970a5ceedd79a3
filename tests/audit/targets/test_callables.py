# SPDX-License-Identifier: Apache-2.0
"""Any Python callable as a target: float32 in and out, each query counted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.attacks import AdditiveNoise, Attack
from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.callables import read_callable
from monai_adversarial.audit.targets.queried_network import QueriedNetwork
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.hashing import network_hash
from tests.audit.targets.exported_networks import (
    WINDOW,
    Blob,
    RandomSearch,
    attacked,
    attacked_by_queries,
    write_image,
)

TOLD = {"window": WINDOW, "orientation": "file", "roi_size": (16, 16, 16)}


def strict(image: np.ndarray) -> np.ndarray:
    """Takes contiguous float32 in host memory and nothing else, changes it in place, and gives its own memory."""
    assert type(image) is np.ndarray and image.dtype == np.float32 and image.flags.c_contiguous
    with torch.no_grad():
        answer = Blob()(torch.tensor(image)).numpy()
    image[:] = 0
    return answer


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_a_numpy_callable_gets_float32_whatever_the_precision(precision: str) -> None:
    network = QueriedNetwork(strict)
    model = AttackedModel(network, precision=precision)
    image = torch.rand(2, 1, 12, 12, 12)
    result = Attack(AdditiveNoise(0.1), search=RandomSearch(), steps=2)(model, image.clone())
    assert network.samples == result.forwards > 0
    assert float(result.adversarial_dice.max()) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_answers_come_back_in_the_type_of_the_image(dtype: torch.dtype) -> None:
    image = torch.rand(2, 1, 8, 8, 8).to(dtype).requires_grad_()
    kept = image.detach().clone()
    answer = QueriedNetwork(strict)(image)
    assert answer.dtype == dtype and not answer.requires_grad
    assert torch.equal(image, kept)


@pytest.mark.parametrize(("batch", "most", "calls"), [(None, None, 1), (2, None, 3), (None, 3, 2), (8, None, 1)])
def test_batches_are_those_that_it_takes(batch: int | None, most: int | None, calls: int) -> None:
    sizes: list[int] = []

    def function(image: np.ndarray) -> np.ndarray:
        sizes.append(len(image))
        return strict(image)

    network = QueriedNetwork(function, batch=batch, most=most)
    image = torch.rand(5, 1, 8, 8, 8)
    assert torch.allclose(network(image), Blob()(image), atol=1e-6)
    assert network.calls == calls == len(sizes)
    assert set(sizes) == {batch} if batch else max(sizes) <= (most or 5)


def test_what_fills_a_batch_up_is_no_query() -> None:
    network = QueriedNetwork(strict, batch=4)
    network(torch.rand(5, 1, 8, 8, 8))
    assert network.samples == 5


def test_copies_share_the_callable_and_the_counter() -> None:
    """An attack outside the main thread works on a copy; a session cannot be copied."""
    network = QueriedNetwork(strict, identity="ab12")
    copied = copy.deepcopy(network)
    copied(torch.rand(1, 1, 8, 8, 8))
    assert copied is not network and network.samples == 1 and copied.function is network.function


def test_another_identity_is_another_network() -> None:
    one, same, other = (QueriedNetwork(strict, identity=text) for text in ("ab", "ab", "cd"))
    assert network_hash(one) == network_hash(same) != network_hash(other)


def test_a_numpy_callable_is_read_and_attacked_by_queries(tmp_path: Path) -> None:
    parts = read_callable(strict, TOLD)
    assert (parts.kind, parts.name, parts.differentiable) == ("callable", "strict", False)
    result = attacked_by_queries(parts, write_image(tmp_path / "scan.nii.gz"))
    assert float(result.adversarial_dice) < float(result.clean_dice) == 1


def test_a_module_and_a_function_of_tensors_keep_their_gradients(tmp_path: Path) -> None:
    network = Blob(end="softmax")
    image = write_image(tmp_path / "scan.nii.gz")
    for parts in (
        read_callable(network, TOLD),
        read_callable(lambda image: network(image), TOLD, takes="torch", name="a function"),
    ):
        assert parts.differentiable and parts.told["activation"] == "softmax"
        assert float(attacked(parts, image, budget=16).adversarial_dice) < 0.3
    assert read_callable(network, TOLD).hashes == {"weights": network_hash(network)}


def test_a_function_of_tensors_without_a_graph_is_queried() -> None:
    network = Blob()

    def detached(image: torch.Tensor) -> torch.Tensor:
        assert image.dtype == torch.float32
        return network(image).detach()

    parts = read_callable(detached, TOLD, takes="torch")
    assert not parts.differentiable
    assert "gradients: no: its answer has no graph; attacked by queries (an image of noise)" in map(str, parts.facts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert parts.network(torch.rand(1, 1, 8, 8, 8).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "choices", "sentence"),
    [
        (lambda image: image.argmax(axis=1), {}, "int64 .*a finished segmentation"),
        (lambda image: 1 / 0, {}, "fails on images of noise of .*ZeroDivisionError"),
        (lambda image: "no", {}, "--output|expected a tensor"),
        (lambda image: image * np.nan, {}, "NaN or infinite"),
        (lambda image: [image, image], {}, "tell which one is the segmentation with --output"),
        (strict, {"takes": "jax"}, "takes must be 'torch' or 'numpy', got 'jax'"),
        (strict, {"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3"),
        (strict, {"device": "nowhere"}, "device must be such as"),
        (Blob(), {"takes": "numpy"}, "a torch.nn.Module takes tensors"),
        ("text", {}, "must be callable, got str"),
    ],
)
def test_what_cannot_be_attacked_is_refused(function: Any, choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        read_callable(function, TOLD, **choices)


def test_a_told_output_is_taken() -> None:
    def two(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"blurred": image * 9 - 4, "classes": strict(image)}

    parts = read_callable(two, {**TOLD, "output": "classes"})
    assert parts.network(torch.rand(1, 1, 8, 8, 8)).shape[1] == 2
    with pytest.raises(TargetError, match="output must be one of 'blurred', 'classes', got 'logits'"):
        read_callable(two, {**TOLD, "output": "logits"})


def test_an_answer_on_another_grid_later_is_an_error() -> None:
    network = QueriedNetwork(lambda image: image[..., :4], name="half")
    with pytest.raises(ValueError, match=r"half returns .* for images \(1, 1, 8, 8, 8\)"):
        network(torch.rand(1, 1, 8, 8, 8))
