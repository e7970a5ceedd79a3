# SPDX-License-Identifier: Apache-2.0
"""Damaged and foreign files of weights: one sentence, and the network as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.utils.weights import load_weights, save_weights
from tests.hostile.parts import ended


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))


class Foreign:
    """An object that only unrestricted unpickling would make."""


def changed(key: str, make: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = dict(network().state_dict())
        state[key] = make(state[key])
        torch.save(state, path)

    return write


def cut(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(network().state_dict(), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


NAN = float("nan")
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "cannot read"),
    "text": (lambda path: path.write_text("weights"), "cannot read"),
    "a folder": (lambda path: path.mkdir(), "there are no weights"),
    "missing": (lambda path: None, "there are no weights"),
    "cut in the middle": (cut(0.5), "cannot read"),
    "cut at its end": (cut(0.99), "cannot read"),
    "an object": (lambda path: torch.save({"model": Foreign()}, path), "cannot read"),
    "a list": (lambda path: torch.save([1, 2], path), "holds a list"),
    "a number": (lambda path: torch.save(5, path), "holds a int"),
    "another network": (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "another network"),
    "a missing tensor": (lambda path: torch.save({"0.bias": torch.zeros(2)}, path), "another network"),
    "another shape": (changed("0.bias", lambda t: t[:1]), "another shape"),
    "a string": (changed("0.bias", lambda t: "zeros"), "another shape"),
    "NaN": (changed("0.weight", lambda t: t * NAN), "NaN or infinite values in 1 of 7"),
    "infinite": (changed("1.running_var", lambda t: t * float("inf")), "NaN or infinite values in 1 of 7"),
    "complex": (changed("0.weight", lambda t: t + 1j), "complex"),
}


@pytest.mark.parametrize("what", FILES)
def test_such_weights_are_refused_and_change_nothing(what: str, tmp_path: Path) -> None:
    write, says = FILES[what]
    path = tmp_path / "weights.pt"
    write(path)
    made = network()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    status, sentence = ended(lambda: load_weights(made, path))
    assert status == 1 and says in sentence and "weights.pt" in sentence
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_no_damaged_byte_ends_in_another_error(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 20)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        status, sentence = ended(lambda: load_weights(network(), tmp_path / "damaged.pt"))
        refused += status
        assert status == 0 or "damaged.pt" in sentence
    assert refused > 50
