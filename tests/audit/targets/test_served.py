# SPDX-License-Identifier: Apache-2.0
"""Served models as targets, against a real HTTP server on the loopback address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.exported import read_exported
from monai_adversarial.audit.targets.kserve import NotAnswered, split_url
from monai_adversarial.audit.targets.served import read_served
from tests.audit.targets.exported_networks import WINDOW, Blob, attacked_by_queries, write_image
from tests.audit.targets.kserve_server import Served, serving

pytest.importorskip("tritonclient.http")

TOLD = {"window": WINDOW, "orientation": "file", "roi_size": (16, 16, 16)}
QUICK: dict[str, Any] = {"first_wait": 0.01, "timeout": 5.0}


def blob(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return Blob()(torch.tensor(image, dtype=torch.float32)).numpy()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(Served(blob)) as one:
        yield one


def test_it_answers_as_the_network_does(served: Served) -> None:
    parts = read_served(served.url, "spleen", TOLD, **QUICK)
    with parts.resources:
        assert (parts.kind, parts.name, parts.differentiable, list(parts.missing)) == ("served", "spleen", False, [])
        noise = torch.rand(2, 1, 16, 16, 16)
        assert torch.allclose(parts.network(noise), Blob()(noise), atol=1e-6)
        text = "\n".join(map(str, parts.facts))
        assert "server: test-server 1.0" in text and "tensor: 'INPUT__0' FP32 -1 x 1 x -1 x -1 x -1" in text
        assert "127.0.0.1" not in text and set(parts.hashes) == {"metadata"}


def test_queries_and_requests_are_those_of_the_server(served: Served, tmp_path: Path) -> None:
    parts = read_served(served.url, "spleen", {**TOLD, "sw_batch_size": 4}, **QUICK)
    with parts.resources:
        served.faults += [503, "close", 429]
        result = attacked_by_queries(parts, write_image(tmp_path / "scan.nii.gz"))
        assert float(result.adversarial_dice) < float(result.clean_dice) == 1
        model = parts.network.function
        assert parts.network.samples == served.samples
        assert model.requests == served.seen == parts.network.calls + 3


@pytest.mark.parametrize("fault", [503, "close", "slow"])
def test_retries_are_bounded(served: Served, fault: Any) -> None:
    parts = read_served(served.url, "spleen", TOLD, retries=2, first_wait=0.01, timeout=0.3)
    with parts.resources:
        served.delay, served.faults = 0.8, [fault] * 9
        seen, answered = served.seen, parts.network.calls
        with pytest.raises(NotAnswered, match="no answer from the server at 127.0.0.1:.* in 3 tries"):
            parts.network(torch.rand(1, 1, 16, 16, 16))
        assert served.seen - seen == 3 and parts.network.calls == answered
        served.faults = []
        assert parts.network(torch.rand(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


def test_what_the_server_refuses_is_not_asked_again(served: Served) -> None:
    parts = read_served(served.url, "spleen", TOLD, **QUICK)
    with parts.resources:
        seen = served.seen
        with pytest.raises(TargetError, match="the server refuses 'spleen': 400: unexpected shape for input"):
            parts.network(torch.rand(1, 3, 16, 16, 16))
        assert served.seen - seen == 1


def test_a_largest_batch_is_kept_to() -> None:
    with serving(Served(blob, most=2)) as served:
        parts = read_served(served.url, "spleen", TOLD, **QUICK)
        with parts.resources:
            assert "largest batch: 2 (the server's configuration)" in map(str, parts.facts)
            before = parts.network.calls
            assert parts.network(torch.rand(5, 1, 16, 16, 16)).shape[0] == 5
            assert parts.network.calls - before == 3


def test_a_fixed_shape_becomes_the_size_of_the_windows() -> None:
    with serving(Served(blob, shape=(1, 1, 16, 16, 16))) as served:
        parts = read_served(served.url, "spleen", {"window": WINDOW}, **QUICK)
        with parts.resources:
            assert tuple(parts.inferer.roi_size) == (16, 16, 16)  # type: ignore[union-attr]
            before = parts.network.samples
            assert parts.network(torch.rand(2, 1, 16, 16, 16)).shape[0] == 2
            assert parts.network.samples - before == 2


@pytest.mark.parametrize(("datatype", "binary"), [("FP16", True), ("FP32", False)])
def test_half_precision_and_json_tensors(datatype: str, binary: bool) -> None:
    with serving(Served(blob, datatype=datatype, binary=binary)) as served:
        parts = read_served(served.url, "spleen", {"window": WINDOW, "roi_size": (8, 8, 8)}, **QUICK)
        with parts.resources:
            noise = torch.rand(1, 1, 8, 8, 8)
            answer = parts.network(noise)
            assert answer.dtype == torch.float32
            assert torch.allclose(answer, Blob()(noise), atol=0.05)


def test_each_thread_has_its_own_connection(served: Served) -> None:
    parts = read_served(served.url, "spleen", TOLD, **QUICK)
    noise = torch.rand(4, 1, 16, 16, 16)
    answers: dict[int, torch.Tensor] = {}

    def ask(number: int) -> None:
        answers[number] = parts.network(noise[number : number + 1])

    with parts.resources:
        before = parts.network.samples
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        expected = Blob()(noise)
        assert all(torch.allclose(answers[number][0], expected[number], atol=1e-6) for number in range(4))
        assert parts.network.samples - before == 4


def test_headers_are_sent_and_not_shown(served: Served) -> None:
    parts = read_served(served.url, "spleen", TOLD, headers={"Authorization": "Bearer abc"}, **QUICK)
    with parts.resources:
        assert served.headers["Authorization"] == "Bearer abc"
        assert "abc" not in str([*map(str, parts.facts), parts.hashes, parts.told])


def test_a_server_that_is_away_is_one_sentence(served: Served) -> None:
    with serving(Served(blob)) as other:
        pass
    with pytest.raises(TargetError, match="no answer from the server at 127.0.0.1:[0-9]+ in 2 tries"):
        read_served(other.url, "spleen", TOLD, retries=1, first_wait=0.01)


def test_a_model_that_is_missing_is_one_sentence(served: Served) -> None:
    with pytest.raises(TargetError, match="the server has no model 'liver' that is ready: .*404"):
        read_served(served.url, "liver", TOLD, **QUICK)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inputs": 2}, r"takes 2 inputs \(INPUT__0, INPUT__1\), expected one image"),
        ({"datatype": "INT64"}, "takes INT64, expected FP32 or FP16"),
        ({"shape": (-1, 10)}, "takes an input with 2 axes"),
        ({"datatype": "FP16", "binary": False}, "takes FP16, but the server sends no binary tensors"),
        ({"function": lambda image: image[:, :, ::2]}, "on the image's grid"),
    ],
)
def test_what_cannot_be_attacked_is_refused(change: dict[str, Any], sentence: str) -> None:
    with serving(Served(**{"function": blob, **change})) as served, pytest.raises(TargetError, match=sentence):
        read_served(served.url, "spleen", TOLD, **QUICK)


def test_probabilities_are_not_guessed() -> None:
    """A server shows no graph: values within 0 and 1 may be either, and a sigmoid over them makes all foreground."""

    def probabilities(image: np.ndarray) -> np.ndarray:
        return 0.9 / (1 + np.exp(-blob(image)))

    with serving(Served(probabilities)) as served:
        parts = read_served(served.url, "spleen", TOLD, **QUICK)
        parts.resources.close()
        assert [missing.what for missing in parts.missing] == ["output values"]
        told = read_served(served.url, "spleen", {**TOLD, "output_values": "probabilities"}, **QUICK)
        told.resources.close()
        assert told.told["activation"] == "sigmoid" and not told.missing


def test_the_url_may_name_the_model(served: Served) -> None:
    parts = read_exported(f"{served.url}/v2/models/spleen/versions/7", TOLD, **QUICK)
    parts.resources.close()
    assert "model version: 7 (the server's metadata)" in map(str, parts.facts)
    bare = read_exported(served.url.removeprefix("http://"), TOLD, model_name="spleen", **QUICK)
    bare.resources.close()
    assert bare.kind == "served"
    with pytest.raises(TargetError, match="model_name is 'liver', but the URL names 'spleen'"):
        read_served(f"{served.url}/v2/models/spleen", "liver", TOLD)
    with pytest.raises(TargetError, match="model_name is not told"):
        read_served(served.url, options=TOLD)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8000", ("localhost:8000", False, None, None)),
        ("https://host/base/v2/models/a%20b", ("host:443/base", True, "a b", None)),
        ("http://[::1]:8000/v2/", ("[::1]:8000", False, None, None)),
    ],
)
def test_urls_are_split(url: str, expected: Any) -> None:
    assert split_url(url) == expected


@pytest.mark.parametrize("url", ["ftp://host:1", "http://user:word@host:1", "http://", "http://host:99999999"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(TargetError, match="served model"):
        split_url(url)


@pytest.mark.parametrize("choice", [{"timeout": 0}, {"retries": -1}, {"retries": True}, {"first_wait": "1"}])
def test_patience_is_checked(choice: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=f"{next(iter(choice))} must be"):
        read_served("localhost:1", "spleen", TOLD, **choice)
